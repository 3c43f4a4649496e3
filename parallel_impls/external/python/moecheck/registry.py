"""The implementations that a program offers, and what they say that they can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from moecheck.case import Case, Unsupported
from moecheck.taps import KNOWN

PROTOCOL = 1
_PHASES = ("load", "forward", "backward", "step", "save")

# Knobs that a layer may well not look at, and what they are in a plain layer. Whoever heeds one says so; for the others such a case is
# refused, since it would be run as something else.
_PLAIN = {"recompute": "false", "loader": "sliced", "apply_scores": "after_experts", "softmax": "before_topk", "expert_tp": "tp"}

Make = TypeVar("Make", bound=Callable[..., Any])


@dataclass(frozen=True)
class Subject:
    name: str
    make: Callable[..., Any]
    summary: str
    mesh_dims: tuple[str, ...]
    backends: tuple[str, ...]
    dtypes: tuple[str, ...]
    phases: tuple[str, ...]
    heeds: tuple[str, ...]

    def refusal(self, case: Case) -> str:
        """Why the case is outside of what is declared; empty if it is inside."""
        for dim, _ in case.mesh.dims:
            if dim not in self.mesh_dims:
                return f"{self.name} does not support mesh dimension {dim}"
        if case.experts_backend not in self.backends:
            return f"{self.name} has no experts backend '{case.experts_backend}'"
        if case.dtype not in self.dtypes:
            return f"{self.name} does not support dtype {case.dtype}"
        if case.device != "cpu":
            return f"{self.name} does not offer device {case.device}"
        for phase in case.phases:
            if phase not in self.phases:
                return f"{self.name} does not offer phase {phase}"
        if case.knobs.get("save", "none") != "none" and "save" not in self.phases:
            return f"{self.name} does not offer phase save"
        if case.knobs.get("fault", "none") != "none":
            return f"{self.name} has no faults"
        return self._unheeded(case)

    def _unheeded(self, case: Case) -> str:
        for knob, plain in _PLAIN.items():
            if knob not in self.heeds and case.knobs.get(knob, plain) != plain:
                return f"{self.name} does not heed {knob}={case.knobs[knob]}"
        if "activation" not in self.heeds and not case.model.activation.is_silu:
            return f"{self.name} does not heed the activation of {case.model.family}: it computes silu"
        if "routed_scale" not in self.heeds and case.model.routed_scale != 1:
            return f"{self.name} does not heed routed_scale={case.model.routed_scale:g}"
        for dim in ("ep", "tp"):
            if "tokens_over" not in self.heeds and case.shards_tokens(dim):
                return f"{self.name} does not support tokens that are sharded over {dim}"
        return ""


_subjects: dict[str, Subject] = {}


def subject(name: str, mesh_dims: Sequence[str] = (), backends: Sequence[str] = ("eager",), dtypes: Sequence[str] = ("fp32",),
            phases: Sequence[str] = _PHASES, heeds: Sequence[str] = (), summary: str = "") -> Callable[[Make], Make]:
    """Offers what make(case, ctx) returns, an object to be called with x_TD that returns y_TD, as an implementation.

    heeds: what it looks at, of recompute, loader, apply_scores, softmax, routed_scale, activation (of the family, usually silu), expert_tp
    and tokens_over (tokens sharded over ep or tp). Cases in which another one of these is not as usual are refused.

    make runs once a case on every rank and may raise Unsupported. The object may have
      load()                   the weights, if make did not load them
      after_backward()         to reduce gradients; backward() of the output has run
      backward(grad_y_TD)      instead of autograd's
      step(learning_rate)      instead of the built-in optimizer on fp32 masters; it taps optim/* itself
      save(folder, batch)      instead of the package's save (ctx.saves), in the form that the knob `save` names: complete, or not there
      load_saved(folder)       instead of the package's load of a save: parameters, optimizer, and ctx.saves.blank() for the progress
    """

    def offer(make: Make) -> Make:
        if name in _subjects:
            raise ValueError(f"there are two subjects '{name}'")
        doc = summary or (make.__doc__ or "").strip().partition("\n")[0]
        _subjects[name] = Subject(name, make, doc, tuple(mesh_dims), tuple(backends), tuple(dtypes), tuple(phases),
                                  tuple(heeds))
        return make

    return offer


def find_subject(case: Case) -> Subject:
    """Errors: Unsupported."""
    if case.impl not in _subjects:
        raise Unsupported(f"there is no implementation '{case.impl}'")
    found = _subjects[case.impl]
    if refusal := found.refusal(case):
        raise Unsupported(refusal)
    return found


def describe(program: str, version: str) -> dict[str, Any]:
    """Capabilities, as the protocol has them: what any of the implementations offers."""

    def union(lists: Sequence[Sequence[str]]) -> list[str]:
        return list(dict.fromkeys(item for one in lists for item in one))

    offered = list(_subjects.values())
    implementations = [{"name": s.name, "summary": s.summary, "mesh_dims": s.mesh_dims, "experts_backends": s.backends} for s in offered]
    return {"protocol": PROTOCOL, "name": program, "version": version, "implementations": implementations,
            "dtypes": union([s.dtypes for s in offered]), "devices": ["cpu"], "phases": union([s.phases for s in offered]),
            "taps": sorted(KNOWN), "weight_layouts": ["huggingface"], "faults": [], "fork_server": True}
