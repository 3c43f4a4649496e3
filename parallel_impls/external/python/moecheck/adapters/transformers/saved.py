"""The release's own save_pretrained of the distributed model as a save of the case: what it wrote is read back and handed on, under the
names that the driver knows; nothing comes from the model's memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from moecheck.adapters.transformers.families import family_of
from moecheck.adapters.transformers.packing import DOWN, GATE_UP
from moecheck.checkpoint_state import StateTensor
from moecheck.context import Context
from moecheck.dtypes import HostTensor, to_host, to_torch
from moecheck.safetensors_file import FileFailure
from moecheck.taps import PARAMETERS
from moecheck.weights import Checkpoint


def save_by_release(ctx: Context, model: Any, folder: Path) -> None:
    """Ranks: every rank of the mesh. Errors: RuntimeError where the release's files lack a tensor or cannot be read."""
    aside = folder.with_name(f"{folder.name}.release")
    model.save_pretrained(aside, is_main_process=ctx.rank == 0)
    if ctx.case.mesh.world_size > 1:
        import torch.distributed as dist

        dist.barrier()
    ctx.saves.write(folder, read_back(ctx, aside))
    if ctx.rank == 0:
        shutil.rmtree(aside)


def read_back(ctx: Context, folder: Path) -> list[StateTensor]:
    """The layer's tensors, whole, as the files have them."""
    saved, state = _Saved(ctx.case, ctx.rank, folder), []
    for tap in PARAMETERS:
        shape = tuple(ctx.case.param_shape(tap))
        try:
            tensor = to_torch(saved.host(tap))
        except (FileFailure, ValueError) as error:
            raise RuntimeError(f"what save_pretrained wrote: {error}") from error
        if tuple(tensor.shape) != shape:
            raise RuntimeError(f"what save_pretrained wrote makes {list(tensor.shape)} of {tap}, which is {list(shape)}")
        state.append(StateTensor(tap, tensor, (), shape))
    return state


class _Saved(Checkpoint):
    """Releases save the module's names or those of the family's first checkpoints: block_sparse_moe is mlp by now."""

    def tensor(self, name: str) -> HostTensor:
        return super().tensor(name if name in self.tensors else name.replace(".block_sparse_moe.", ".mlp."))

    def host(self, tap: str, experts: Any = None) -> HostTensor:
        packed = {GATE_UP: "gate_up_proj", DOWN: "down_proj"}.get(tap)
        found = [name for name in self.tensors if packed is not None and name.endswith(f".experts.{packed}")]
        if found and experts is None:
            return to_host(family_of(self.case).packing.canonical(tap, to_torch(self.tensors[found[0]])))
        return super().host(tap, experts)
