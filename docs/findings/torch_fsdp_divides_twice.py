"""FSDP2 over a group of one divides gradients twice by the factor that it was given, where it was also told to sum.

transformers 5.20 to 5.22 set both on the experts of an expert-parallel model, whose group has one rank wherever ep_size == fsdp_size * tp_size:
their gradients come out fsdp_size times too small. 5.23 sets the second for larger groups only.
Usage: python torch_fsdp_divides_twice.py    (torch 2.11; exit code 1: it is so)
"""

import os
import tempfile

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

FACTOR = 2.0


def gradient(is_sum_forced):
    layer = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.ones_(layer.weight)
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    layer.set_gradient_divide_factor(FACTOR)
    layer.set_force_sum_reduction_for_comms(is_sum_forced)
    layer(torch.ones(1, 4)).sum().backward()
    return layer.weight.grad.to_local()[0, 0].item()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        found = {forced: gradient(forced) for forced in (False, True)}
    print(f"torch {torch.__version__}: a gradient of 1, to be divided by {FACTOR}: {found[False]}; with the sum forced: {found[True]}", flush=True)
    os._exit(1 if found[True] != 1 / FACTOR else 0)
