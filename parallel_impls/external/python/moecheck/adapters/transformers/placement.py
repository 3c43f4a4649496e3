"""How a release cut a parameter, in the words of the case's mesh; and its plan, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moecheck.adapters.transformers.families import family_of
from moecheck.adapters.transformers.layouts import Layout
from moecheck.adapters.transformers.packing import DOWN, GATE_UP
from moecheck.context import Context, Of
from moecheck.mesh import Cut, held_indices
from moecheck.taps import is_dtensor

ATTENTION, ROUTER = "param/attention/w_DD", "param/router/w_ED"

# What a style of the plan leaves of a parameter of so many dimensions: packed_colwise takes a piece of gate and one of up.
_STYLES: dict[str, Callable[[int], str]] = {
    "grouped_gemm": lambda _: "Shard(0)", "packed_colwise": lambda n: f"StridedShard({n - 2},2)", "colwise": lambda n: f"Shard({n - 2})",
    "rowwise": lambda n: f"Shard({n - 1})", "rowwise_split_input": lambda n: f"Shard({n - 1})",
    "rowwise_rep": lambda n: f"Shard({n - 1})", "packed_rowwise": lambda n: f"StridedShard({n - 1},2)"}
_OF_THE_LAYER = {"layers.*.self_attn.o_proj": ATTENTION, "layers.*.mlp.gate": ROUTER, "layers.*.mlp.router": ROUTER,
                 "layers.*.mlp.experts.gate_up_proj": GATE_UP, "layers.*.mlp.experts.down_proj": DOWN}


def cuts_by_style(style: str, num_dims: int, dims: str) -> list[Cut]:
    """Empty for a style that leaves its parameters whole."""
    return [(dims, _STYLES[style](num_dims))] if style in _STYLES else []


def show_parameter(ctx: Context, layout: Layout, tap: str, parameter: Any, planned: Sequence[Cut]) -> None:
    """planned: how the plan says that a plain tensor was cut; believed where the tensor is smaller than the whole. A DTensor says itself.
    Ranks: every rank of the mesh, also later, whenever it is shown, if the mesh has fsdp."""
    packing = family_of(ctx.case).packing

    def read(of: Of) -> Any:
        return packing.canonical(tap, of(parameter))

    if not is_dtensor(parameter):
        is_cut = list(packing.canonical(tap, parameter).shape) != ctx.case.param_shape(tap)
        ctx.parameter_of(tap, [parameter], read, planned if is_cut else [])
        return
    said, wanted = packing.canonical_cuts(tap, _said(parameter, layout)), _declared(ctx, tap)
    if layout.fsdp_size == 1 or sorted(said) == sorted(wanted) or not _differs_in_fsdp_only(said, wanted, layout):
        ctx.parameter_of(tap, [parameter], read, said)
    else:
        # The driver has fsdp cut the experts' dim 1, releases cut dim 0: gathered by the DTensor's own placements, cut as declared.
        ctx.parameter_of(tap, [parameter], lambda of: _recut(ctx, packing.canonical(tap, _gathered(parameter, of)), wanted), wanted)


def _said(parameter: Any, layout: Layout) -> list[Cut]:
    names = parameter.device_mesh.mesh_dim_names or ("tp",)
    cuts: list[Cut] = []
    for i, (name, placement) in enumerate(zip(names, parameter.placements, strict=True)):
        if parameter.device_mesh.size(i) == 1 or placement.is_replicate():
            continue
        dims = layout.dims.get(name, name)
        if type(placement).__name__ == "_StridedShard":
            cuts.append((dims, f"StridedShard({placement.dim % parameter.ndim},{placement.split_factor})"))
        else:
            cuts.append((dims, "Partial" if placement.is_partial() else f"Shard({placement.dim % parameter.ndim})"))
    return cuts


def _declared(ctx: Context, tap: str) -> list[Cut]:
    """As the driver has it (harness/trace/layout.h)."""
    case = ctx.case
    cuts: list[Cut] = []
    if tap in (GATE_UP, DOWN):
        cuts = [(case.expert_dims, "Shard(0)")] if case.mesh.size(case.expert_dims) > 1 else []
        return [*cuts, ("fsdp", "Shard(1)")] if case.mesh.size("fsdp") > 1 else cuts
    if tap == ATTENTION and case.mesh.size("tp") > 1:
        cuts = [("tp", "Shard(1)")]
    if case.mesh.size("fsdp") > 1:
        cuts.append(("fsdp,ep" if case.shards_tokens("ep") else "fsdp", "Shard(0)"))
    return cuts


def _differs_in_fsdp_only(said: Sequence[Cut], wanted: Sequence[Cut], layout: Layout) -> bool:
    """What ep and tp should have cut and did not is shown as it is."""
    of_fsdp = {layout.dims.get("fsdp"), layout.dims.get("efsdp"), "fsdp", "fsdp,ep"}
    return {cut for cut in said if cut[0] not in of_fsdp} == {cut for cut in wanted if cut[0] not in of_fsdp}


def _gathered(parameter: Any, of: Of) -> Any:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(of(parameter), parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape,
                              stride=parameter.stride()).full_tensor()


def _recut(ctx: Context, whole: Any, cuts: Sequence[Cut]) -> Any:
    import torch

    for dim, size in enumerate(whole.shape):
        held = held_indices(cuts, size, dim, ctx.case.mesh, ctx.rank)
        if len(held) < size:
            whole = whole.index_select(dim, torch.tensor(held, dtype=torch.int64))
    return whole


def planned_cuts(ctx: Context, layout: Layout, plan: dict[str, str]) -> dict[str, list[Cut]]:
    """Of the layer's parameters, and as entries of the plan to the driver. plan: as the model has it, names from its root."""
    cuts: dict[str, list[Cut]] = {}
    for pattern, style in plan.items():
        tap = _OF_THE_LAYER.get(pattern.removeprefix("model."))
        if tap is None:
            continue
        dims = layout.dims.get("ep" if style == "grouped_gemm" else "tp", "tp")
        kept_as = cuts_by_style(style, len(ctx.case.param_shape(tap)), dims)
        cuts[tap] = family_of(ctx.case).packing.canonical_cuts(tap, kept_as)
        ctx.plan(pattern, style, cuts[tap], [tap])
    return cuts
