"""Meshes and placements, as the driver understands them (harness/model/mesh.h, placement.h).

Where a dimension of a mesh is asked for, several may be named, "ep,tp": they count as one, the first outermost. Names that the mesh
does not have count as dimensions of size 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Cut = tuple[str, str]
"""A placement over mesh dimensions: ("ep", "Shard(0)"), ("tp", "StridedShard(1,2)"), ("tp", "Partial")."""

_PLACEMENT = re.compile(r"Replicate|Partial|Shard\((\d+)\)|StridedShard\((\d+),([1-9]\d*)\)")


@dataclass(frozen=True)
class Mesh:
    dims: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def parse(text: str) -> Mesh:
        if text == "none":
            return Mesh()
        return Mesh(tuple((name, int(size)) for name, size in (part.split("=") for part in text.split(","))))

    @property
    def world_size(self) -> int:
        return self.size(",".join(name for name, _ in self.dims))

    def size(self, dims: str) -> int:
        total = 1
        for wanted in dims.split(","):
            total *= dict(self.dims).get(wanted, 1)
        return total

    @property
    def text(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.dims) or "none"

    @property
    def all_dims(self) -> str:
        """Over these a rank's coordinate is its number."""
        return ",".join(name for name, _ in self.dims)

    def coordinate(self, rank: int, dims: str) -> int:
        flat = 0
        for wanted in dims.split(","):
            stride = self.world_size
            for name, size in self.dims:
                stride //= size
                if name == wanted:
                    flat = flat * size + rank // stride % size
        return flat

    def group(self, rank: int, dims: str) -> list[int]:
        """Ranks that differ from `rank` in `dims` only, in the order of their coordinates."""
        fixed = [name for name, _ in self.dims if name not in dims.split(",")]
        members = [r for r in range(self.world_size) if all(self.coordinate(r, d) == self.coordinate(rank, d) for d in fixed)]
        return sorted(members, key=lambda r: self.coordinate(r, dims))

    def group_name(self, dims: str) -> str:
        """ "ep" for "ep,tp" where there is no tp: the dimensions that count; "" for none."""
        return ",".join(name for name in dims.split(",") if self.size(name) > 1)


def checked_cuts(cuts: Iterable[Sequence[str]]) -> list[Cut]:
    """Errors: ValueError for what is no placement."""
    checked: list[Cut] = []
    for dims, placement in cuts:
        if not _PLACEMENT.fullmatch(str(placement)):
            raise ValueError(f"placement '{placement}' is none of Replicate, Shard(dim), StridedShard(dim,blocks), Partial")
        checked.append((str(dims), str(placement)))
    return checked


def pieces(size: int, blocks: int, c: int, n: int) -> list[int]:
    """Of `size` indices those of rank c of n: of each block a piece, the first ones the larger."""
    block = size // blocks
    piece = -(-block // n)
    return [b * block + i for b in range(blocks) for i in range(c * piece, min(block, (c + 1) * piece))]


def held_indices(cuts: Iterable[Cut], size: int, dim: int, mesh: Mesh, rank: int) -> list[int]:
    """Global indices along `dim` that a rank holds; cuts of the same dimension nest, the first outermost."""
    held = list(range(size))
    for dims, placement in cuts:
        match = _PLACEMENT.fullmatch(placement)
        if match is None:
            raise ValueError(f"placement '{placement}' is not understood")
        plain, strided, blocks = match.groups()
        if dim != int(plain or strided or -1):
            continue
        held = [held[i] for i in pieces(len(held), int(blocks or 1), mesh.coordinate(rank, dims), mesh.size(dims))]
    return held


def sharded_dim(placement: str) -> tuple[int, int] | None:
    """Dimension and blocks of a shard; None for what is none."""
    match = _PLACEMENT.fullmatch(placement)
    if match is None or placement in ("Replicate", "Partial"):
        return None
    plain, strided, blocks = match.groups()
    return int(plain or strided), int(blocks or 1)


def global_shape_of(cuts: Iterable[Cut], local: Sequence[int], mesh: Mesh) -> list[int]:
    """Of a tensor whose pieces are equally large."""
    shape = list(local)
    for dims, placement in cuts:
        match = _PLACEMENT.fullmatch(placement)
        dim = match and (match.group(1) or match.group(2))
        if dim is not None:
            shape[int(dim)] *= mesh.size(dims)
    return shape
