"""What a subject is given beside its case: weights, groups, and a place to show what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecheck.case import Case, LocalExperts
from moecheck.comm import Communicator, Groups
from moecheck.mesh import Cut, checked_cuts
from moecheck.taps import GRADIENT_OF, TRAINABLE, Tapper, is_dtensor, local_of
from moecheck.weights import Checkpoint, GeneratedWeights

Of = Callable[[Any], Any]
"""Of a parameter: its values, its gradient, its moments."""


@dataclass(frozen=True)
class ParamTap:
    """A parameter as the driver knows it, and what the subject keeps it in."""

    name: str
    """ "router/w_ED", without param/"""
    parameters: tuple[Any, ...]
    read: Callable[[Of], Any]
    cuts: tuple[Cut, ...]
    global_shape: tuple[int, ...]
    write: Callable[[Of, Any], None] | None = None

    def show(self, tapper: Tapper, prefix: str, of: Of) -> None:
        tensor = self.read(of)
        tapper.show(f"{prefix}/{self.name}", local_of(tensor), self.cuts, self.global_shape)


@dataclass
class _Watched:
    """A shown tensor, perhaps in pieces, whose gradient the backward shows."""

    pieces: list[Any]
    cuts: Sequence[Cut]
    global_shape: Sequence[int] | None


class Context:
    """`rank`, `case`; `weights` generated, `checkpoint` from files; `comm` collectives that the driver sees; `experts_backend`: set it
    to the one that really runs, if that may be another than was asked for."""

    def __init__(self, case: Case, rank: int, local_rank: int, checkpoint: Path, groups: Groups, comm: Communicator) -> None:
        self.case, self.rank, self.local_rank = case, rank, local_rank
        self.experts_backend = case.experts_backend
        self.weights = GeneratedWeights(case, rank)
        self.checkpoint = Checkpoint(case, rank, checkpoint)
        self.comm = comm
        self.tapper = Tapper(case.mesh)
        self.saves: Any = None
        """What a save holds, to write and to read it (moecheck/saves.py); once the case is open."""
        self.params: list[ParamTap] = []
        self.plan_entries: list[dict[str, Any]] = []
        self.declared: dict[str, list[dict[str, Any]]] = {}
        self._groups = groups
        self._rows: dict[str, _Watched] = {}
        self._watched: dict[str, _Watched] = {}

    @property
    def trainable(self) -> list[ParamTap]:
        return [p for name in TRAINABLE for p in self.params if p.name == name]

    @property
    def local_experts(self) -> LocalExperts:
        return self.case.local_experts(self.rank)

    def coordinate(self, dims: str) -> int:
        return self.case.mesh.coordinate(self.rank, dims)

    def group(self, dims: str) -> Any:
        """The process group of torch.distributed over these mesh dimensions."""
        return self.comm.group(dims)

    def device_mesh(self) -> Any:
        """The case's mesh as torch's DeviceMesh. Ranks: every rank of the mesh."""
        return self._groups.device_mesh(self.case.mesh)

    # Parameters.

    def parameter(self, tap: str, value: Any, cuts: Iterable[Cut] = ()) -> Any:
        """Makes a parameter of a rank's part of param/*, or takes one that is there, and shows it, its gradient and its optimizer state
        from then on. A DTensor says itself how it lies."""
        import torch

        is_trainable = tap.removeprefix("param/") in TRAINABLE
        parameter = value if isinstance(value, torch.nn.Parameter) else torch.nn.Parameter(value, requires_grad=is_trainable)
        self.parameter_of(tap, [parameter], lambda of: of(parameter), None if is_dtensor(parameter) else cuts)
        return parameter

    def parameter_of(self, tap: str, parameters: Sequence[Any], read: Callable[[Of], Any],
                     cuts: Iterable[Cut] | None = None, write: Callable[[Of, Any], None] | None = None) -> None:
        """The same where the subject keeps it in other parameters. read: makes the tap of what it is told of each of them, as in
        lambda of: torch.stack([torch.cat([of(x.w1), of(x.w3)]) for x in experts]). cuts: how that lies; if not given, as a single
        DTensor says. write(of, tensor): the way back, for loading a save: fills what `of` gives; needed where read does more than to
        move elements."""
        from moecheck.taps import cuts_of_dtensor

        shape = self.case.param_shape(tap)
        is_told = cuts is not None or len(parameters) != 1 or not is_dtensor(parameters[0])
        lies = checked_cuts(cuts or ()) if is_told else cuts_of_dtensor(parameters[0])
        known = ParamTap(tap.removeprefix("param/"), tuple(parameters), read, tuple(lies), tuple(shape), write)
        self.params.append(known)
        known.show(self.tapper, "param", lambda p: local_of(p.detach()))

    def parameters(self, experts: Sequence[int], expert_cuts: Iterable[Cut] = ()) -> Any:
        """The canonical parameters from `weights`, with those experts (global ids) and everything else whole, as a ParameterDict:
        attention_DD, router_ED, gate_up_EGD, down_EDF."""
        import torch

        cuts, weights = list(expert_cuts), self.weights
        return torch.nn.ParameterDict({
            "attention_DD": self.parameter("param/attention/w_DD", weights.attention_DD()),
            "router_ED": self.parameter("param/router/w_ED", weights.router_ED()),
            "gate_up_EGD": self.parameter("param/experts/gate_up_EGD", weights.gate_up_EGD(experts), cuts),
            "down_EDF": self.parameter("param/experts/down_EDF", weights.down_EDF(experts), cuts)})

    # What a phase shows.

    def tap(self, name: str, tensor: Any, cuts: Iterable[Cut] = (), global_shape: Sequence[int] | None = None) -> Any:
        """Shows a rank's local tensor as it is now, and after a backward its gradient. Returns the tensor."""
        self.tapper.show(name, tensor, cuts, global_shape)
        if self._is_watched(name, tensor):
            self._watched[name] = _Watched([tensor], list(cuts), global_shape)
        return tensor

    def tap_rows(self, name: str, rows: Any, cuts: Iterable[Cut] = (), global_shape: Sequence[int] | None = None) -> Any:
        """The same for a tensor that comes in pieces along dim 0, as from one expert after the other. Returns the piece."""
        kept = self._rows.setdefault(name, _Watched([], list(cuts), global_shape))
        kept.pieces.append(rows)
        self._is_watched(name, rows)
        return rows

    def watch(self, module: Any, output: str = "", input: str = "", select: Callable[[Any], Any] | None = None) -> None:
        """Taps a module's output (or what `select` takes of it) or its first input, each time it runs."""

        def hook(_: Any, inputs: tuple[Any, ...], result: Any) -> None:
            if input:
                self.tap(input, inputs[0])
            if output:
                self.tap(output, select(result) if select else result)

        module.register_forward_hook(hook)

    def row_keys(self, token_R: Any, slot_R: Any, expert: int) -> Any:
        """Rows of dispatch/rows_R3 from indices of the rank's own tokens, their slots, and the global id of one expert."""
        import torch

        return torch.stack([token_R + self.first_token, slot_R, torch.full_like(token_R, expert)], dim=1)

    @property
    def first_token(self) -> int:
        """Global index of the rank's first token in this batch; tokens are named by their index over all token shards of a batch."""
        return self.case.first_token(self.rank)

    # What a subject may say of itself.

    def plan(self, pattern: str, style: str, cuts: Iterable[Cut], parameters: Sequence[str]) -> None:
        """An entry of the parallel plan as it was applied, with the taps that it took hold of."""
        self.plan_entries.append({"pattern": pattern, "style": style, "cuts": checked_cuts(cuts), "parameters": list(parameters)})

    def declare(self, phase: str, kind: str, dims: str, site: str = "", times: int = 1, num_bytes: int = -1) -> None:
        """What the subject is meant to send in each batch's phase; -1: as many bytes as the routing asks for."""
        group = self.case.mesh.group_name(dims)
        if group:
            self.declared.setdefault(phase, []).append({"kind": kind, "group": group, "site": site, "times": times, "bytes": num_bytes})

    # For the session.

    def begin_batch(self) -> None:
        self._rows, self._watched = {}, {}
        for param in self.params:
            for one in param.parameters:
                one.grad = None

    def join_rows(self) -> None:
        """Shows what came in pieces."""
        import torch

        for name, kept in self._rows.items():
            if name not in self._watched:
                self.tapper.show(name, torch.cat([local_of(piece) for piece in kept.pieces]), kept.cuts, kept.global_shape)
                self._watched[name] = kept

    def show_gradients(self) -> None:
        for name, watched in self._watched.items():
            if name not in GRADIENT_OF:
                continue
            gradients = [piece.grad if piece.grad is not None else _zeros(piece) for piece in watched.pieces]
            self.tapper.show(GRADIENT_OF[name], *_joined(gradients, watched))
        for param in self.trainable:
            param.show(self.tapper, "grad", gradient_of)

    def _is_watched(self, name: str, tensor: Any) -> bool:
        if name not in GRADIENT_OF or not getattr(tensor, "requires_grad", False):
            return False
        tensor.retain_grad()
        return True


def gradient_of(parameter: Any) -> Any:
    """As gradient buffers have it: zeros where no gradient arrived."""
    return local_of(parameter.grad) if parameter.grad is not None else _zeros(local_of(parameter))


def _zeros(tensor: Any) -> Any:
    return tensor.detach().new_zeros(tensor.shape)


def _joined(gradients: list[Any], watched: _Watched) -> tuple[Any, Any, Any]:
    import torch

    if len(gradients) == 1:
        return gradients[0], watched.cuts, watched.global_shape
    return torch.cat([local_of(g) for g in gradients]), watched.cuts, watched.global_shape
