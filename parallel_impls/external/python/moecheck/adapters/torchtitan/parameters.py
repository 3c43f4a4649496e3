"""torchtitan's parameters as the driver knows them: gate rows are w1, up rows w3, down w2; experts stacked on dim 0. Imports torch.

A DTensor says itself how it lies; only the names of its mesh's dimensions are translated. Under FSDP torchtitan cuts each of w1, w2 and
w3 on dim 0 or 1, the driver's layout cuts the packed tensor on dim 1: there, what is shown is gathered over fsdp and cut again. So a rank's
values are seen, all of them, but not which FSDP shard of its own they were in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from moecheck.adapters.torchtitan.layout import DOWN, GATE_UP, ROUTER, Layout
from moecheck.context import Context, Of
from moecheck.mesh import Cut, held_indices
from moecheck.taps import cuts_of_dtensor, is_dtensor, local_of

_NAMES = {"etp": "tp", "efsdp": "fsdp"}


@dataclass(frozen=True)
class Parts:
    """Where a release has what every MoE layer has. The parameters are those of the moment: cutting a layer exchanges them."""

    gate: Any
    w1: Any
    w2: Any
    w3: Any


def load(parts: Parts, ctx: Context) -> None:
    """Before the layer is cut: every rank holds the whole, and the framework's own sharding takes its part."""
    w1_EFD, w3_EFD = ctx.checkpoint.gate_up_EGD().chunk(2, dim=1)
    with torch.no_grad():
        parts.gate.weight.copy_(ctx.checkpoint.router_ED())
        parts.w1.copy_(w1_EFD)
        parts.w3.copy_(w3_EFD)
        parts.w2.copy_(ctx.checkpoint.down_EDF())


def show(parts: Parts, ctx: Context, layout: Layout) -> None:
    """Requires: before the first forward, in which FSDP exchanges the parameters of a module."""
    router, w1, w2, w3 = parts.gate.weight, parts.w1, parts.w2, parts.w3
    if layout.fsdp > 1:
        data_ranks, cuts = ("fsdp,ep", [("ep", "Shard(0)")]) if layout.ep > 1 else ("fsdp", [])
        cuts = [*cuts, ("fsdp", "Shard(1)")]
        ctx.parameter_of(ROUTER, [router], lambda of: local_of(of(router)), [(data_ranks, "Shard(0)")])
        ctx.parameter_of(GATE_UP, [w1, w3], _recut(ctx, GATE_UP, [w1, w3]), cuts)
        ctx.parameter_of(DOWN, [w2], _recut(ctx, DOWN, [w2]), cuts)
        return
    ctx.parameter_of(ROUTER, [router], lambda of: of(router), _cuts_of(router, layout, ctx))
    ctx.parameter_of(GATE_UP, [w1, w3], lambda of: torch.cat([of(w1), of(w3)], dim=1), _packed(_cuts_of(w1, layout, ctx)))
    ctx.parameter_of(DOWN, [w2], lambda of: of(w2), _cuts_of(w2, layout, ctx))


def plan(ctx: Context, layout: Layout) -> None:
    if not layout.style:
        return
    for pattern, tap in (("moe.experts.{w1,w3}", GATE_UP), ("moe.experts.w2", DOWN)):
        ctx.plan(pattern, layout.style, layout.planned_cuts(tap, ctx.case.expert_dims), [tap])


def _cuts_of(parameter: Any, layout: Layout, ctx: Context) -> list[Cut]:
    """torchtitan's ep is the one dimension of all ranks that hold different experts, the driver's "ep,tp" where tp is lent."""
    if not is_dtensor(parameter):
        return []
    names = {**_NAMES, "ep": ctx.case.expert_dims}
    return [(names.get(name, name), placement) for name, placement in cuts_of_dtensor(parameter)]


def _packed(cuts: list[Cut]) -> list[Cut]:
    """A piece of gate and the same piece of up: of two blocks a piece each."""
    return [(dims, "StridedShard(1,2)" if placement == "Shard(1)" else placement) for dims, placement in cuts]


def _recut(ctx: Context, tap: str, parameters: list[Any]) -> Callable[[Of], Any]:
    mesh = ctx.case.mesh
    sharded_dims = [_sharded_dim(p) for p in parameters]

    def read(of: Of) -> Any:
        whole = [_gathered(ctx, local_of(of(p)), dim) for p, dim in zip(parameters, sharded_dims, strict=True)]
        packed = torch.cat(whole, dim=1)
        held = held_indices([("fsdp", "Shard(1)")], packed.shape[1], 1, mesh, ctx.rank)
        return packed[:, held]

    return read


def _sharded_dim(parameter: Any) -> int:
    """By FSDP."""
    by_name = dict(zip(parameter.device_mesh.mesh_dim_names, parameter.placements, strict=True))
    return int(by_name["efsdp" if "efsdp" in by_name else "fsdp"].dim)


def _gathered(ctx: Context, local: torch.Tensor, dim: int) -> torch.Tensor:
    rows = local.detach().transpose(0, dim).contiguous()
    num_ranks = ctx.case.mesh.size("fsdp")
    return ctx.comm.all_gather(rows, [rows.shape[0]] * num_ranks, "fsdp", "shown parameters").transpose(0, dim)
