"""Element types that cross a process border. bf16 has no NumPy type and is carried as its bits, uint16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

CARRIERS: dict[str, np.dtype[Any]] = {
    name: np.dtype(carrier)
    for name, carrier in (("fp32", "<f4"), ("fp64", "<f8"), ("bf16", "<u2"), ("fp16", "<f2"), ("int64", "<i8"), ("int32", "<i4"),
                          ("uint8", "u1"), ("bool", "?"))
}
SAFETENSORS = {"fp32": "F32", "fp64": "F64", "bf16": "BF16", "fp16": "F16", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}
_TORCH = {"fp32": "float32", "fp64": "float64", "bf16": "bfloat16", "fp16": "float16", "int64": "int64", "int32": "int32", "uint8": "uint8",
          "bool": "bool"}
_OF_TORCH = {f"torch.{name}": ours for ours, name in _TORCH.items()}


@dataclass(frozen=True)
class HostTensor:
    """A dense tensor in this process's memory, independent of a framework."""

    dtype: str
    array: np.ndarray

    def to_float(self) -> np.ndarray:
        if self.dtype != "bf16":
            return self.array.astype(np.float64)
        return (self.array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def round_bf16(values: np.ndarray) -> np.ndarray:
    """The bits of fp32 values rounded to nearest, ties to even. Requires: no NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def store(values: np.ndarray, dtype: str) -> HostTensor:
    """fp32 values, rounded once."""
    if dtype == "bf16":
        return HostTensor(dtype, round_bf16(values))
    return HostTensor(dtype, values.astype(CARRIERS[dtype]))


def torch_dtype(dtype: str) -> Any:
    import torch

    return getattr(torch, _TORCH[dtype])


def to_torch(tensor: HostTensor) -> Any:
    """A copy."""
    import torch

    array = np.ascontiguousarray(tensor.array).copy()
    if tensor.dtype == "bf16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def of_torch(dtype: Any) -> str:
    return _OF_TORCH[str(dtype)]


def to_host(tensor: Any) -> HostTensor:
    """A copy, as the tensor is now, of a torch tensor or a NumPy array."""
    if isinstance(tensor, HostTensor):
        return tensor
    if isinstance(tensor, np.ndarray):
        return _host_of_numpy(tensor)
    import torch

    dense = tensor.detach().to("cpu", copy=True).contiguous()
    dtype = of_torch(dense.dtype)
    return HostTensor(dtype, dense.view(torch.int16).numpy().view(np.uint16) if dtype == "bf16" else dense.numpy())


def _host_of_numpy(array: np.ndarray) -> HostTensor:
    for name, carrier in CARRIERS.items():
        if name != "bf16" and array.dtype == carrier:
            return HostTensor(name, np.array(array, order="C"))
    raise TypeError(f"elements of type {array.dtype} cannot be shown; use one of {', '.join(CARRIERS)}")
