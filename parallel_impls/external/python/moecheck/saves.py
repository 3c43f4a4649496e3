"""ctx.saves: what a save holds of this rank, written and read in the form that the case asks for. The session does it for a subject; one
with save() and load_saved() of its own may use it too. Imports torch."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from moecheck.case import Unsupported
from moecheck.checkpoint_commit import latest_save
from moecheck.checkpoint_index import why_no_checksums
from moecheck.checkpoint_read import Save, open_save
from moecheck.checkpoint_state import StateTensor, put_into
from moecheck.checkpoint_write import write_huggingface, write_sharded
from moecheck.context import Context, ParamTap
from moecheck.dtypes import to_torch
from moecheck.safetensors_file import FileFailure
from moecheck.taps import PARAMETERS, local_of
from moecheck.training import Progress, Training

POINTS = ("staged", "torn", "files", "index", "committed")
_LEAVE_AFTER = 600.0


class Saves:
    def __init__(self, ctx: Context, progress: Progress, send: Callable[[dict[str, Any]], None]) -> None:
        self._ctx, self._progress, self._send = ctx, progress, send
        self._hold_at = "none"
        self.training: Training | None = None
        """The built-in optimizer, once the layer is loaded."""

    @property
    def is_sharded(self) -> bool:
        return self._ctx.case.knobs.get("save") == "sharded"

    def refusal(self) -> str:
        """Why such saves cannot be made here; empty if they can."""
        return why_no_checksums() if self.is_sharded else ""

    def held(self) -> list[StateTensor]:
        """Of this rank, now: parameters, and of a training the built-in optimizer's state and the progress."""
        return [*self._parameters(), *self._training_state()]

    def write(self, folder: Path, state: Sequence[StateTensor] | None = None) -> None:
        """A save of `state`, of what is held if none is given: complete or not there.
        Ranks: every rank of the mesh. Errors: FileFailure, Unsupported, ValueError."""
        reached = self.reached if self._hold_at != "none" else None
        held = self.held() if state is None else state
        if state is None:
            self._refuse_incomplete({one.name for one in held})
        (write_sharded if self.is_sharded else write_huggingface)(self._ctx, Path(folder), held, reached)

    def open(self, folder: Path) -> Save:
        """Errors: FileFailure for a damaged one, with the file."""
        return open_save(self._ctx.case, self._ctx.rank, Path(folder))

    def blank(self, names: Iterable[str]) -> list[StateTensor]:
        """What is held, of these names; to be filled by `put`. Moments that a fresh optimizer lacks are made, and blank. A parameter that
        is put is the optimizer's master too, until that is put."""
        wanted = set(names)
        if self.training is not None:
            self.training.make_moments(wanted)
        return [one for one in self.held() if one.name in wanted]

    def read(self, folder: Path) -> None:
        """Loads all of a save. Errors: FileFailure."""
        save = self.open(folder)
        if missing := [one.name for one in self._parameters() if one.name not in save.names]:
            raise FileFailure(f"checkpoint {save.folder} has no tensor '{missing[0]}'")
        for one in self.blank(save.names):
            part = to_torch(save.part(one.name, one.cuts))
            if part.shape != one.tensor.shape or part.dtype != one.tensor.dtype:
                raise FileFailure(f"checkpoint {save.folder}: '{one.name}' makes {part.dtype} {list(part.shape)} here, a rank keeps "
                                  f"{one.tensor.dtype} {list(one.tensor.shape)}")
            one.put(part)

    def reached(self, point: str) -> None:
        """For a save of one's own: says where it stands, and waits there to be killed if the case wants that."""
        if point != self._hold_at:
            return
        self._send({"event": "at", "point": point})
        time.sleep(_LEAVE_AFTER)
        raise RuntimeError(f"held at '{point}' of a save, and nobody came")

    # For the session.

    def newest(self, root: str) -> tuple[Path, int]:
        """Errors: FileFailure if there is none."""
        found = latest_save(Path(root))
        return found.folder, found.steps

    def hold_at(self, point: str) -> None:
        if point not in ("none", *POINTS):
            raise Unsupported(f"this rank knows no point '{point}' of a save")
        self._hold_at = point

    def show(self, with_parameters: bool) -> None:
        """As it begins or was restored."""
        for one in [*(self._parameters() if with_parameters else []), *self._training_state()]:
            self._ctx.tapper.show(one.name, one.tensor, one.cuts, one.global_shape)

    def _parameters(self) -> list[StateTensor]:
        in_order = sorted(self._ctx.params, key=lambda param: PARAMETERS.index(f"param/{param.name}"))
        return [StateTensor(f"param/{param.name}", _read(param), param.cuts, param.global_shape,
                            functools.partial(self._put, param)) for param in in_order]

    def _put(self, param: ParamTap, tensor: torch.Tensor) -> None:
        put_into(param, [(p, local_of(p.detach())) for p in param.parameters], tensor)
        if self.training is not None:
            self.training.take_weights(param)

    def _training_state(self) -> list[StateTensor]:
        if not self._ctx.case.has_phase("step"):
            return []
        return [*(self.training.state() if self.training is not None else []), *self._progress.state()]

    def _refuse_incomplete(self, held: set[str]) -> None:
        """What the package cannot know of."""
        name = self._ctx.case.impl
        if missing := [tap for tap in PARAMETERS if tap not in held]:
            raise Unsupported(f"a save holds {missing[0]}, which {name} does not make known with ctx.parameter")
        if self.is_sharded and self._ctx.case.has_phase("step"):
            if self.training is None:
                raise Unsupported(f"{name} brings its own optimizer; with save(folder, batch) and load_saved(folder) it can be saved too")
            if not self._progress.counts_tokens:
                raise Unsupported(f"a save holds state/tokens_E, which is counted from router/ids_TK, which {name} does not show")


def _read(param: ParamTap) -> torch.Tensor:
    return local_of(param.read(lambda p: local_of(p.detach()))).detach().clone()
