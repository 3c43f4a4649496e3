"""Saves as a rank reads them: verified as a whole, then the part of each tensor that its cuts leave to it, from any layout. No torch."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from moecheck.case import Case
from moecheck.checkpoint_boxes import Box, held
from moecheck.checkpoint_families import WEIGHT_INDEX, expected_shapes, taps_of_family
from moecheck.checkpoint_index import INDEX_FILE, SavedTensor, Shard, measured, rank_file, read_index
from moecheck.dtypes import CARRIERS, HostTensor
from moecheck.mesh import Cut, Mesh
from moecheck.safetensors_file import FileFailure, read_file, read_with_metadata
from moecheck.weights import Checkpoint

_BF16_NAN = 0x7FC0
_PROBLEMS_TOLD = 3


class Save(ABC):
    """A save that was verified when it was opened. Errors of opening: FileFailure with the file; of a damaged one always."""

    def __init__(self, case: Case, rank: int, folder: Path) -> None:
        self.case, self.rank, self.folder = case, rank, folder

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of its tensors, as taps are named."""

    @abstractmethod
    def part(self, name: str, cuts: Iterable[Cut], rank: int | None = None) -> HostTensor:
        """What the cuts leave to a rank, this one if none is named. Errors: FileFailure."""


def open_save(case: Case, rank: int, folder: Path) -> Save:
    """The one that the case's knob `save` names. Errors: FileFailure; Unsupported without xxhash."""
    return (HuggingFaceSave if case.knobs["save"] == "huggingface" else ShardedSave)(case, rank, folder)


def blank(dtype: str, shape: Sequence[int]) -> np.ndarray:
    """NaN, or the smallest integer: what stays so was never loaded."""
    carrier = CARRIERS[dtype]
    if dtype == "bf16":
        return np.full(shape, _BF16_NAN, carrier)
    return np.full(shape, np.nan if carrier.kind == "f" else np.iinfo(carrier).min, carrier)


def _refuse(folder: Path, problems: Iterable[tuple[str, str]]) -> None:
    """problems: files with what is wrong with them."""
    told = [f"{folder / file}: {what}" for file, what in itertools.islice(problems, _PROBLEMS_TOLD)]
    if told:
        raise FileFailure(f"checkpoint {'; '.join(told)}")


class ShardedSave(Save):
    def __init__(self, case: Case, rank: int, folder: Path) -> None:
        super().__init__(case, rank, folder)
        self.index = read_index(folder)
        self._files: dict[str, dict[str, HostTensor]] = {}
        _refuse(folder, self._problems_of_files())
        _refuse(folder, self._problems_of_shards())
        _refuse(folder, self._differing_replicas())

    @property
    def names(self) -> list[str]:
        return list(self.index.tensors)

    def part(self, name: str, cuts: Iterable[Cut], rank: int | None = None) -> HostTensor:
        saved = self.index.tensors.get(name)
        if saved is None:
            raise FileFailure(f"checkpoint {self.folder} has no tensor '{name}'")
        wanted = held(tuple(cuts), saved.shape, self.case.mesh, self.rank if rank is None else rank)
        into = blank(saved.dtype, [len(indices) for indices in wanted])
        for shard in saved.shards:
            if shard.replica == 0:
                _copy_overlap(into, wanted, shard.box, self._stored(shard))
        return HostTensor(saved.dtype, into)

    def _problems_of_files(self) -> Iterator[tuple[str, str]]:
        there = sorted(path.name for path in self.folder.iterdir())
        for name in there:
            if name.endswith(".safetensors") and name not in self.index.files:
                yield name, f"{INDEX_FILE} does not list it"
            if name.endswith(".tmp"):
                yield name, "is left of a save that did not finish"
        for name, (size, total) in self.index.files.items():
            if name not in there:
                yield name, f"is not there, and {INDEX_FILE} lists it"
            elif wrong := self._problem_of_file(name, size, total):
                yield name, wrong
        if sorted(self.index.files) != sorted(rank_file(rank) for rank in range(self.index.world_size)):
            yield INDEX_FILE, f"has world_size {self.index.world_size} and lists {', '.join(sorted(self.index.files))}"

    def _problem_of_file(self, name: str, size: int, total: str) -> str:
        try:
            found_size, found_total = measured(self.folder / name)
        except (OSError, ValueError) as error:
            return str(error)
        if found_size != size:
            return f"has {found_size} bytes, {INDEX_FILE} says {size}: truncated, or of another save"
        if found_total != total:
            return f"has checksum {found_total}, {INDEX_FILE} says {total}: damaged, or of another save"
        self._files[name], about = read_with_metadata(self.folder / name)
        if name != rank_file(int(about["rank"])):
            return f"says that rank {about['rank']} wrote it"
        return "" if about["mesh"] == self.index.mesh else f"is of mesh {about['mesh']}, {INDEX_FILE} says {self.index.mesh}"

    def _problems_of_shards(self) -> Iterator[tuple[str, str]]:
        if Mesh.parse(self.index.mesh).world_size != self.index.world_size:
            yield INDEX_FILE, f"has world_size {self.index.world_size} and mesh {self.index.mesh}"
        used = set()
        for name, saved in self.index.tensors.items():
            for shard in saved.shards:
                used.add((shard.file, shard.key))
                stored = self._files.get(shard.file, {}).get(shard.key)
                if stored is None:
                    yield shard.file, f"key '{shard.key}' is not in it, though {INDEX_FILE} says so"
                elif stored.dtype != saved.dtype or stored.array.shape != shard.box.shape:
                    yield shard.file, f"key '{shard.key}' is {stored.dtype} {list(stored.array.shape)}, {INDEX_FILE} says otherwise"
            yield from ((INDEX_FILE, f"'{name}': {wrong}") for wrong in _problems_of_ranges(saved))
        for file, tensors in self._files.items():
            yield from ((file, f"'{key}' is in no entry of {INDEX_FILE}") for key in tensors if (file, key) not in used)


    def _differing_replicas(self) -> Iterator[tuple[str, str]]:
        for name, saved in self.index.tensors.items():
            originals = {shard.box: shard for shard in saved.shards if shard.replica == 0}
            for shard in saved.shards:
                original = originals[shard.box]
                if shard.replica and self._stored(shard).tobytes() != self._stored(original).tobytes():
                    yield shard.file, f"tensor '{name}': replica {shard.replica} of {shard.box} differs from replica 0 in {original.file}"

    def _stored(self, shard: Shard) -> np.ndarray:
        return self._files[shard.file][shard.key].array


