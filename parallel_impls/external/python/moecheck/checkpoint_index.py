"""The index of a sharded save (harness/checkpoint/format.h): which box of which tensor lies where, byte for byte as the driver reads it.

    index.json            {"format": "moecheck-sharded", "version": 1, "world_size", "mesh", "files": {name: {"size", "checksum"}},
                           "tensors": {name: {"dtype", "shape", "shards": [{"file", "key", "offset", "shape", "replica"}]}}, "checksum"}
    rank<r>.safetensors   what rank r holds; a key is the tensor's name, with "#0", "#1", ... where the rank holds several boxes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moecheck.case import Unsupported
from moecheck.checkpoint_boxes import Box, held_boxes, keys_of, replica_number
from moecheck.dtypes import SAFETENSORS
from moecheck.mesh import Cut, Mesh
from moecheck.safetensors_file import FileFailure

INDEX_FILE = "index.json"
SHARDED_FORMAT = "moecheck-sharded"
_VERSION = 1


@dataclass(frozen=True)
class Shard:
    file: str
    key: str
    box: Box
    replica: int


@dataclass
class SavedTensor:
    dtype: str
    """ "fp32", as in HostTensor."""
    shape: tuple[int, ...]
    shards: list[Shard] = field(default_factory=list)


@dataclass
class Index:
    world_size: int
    mesh: str
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Size and checksum."""
    tensors: dict[str, SavedTensor] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        files = {name: {"size": size, "checksum": total} for name, (size, total) in sorted(self.files.items())}
        tensors = {name: {"dtype": SAFETENSORS[one.dtype], "shape": list(one.shape), "shards": [_shard_json(s) for s in one.shards]}
                   for name, one in sorted(self.tensors.items())}
        return {"format": SHARDED_FORMAT, "version": _VERSION, "world_size": self.world_size, "mesh": self.mesh, "files": files,
                "tensors": tensors}

    def text(self) -> str:
        content = self.content()
        return json.dumps({**content, "checksum": _checksum_of(content)}, indent=1, ensure_ascii=False) + "\n"


def _shard_json(shard: Shard) -> dict[str, Any]:
    box = shard.box
    return {"file": shard.file, "key": shard.key, "offset": list(box.offset), "shape": list(box.shape), "replica": shard.replica}


def _checksum_of(content: Mapping[str, Any]) -> str:
    return checksum(json.dumps(content, indent=1, ensure_ascii=False).encode())


def why_no_checksums() -> str:
    """Empty if sharded saves can be written and read here."""
    try:
        import xxhash  # noqa: F401
    except ImportError:
        return "sharded saves need the package xxhash: pip install 'moecheck[checkpoints]'"
    return ""


def checksum(data: Any) -> str:
    """XXH3 of 128 bits, against damage, not against forgery. Errors: Unsupported without the package xxhash."""
    if reason := why_no_checksums():
        raise Unsupported(reason)
    import xxhash

    return f"xxh3:{xxhash.xxh3_128_hexdigest(data)}"


def measured(path: Path) -> tuple[int, str]:
    """Size and checksum. Errors: OSError, ValueError for a file that is empty."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    return data.size, checksum(data)


def rank_file(rank: int) -> str:
    return f"rank{rank}.safetensors"


def add_shards(index: Index, mesh: Mesh, rank: int, name: str, dtype: str, cuts: tuple[Cut, ...], shape: tuple[int, ...]) -> None:
    """What `rank` writes of a tensor. Any rank can say it of all, since it needs no data."""
    entry = index.tensors.setdefault(name, SavedTensor(dtype, shape))
    boxes = held_boxes(cuts, shape, mesh, rank)
    replica = replica_number(cuts, shape, mesh, rank)
    for key, (box, _) in zip(keys_of(name, len(boxes)), boxes, strict=True):
        entry.shards.append(Shard(rank_file(rank), key, box, replica))


# Reading.

def read_index(folder: Path) -> Index:
    """Errors: FileFailure with the file, also where its bytes are not what its content makes."""
    path = folder / INDEX_FILE
    try:
        text = path.read_bytes().decode()
        stated = json.loads(text)
        index = _index_of(stated)
    except OSError as error:
        raise FileFailure(f"checkpoint {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFailure(f"checkpoint {path}: is damaged: {error}") from error
    if text == index.text():
        return index
    said, measured = stated.get("checksum"), _checksum_of(index.content())
    if said != measured:
        raise FileFailure(f"checkpoint {path}: says that its checksum is {said!r}, and has {measured}: damaged, or edited")
    raise FileFailure(f"checkpoint {path}: has the content of its checksum, and is not as it was written: damaged, or edited")


def _index_of(stated: Mapping[str, Any]) -> Index:
    if stated["format"] != SHARDED_FORMAT or _count(stated["version"]) != _VERSION:
        raise ValueError(f"it is {stated['format']!r} of version {stated['version']!r}, expected {SHARDED_FORMAT!r} of version {_VERSION}")
    index = Index(_count(stated["world_size"]), str(stated["mesh"]))
    for name, seal in stated["files"].items():
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise ValueError(f"file {name!r} is none of this folder")
        index.files[name] = (_count(seal["size"]), str(seal["checksum"]))
    dtypes = {stored: ours for ours, stored in SAFETENSORS.items()}
    for name, one in stated["tensors"].items():
        shards = [Shard(s["file"], s["key"], Box(_counts(s["offset"]), _counts(s["shape"])), _count(s["replica"])) for s in one["shards"]]
        index.tensors[name] = SavedTensor(dtypes[one["dtype"]], _counts(one["shape"]), shards)
    return index


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _counts(values: Any) -> tuple[int, ...]:
    return tuple(_count(value) for value in values)
