"""The safetensors format: 8 bytes header size, JSON header, data. The package of that name is not used, since its NumPy side has no
bf16 and its low-level functions change between releases."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moecheck.dtypes import CARRIERS, SAFETENSORS, HostTensor

_OF_NAME = {name: ours for ours, name in SAFETENSORS.items()}
_MAX_HEADER = 100_000_000
_ALIGNMENT = 8


class FileFailure(Exception):
    """A file that could not be read or written, or is damaged: answered "io", which says nothing about the layer."""


def write_file(path: Path, tensors: Mapping[str, HostTensor], metadata: Mapping[str, str]) -> None:
    """Written aside and renamed. Errors: FileFailure."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.array.nbytes
        header[name] = {"dtype": SAFETENSORS[tensor.dtype], "shape": list(tensor.array.shape), "data_offsets": [offset, end]}
        offset = end
    # Compact, as the driver's own writer has it: the same tensors are the same bytes.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    aside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors.values():
                file.write(np.ascontiguousarray(tensor.array).tobytes())
        os.replace(aside, path)
    except OSError as error:
        raise FileFailure(f"{path}: {error.strerror or error}") from error


def read_file(path: Path) -> dict[str, HostTensor]:
    """Views into the mapped file, which are read-only. Errors: FileFailure with the file and the tensor."""
    return read_with_metadata(path)[0]


def read_with_metadata(path: Path) -> tuple[dict[str, HostTensor], dict[str, str]]:
    """The same, and what its writer says of itself."""
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:   # ValueError: an empty file cannot be mapped
        raise FileFailure(f"{path}: {error}") from error
    try:
        (size,) = struct.unpack("<Q", data[:8].tobytes())
        if size > _MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(data[8 : 8 + size].tobytes(), object_pairs_hook=_without_duplicates)
        metadata = header.pop("__metadata__", {})
        _refuse_holes([tuple(about["data_offsets"]) for about in header.values()], data.size - 8 - size)
        return {name: _view(data[8 + size :], name, about) for name, about in header.items()}, metadata
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise FileFailure(f"{path}: is damaged: {error}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def _refuse_holes(offsets: list[tuple[int, int]], size: int) -> None:
    """Tensors fill the data, without holes and overlaps."""
    expected = 0
    for begin, end in sorted(offsets):
        if begin != expected:
            raise ValueError(f"a tensor begins at byte {begin} of the data, expected {expected}")
        expected = end
    if expected != size:
        raise ValueError(f"the header promises {expected} bytes of data, the file has {size}")


def _view(data: np.ndarray, name: str, about: Mapping) -> HostTensor:
    begin, end = about["data_offsets"]
    dtype = _OF_NAME[about["dtype"]]
    if not 0 <= begin <= end <= data.size or end - begin != int(np.prod(about["shape"])) * CARRIERS[dtype].itemsize:
        raise ValueError(f"tensor '{name}' does not fit its offsets")
    return HostTensor(dtype, np.frombuffer(data[begin:end], dtype=CARRIERS[dtype]).reshape(about["shape"]))
