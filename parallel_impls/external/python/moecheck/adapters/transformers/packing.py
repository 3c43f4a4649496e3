"""How the module of a family keeps its experts' weights, beside how the driver knows them: (E, 2F, D) with gate rows before up rows, and
(E, D, F)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moecheck.case import Unsupported
from moecheck.mesh import Cut

GATE_UP, DOWN = "param/experts/gate_up_EGD", "param/experts/down_EDF"
_BY_EXPERTS = ("Shard(0)", "StridedShard(0,")


@dataclass(frozen=True)
class Packing:
    is_interleaved: bool
    """(E, D, 2F) with the columns of gate and up in turns, and (E, F, D), as in GPT-OSS; else as the driver has it."""

    def canonical(self, tap: str, kept: Any) -> Any:
        """Of a whole tensor or of one that was cut by experts."""
        if not self.is_interleaved or tap not in (GATE_UP, DOWN):
            return kept
        if tap == DOWN:
            return kept.transpose(1, 2)
        return kept.unflatten(2, (kept.shape[2] // 2, 2)).permute(0, 3, 2, 1).flatten(1, 2)

    def kept(self, tap: str, canonical: Any) -> Any:
        """The way back."""
        if not self.is_interleaved or tap not in (GATE_UP, DOWN):
            return canonical
        if tap == DOWN:
            return canonical.transpose(1, 2)
        return canonical.unflatten(1, (2, canonical.shape[1] // 2)).permute(0, 3, 2, 1).flatten(2, 3)

    def canonical_cuts(self, tap: str, cuts: Iterable[Cut]) -> list[Cut]:
        """Of what was cut as the module keeps it. Errors: Unsupported."""
        said = list(cuts)
        if self.is_interleaved and tap in (GATE_UP, DOWN) and not all(placement.startswith(_BY_EXPERTS) for _, placement in said):
            raise Unsupported(f"experts that are kept transposed are cut as {said}: this adapter knows cuts by whole experts only")
        return said


ROWS, INTERLEAVED = Packing(is_interleaved=False), Packing(is_interleaved=True)
