"""How an implementation's mesh is said to a release: sizes, plans, and which of the case's dimensions each of its mesh dimensions is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moecheck.adapters.transformers.families import family_of, spreads_experts
from moecheck.adapters.transformers.release import DISPATCH, DTENSOR, HOOKS, Release
from moecheck.case import Case, Unsupported

NONE, TP, EP, EP_TP, EP_FSDP, FSDP = ("transformers", "transformers_tp", "transformers_ep", "transformers_ep_tp", "transformers_ep_fsdp",
                                      "transformers_fsdp")


@dataclass(frozen=True)
class Layout:
    tp_size: int = 1
    ep_size: int = 1
    fsdp_size: int = 1
    shards_dense_over_tp: bool = False
    is_ep_in_tp_plan: bool = False
    """The family's tp plan spreads whole experts, and is all that is asked for."""
    has_tp_plan: bool = True
    """The family has one; without it there is nothing of its layers to take out where only experts are to be spread."""
    dims: dict[str, str] = field(default_factory=dict)
    """Dimensions of the release's meshes (fsdp, tp, efsdp, ep) as dimensions of the case's."""

    @property
    def is_parallel(self) -> bool:
        return self.tp_size * self.fsdp_size > 1

    @property
    def experts_group(self) -> str:
        """The case's dimensions over which the experts' sums are partial, where tokens are replicated."""
        return self.dims.get("ep" if self.ep_size > 1 else "tp", "")


def layout_of(case: Case, release: Release) -> Layout:
    """Errors: Unsupported with the reason."""
    make = {NONE: lambda: Layout(), TP: lambda: _tp(case), EP: lambda: _ep(case), EP_TP: lambda: _ep_tp(case, release),
            FSDP: lambda: _fsdp(case, release), EP_FSDP: lambda: _ep_fsdp(case, release)}
    if case.mesh.size("dp") > 1:
        raise Unsupported("data parallelism outside of the layer is the trainer's, not the release's")
    return make[case.impl]()


def _tp(case: Case) -> Layout:
    if case.expert_tp == "one":
        raise Unsupported("whole experts over tp ranks are expert parallelism beside tensor parallelism: transformers_ep_tp")
    _refuse_sharded_tokens(case, "tp")
    return Layout(tp_size=case.mesh.size("tp"), shards_dense_over_tp=True, dims={"tp": "tp"})


def _ep(case: Case) -> Layout:
    size = case.mesh.size("ep")
    _refuse_sharded_tokens(case, "ep")
    return Layout(tp_size=size, ep_size=size, dims={"tp": "ep", "ep": "ep"})


def _ep_tp(case: Case, release: Release) -> Layout:
    ep, tp = case.mesh.size("ep"), case.mesh.size("tp")
    _refuse_sharded_tokens(case, "tp")
    if case.expert_tp != "one" and tp > 1:
        raise Unsupported("experts that are cut by tp beside ep cannot be expressed: whole experts only (expert_tp=one)")
    if ep == 1:
        return Layout(tp_size=tp, ep_size=tp, shards_dense_over_tp=True, dims={"tp": "tp", "ep": "ep,tp"})
    if release.generation != DISPATCH:
        raise Unsupported("ep beside tp over other ranks needs ep_size, which releases before 5.20 do not have")
    if not case.shards_tokens("ep"):
        raise Unsupported("tokens replicated over ep cannot be expressed where ep_size > tp_size: every rank of fsdp has its own")
    if case.has_phase("step"):
        raise Unsupported("dense parameters are sharded over ranks on which this mesh has them replicated: shown gathered, not stepped")
    return Layout(tp_size=tp, ep_size=ep * tp, fsdp_size=ep, shards_dense_over_tp=True, dims={"fsdp": "ep", "tp": "tp", "ep": "ep,tp"})


def _fsdp(case: Case, release: Release) -> Layout:
    _refuse_without_fsdp(release)
    return Layout(fsdp_size=case.mesh.size("fsdp"), dims={"fsdp": "fsdp"})


def _ep_fsdp(case: Case, release: Release) -> Layout:
    fsdp, ep = case.mesh.size("fsdp"), case.mesh.size("ep")
    _refuse_without_fsdp(release)
    if not case.shards_tokens("ep"):
        raise Unsupported("tokens replicated over ep cannot be expressed beside fsdp: every rank of fsdp has its own")
    if fsdp == 1 and case.has_phase("step"):
        raise Unsupported("dense parameters are sharded over ranks on which this mesh has them replicated: shown gathered, not stepped")
    return Layout(ep_size=ep, fsdp_size=fsdp * ep, dims={"fsdp": "fsdp,ep", "ep": "ep", "efsdp": "fsdp"})


def _refuse_without_fsdp(release: Release) -> None:
    if not release.loads_fsdp:
        raise Unsupported("from_pretrained of releases before 5.15 does not apply fsdp_size; fully_shard was left to the trainer")


def _refuse_sharded_tokens(case: Case, dim: str) -> None:
    if case.shards_tokens(dim):
        raise Unsupported(f"the release replicates tokens over {dim}")


def by_plans_of(case: Case, layout: Layout, release: Release) -> Layout:
    """As the release's plans for the family have it. Imports the family. Errors: Unsupported with the reason."""
    family, name = family_of(case), f"transformers {release.version}"
    tp_plan = family.config_class().base_model_tp_plan
    if layout.shards_dense_over_tp and not tp_plan:
        raise Unsupported(f"{name} has no tp plan for {case.model.family}")
    if case.impl == TP and spreads_experts(tp_plan):
        raise Unsupported(f"the tp plan of {name} for {case.model.family} spreads whole experts: transformers_ep_tp")
    if layout.ep_size > 1 and family.routing_block_class() is not None:
        raise Unsupported(f"{name} has no expert-parallel plan for {case.model.family}, and no style for one: a router has to return "
                          "logits, scores and ids, where its block makes scores of its gate's logits")
    return replace(layout, is_ep_in_tp_plan=layout.shards_dense_over_tp and spreads_experts(tp_plan), has_tp_plan=bool(tp_plan))


def loading_arguments(layout: Layout, release: Release) -> dict[str, object]:
    """Of from_pretrained. Requires: a parallel layout."""
    from transformers.distributed import DistributedConfig

    is_ep = layout.ep_size > 1 and not layout.is_ep_in_tp_plan
    if release.takes_tp_plan:
        return {"tp_plan": "auto", "distributed_config": DistributedConfig(enable_expert_parallel=True) if is_ep else None}
    if release.generation == DISPATCH:
        plan: dict[str, str] | None = {} if is_ep and layout.has_tp_plan and not layout.shards_dense_over_tp else None
        return {"distributed_config": DistributedConfig(tp_size=layout.tp_size, fsdp_size=layout.fsdp_size, ep_size=layout.ep_size,
                                                        tp_plan=plan if layout.tp_size > 1 else None)}
    return {"distributed_config": DistributedConfig(tp_size=layout.tp_size, fsdp_size=layout.fsdp_size, enable_expert_parallel=is_ep)}


def is_plan_from_configuration(layout: Layout, release: Release) -> bool:
    """Whether the experts' plan alone rules all modules, so that dense entries have to stand in it."""
    return layout.ep_size > 1 and not layout.is_ep_in_tp_plan and release.generation in (HOOKS, DTENSOR)
