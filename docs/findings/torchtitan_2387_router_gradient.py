"""torchtitan 0.2.0 - 0.2.2: under tensor parallelism the router's gradient is a part of what it should be, another one on each rank, and
the gradient of the layer's input is wrong with it, or missing. CPU, Gloo, 2 ranks; needs torchtitan 0.2.x, and no moecheck.
"""
import functools
import inspect
import itertools
import types

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchtitan.models.moe.utils as routing
from torch.distributed.device_mesh import init_device_mesh
from torchtitan.models.llama4.infra.parallelize import apply_moe_ep_tp
from torchtitan.models.moe import MoE, MoEArgs

# The CPU has no histc of integers and no Triton; the second torchtitan has in Python too.
torch.histc = lambda ids, bins, min, max: torch.bincount(ids.flatten(), minlength=bins)
routing.generate_permute_indices = functools.partial(routing.generate_permute_indices, use_cpu=True)


def layer(score_before):
    torch.manual_seed(0)
    moe = MoE(MoEArgs(num_experts=4, num_shared_experts=0, score_func="softmax", route_norm=True, top_k=2, use_grouped_mm=False,
                      score_before_experts=score_before, load_balance_coeff=None), 16, 32)
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return torch.nn.ModuleDict({"moe": moe}), moe


def gradients(moe, x, grad_y):
    x = x.clone().requires_grad_()
    moe(x).backward(grad_y)
    router = moe.router.gate.weight.grad
    return (router.to_local() if hasattr(router, "to_local") else router), x.grad


def main(rank, world):
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29517", rank=rank, world_size=world)
    tp, ep = (init_device_mesh("cpu", (world,), mesh_dim_names=(name,)) for name in ("tp", "ep"))
    others = dict.fromkeys({"ep_tp_mesh", "etp_enabled", "etp_mesh", "ep_etp_mesh"} & set(inspect.signature(apply_moe_ep_tp).parameters))
    for (style, ep_mesh), score_before, batch in itertools.product((("TP", None), ("TP lent to EP", ep)), (False, True), (1, 2)):
        x, grad_y = torch.randn(2, batch, 16 // batch, 16, generator=torch.Generator().manual_seed(1))
        want_router, want_x = gradients(layer(score_before)[1], x, grad_y)
        block, moe = layer(score_before)
        block.moe_enabled = True
        apply_moe_ep_tp(types.SimpleNamespace(layers={"0": block}), tp_mesh=tp, ep_mesh=ep_mesh, **others)
        x, grad_y, want_x = (t.chunk(world, dim=1)[rank].contiguous() for t in (x, grad_y, want_x))   # sequence parallelism
        router, grad_x = gradients(moe, x, grad_y)
        dist.all_reduce(total := router.clone())
        pairs = ((router, want_router), (total, want_router), (grad_x, want_x))
        error = [f"{((got - want).norm() / want.norm()).item():.0e}" for got, want in pairs]
        without = (grad_x.flatten(0, 1) == 0).all(dim=1)
        print(f"{style:13} score_before_experts={score_before!s:5} batch={batch} rank {rank}: relative error of the router's gradient "
              f"{error[0]}, of its sum over tp {error[1]}, of the input's gradient {error[2]}; tokens whose is all 0: "
              f"{without.sum().item()} of {len(without)}", flush=True)


if __name__ == "__main__":
    mp.spawn(main, (2,), 2)