def _problems_of_ranges(saved: SavedTensor) -> Iterator[str]:
    """Shards of replica 0 tile the tensor, those of others repeat them."""
    originals = sorted(shard.box for shard in saved.shards if shard.replica == 0)
    known = set(originals)
    for shard in saved.shards:
        if not shard.box.is_inside(saved.shape):
            yield f"{shard.box} is outside of shape {list(saved.shape)}"
        elif shard.box not in known:
            yield f"replica {shard.replica} holds {shard.box}, which is no range of replica 0"
    for i, box in enumerate(originals):
        for later in itertools.islice(originals, i + 1, None):
            if box.offset and later.offset[0] >= box.offset[0] + box.shape[0]:
                break
            if box.overlaps(later):
                yield f"{box} overlaps {later}, both of replica 0"
    if sum(box.size for box in originals) < Box((0,) * len(saved.shape), saved.shape).size:
        yield f"no shard of replica 0 holds some elements of shape {list(saved.shape)}"


def _copy_overlap(into: np.ndarray, wanted: Sequence[Sequence[int]], box: Box, part: np.ndarray) -> None:
    places, sources = [], []
    for indices, first, count in zip(wanted, box.offset, box.shape, strict=True):
        inside = np.asarray(indices, np.int64) - first
        local = np.nonzero((inside >= 0) & (inside < count))[0]
        if local.size == 0:
            return
        places.append(local)
        sources.append(inside[local])
    into[np.ix_(*places)] = part[np.ix_(*sources)]


class HuggingFaceSave(Save):
    """Weights only, in the family's names; a flip inside of a tensor is not told, since the form has no checksums."""

    def __init__(self, case: Case, rank: int, folder: Path) -> None:
        super().__init__(case, rank, folder)
        _refuse(folder, self._problems())

    @property
    def names(self) -> list[str]:
        return taps_of_family()

    def part(self, name: str, cuts: Iterable[Cut], rank: int | None = None) -> HostTensor:
        reader = Checkpoint(self.case, self.rank if rank is None else rank, self.folder)
        return reader.host_shard(name, list(cuts))

    def _problems(self) -> Iterator[tuple[str, str]]:
        there = sorted(path.name for path in self.folder.iterdir())
        file_of = self._weight_map()
        for name in sorted(set(file_of.values()) - set(there)):
            yield name, f"is not there, and {WEIGHT_INDEX} names it"
        for name in there:
            if name.endswith(".tmp"):
                yield name, "is left of a save that did not finish"
            elif name.endswith(".safetensors") and name not in file_of.values():
                yield name, f"{WEIGHT_INDEX} does not name it"
        expected = expected_shapes(self.case, set(file_of))
        for file in sorted(set(file_of.values()) & set(there)):
            stored = read_file(self.folder / file)
            for name in (name for name, home in file_of.items() if home == file):
                if name not in stored:
                    yield file, f"has no tensor '{name}'"
                elif name in expected and stored[name].array.shape != expected[name]:
                    yield file, f"tensor '{name}' has shape {list(stored[name].array.shape)}, expected {list(expected[name])}"
        for name in sorted(set(expected) - set(file_of)):
            yield "", f"there is no tensor '{name}'"

    def _weight_map(self) -> dict[str, str]:
        """File of each tensor; of a save without an index those of its one file."""
        index = self.folder / WEIGHT_INDEX
        if not index.exists():
            return {name: "model.safetensors" for name in read_file(self.folder / "model.safetensors")}
        try:
            return {str(name): str(file) for name, file in json.loads(index.read_text())["weight_map"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFailure(f"checkpoint {index}: is damaged: {error}") from error
