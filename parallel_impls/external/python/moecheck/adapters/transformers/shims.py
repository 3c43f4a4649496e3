"""What a release needs to run on a CPU at all, where that changes nothing of what is tested."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from moecheck.adapters.transformers.release import HOOKS, Release
from moecheck.context import Context


@contextlib.contextmanager
def on_the_cpu(release: Release, ctx: Context) -> Iterator[None]:
    """Around from_pretrained."""
    if release.generation != HOOKS or not _takes_device_for_rank():
        yield
        return
    from transformers.integrations import tensor_parallel

    style = tensor_parallel.GroupedGemmParallel
    original = style.shard_tensor

    def shard_tensor(self: Any, param: Any, tensor_idx: int | None = None, device: Any = None, dtype: Any = None) -> Any:
        return original(self, _OnTheCpu(param), tensor_idx=tensor_idx, device=ctx.local_rank, dtype=dtype)

    style.shard_tensor = shard_tensor
    try:
        yield
    finally:
        style.shard_tensor = original


def _takes_device_for_rank() -> bool:
    """Up to 5.5.4 GroupedGemmParallel.shard_tensor takes the index of the device for the rank, which holds for GPUs of one machine and
    leaves every rank with the experts of rank 0 on the CPU: an artefact of having no GPU, so the index is given as a GPU would have it."""
    import inspect

    from transformers.integrations import tensor_parallel

    return "device.index" in inspect.getsource(tensor_parallel.GroupedGemmParallel.shard_tensor)


class _OnTheCpu:
    """A slice of a file whose tensors stay where they are when they are sent to a GPU by its number."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getitem__(self, index: Any) -> Any:
        return _Placed(self._part[index])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


class _Placed:
    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def to(self, device: Any = None, dtype: Any = None) -> Any:
        return self._tensor if dtype is None else self._tensor.to(dtype)
