"""What torchtitan needs to run on the CPU, in one place. None of it changes a number that a GPU would compute. Imports torch.

- torch.histc counts the tokens of each expert on int64 ids. That kernel exists for CUDA only; on the CPU the same count is a bincount,
  returned in the dtype that CUDA's histc has, the one of its input.
- generate_permute_indices fills indices with a Triton kernel. torchtitan has the same loop in Python beside it, use_cpu=True.
- FSDP with a divide factor of its own reduces gradients by NCCL's premultiplied sum, which Gloo does not have. PyTorch's switch for it
  makes that a sum and a division.
- The gate of 0.3.0 is computed in fp32 by an autocast that the CPU does not offer and that does nothing there. The same is done by hand.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule

_histc = torch.histc


def _histc_of_integers(tensor: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    if tensor.is_floating_point() or min != 0 or max != bins:
        return _histc(tensor, bins=bins, min=min, max=max)
    # histc counts what equals max into the last bin; ids never reach it.
    return torch.bincount(tensor.flatten().clamp(max=bins - 1), minlength=bins).to(tensor.dtype)


def fill_indices_in_python(moe_routing: Any) -> None:
    """moe_routing: the module that calls generate_permute_indices. Once a process; a second call changes nothing."""
    torch.histc = _histc_of_integers  # type: ignore[assignment]
    fill = moe_routing.generate_permute_indices
    if not isinstance(fill, functools.partial):
        moe_routing.generate_permute_indices = functools.partial(fill, use_cpu=True)


def reduce_by_sums(model: nn.Module) -> None:
    """Of what fully_shard was applied to."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)


def compute_in_fp32(gate: nn.Linear) -> None:
    """Before torchtitan wraps its forward."""
    gate.forward = lambda input: F.linear(input.float(), gate.weight.float())  # type: ignore[method-assign]
