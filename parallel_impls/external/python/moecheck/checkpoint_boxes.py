"""What a rank holds of a global tensor, as boxes of adjacent indices (harness/checkpoint/box.h, save_rank.h)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moecheck.mesh import Cut, Mesh, held_indices


@dataclass(frozen=True, order=True)
class Box:
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def is_inside(self, shape: Sequence[int]) -> bool:
        return len(self.offset) == len(shape) and all(o + n <= size for o, n, size in zip(self.offset, self.shape, shape, strict=True))

    def overlaps(self, other: Box) -> bool:
        return all(a < b + m and b < a + n for a, n, b, m in zip(self.offset, self.shape, other.offset, other.shape, strict=True))

    def __str__(self) -> str:
        return f"[{', '.join(f'{o}:{o + n}' for o, n in zip(self.offset, self.shape, strict=True))}]"


@lru_cache(maxsize=4096)
def held(cuts: tuple[Cut, ...], shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[tuple[int, ...], ...]:
    """Global indices that a rank holds, for each dimension, in local order."""
    return tuple(tuple(held_indices(cuts, size, dim, mesh, rank)) for dim, size in enumerate(shape))


def _runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Adjacent indices as (global, local, count)."""
    runs: list[tuple[int, int, int]] = []
    for local, index in enumerate(indices):
        if runs and runs[-1][0] + runs[-1][2] == index:
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((index, local, 1))
    return runs


def held_boxes(cuts: tuple[Cut, ...], shape: tuple[int, ...], mesh: Mesh, rank: int) -> list[tuple[Box, Box]]:
    """Each box of the global tensor with its place in the local one; none if the rank holds nothing."""
    runs = [_runs(indices) for indices in held(cuts, shape, mesh, rank)]
    return [(Box(tuple(r[0] for r in one), tuple(r[2] for r in one)), Box(tuple(r[1] for r in one), tuple(r[2] for r in one)))
            for one in itertools.product(*runs)]


def replica_number(cuts: tuple[Cut, ...], shape: tuple[int, ...], mesh: Mesh, rank: int) -> int:
    """Among the ranks that hold the same, by rank; 0 is the original."""
    mine = held(cuts, shape, mesh, rank)
    return sum(held(cuts, shape, mesh, other) == mine for other in range(rank))


def keys_of(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}#{i}" for i in range(count)]


def cut_out(array: np.ndarray, box: Box) -> np.ndarray:
    return array[tuple(slice(o, o + n) for o, n in zip(box.offset, box.shape, strict=True))]
