"""What torchtitan can be asked for, as this package's cases say it. Importable without torch.

torchtitan has no layer whose tokens are whole on every rank: over expert parallelism each rank has sequences of its own, over tensor
parallelism each has a piece of every sequence (sequence parallelism around the layer). So tokens are sharded over every dimension of
the mesh. Expert parallelism borrows ranks: those of data parallelism, and with an expert TP of 1 those of tensor parallelism too.
"""

from __future__ import annotations

from dataclasses import dataclass

from moecheck.case import Case, ModelSpec
from moecheck.mesh import Cut

GATE_UP, DOWN, ROUTER = "param/experts/gate_up_EGD", "param/experts/down_EDF", "param/router/w_ED"
SCORE_FUNCTIONS = {"before_topk": "softmax", "sigmoid": "sigmoid"}
"""As torchtitan calls them."""
_ROUNDED_GEMM = "grouped_mm"
_EP, _EXPERT_TP = "ExpertParallel", "ExpertTensorParallel"


@dataclass(frozen=True)
class Layout:
    ep: int
    """Ranks that the experts are spread over."""
    tp: int
    fsdp: int
    lends_tp: bool
    """Expert TP of 1: the ranks of tp are lent to expert parallelism."""

    @staticmethod
    def of(case: Case) -> Layout:
        lends_tp = case.expert_tp == "one" and case.mesh.size("tp") > 1
        return Layout(case.mesh.size(case.expert_dims), case.mesh.size("tp"), case.mesh.size("fsdp"), lends_tp)

    @property
    def cuts_experts(self) -> bool:
        return self.tp > 1 and not self.lends_tp

    @property
    def style(self) -> str:
        """The class that apply_moe_ep_tp chooses for the experts; "" for none."""
        if self.ep == 1:
            return "TensorParallel" if self.tp > 1 else ""
        return _EXPERT_TP if self.cuts_experts else _EP

    def fsdp_divides(self, model: ModelSpec) -> bool:
        """apply_fsdp shards a rank's experts, or, where ep and fsdp together have more ranks than there are experts, each one's rows."""
        shards_rows = self.ep > 1 and self.ep * self.fsdp > model.num_experts
        sizes = (model.d_ff, model.d_model) if shards_rows else (model.num_experts // self.ep, 2 * model.d_ff, model.d_model)
        return all(size % self.fsdp == 0 for size in sizes)

    def planned_cuts(self, tap: str, expert_dims: str) -> list[Cut]:
        """What that class says."""
        cuts: list[Cut] = [(expert_dims, "Shard(0)")] if self.ep > 1 else []
        if self.cuts_experts:
            cuts.append(("tp", "StridedShard(1,2)" if tap == GATE_UP else "Shard(2)"))
        return cuts


def refusal(case: Case) -> str:
    """Why torchtitan cannot run the case; "" if it can. The dimensions of the mesh are those that the subject offers."""
    for refuse in (_refused_routing, _refused_tokens, _refused_mesh, _refused_experts):
        if reason := refuse(case):
            return reason
    return ""


def _refused_routing(case: Case) -> str:
    if case.model.softmax not in SCORE_FUNCTIONS:
        return "torchtitan takes a softmax, or a sigmoid in its place, before the top-k"
    return ""


def _refused_tokens(case: Case) -> str:
    for dim, size in case.mesh.dims:
        if size > 1 and not case.shards_tokens(dim):
            return f"torchtitan shards tokens over {dim}: tokens_over has to name it"
    counts = {case.num_tokens(rank) for rank in range(case.mesh.world_size)}
    if case.mesh.size("tp") > 1 and len(counts) > 1:
        return "torchtitan's sequence parallelism needs as many tokens on every rank"
    return ""


def _refused_mesh(case: Case) -> str:
    names = [name for name, _ in case.mesh.dims]
    order = [name for name in ("fsdp", "ep", "tp") if name in names]
    if names != order:
        return f"torchtitan's mesh has its dimensions in the order {','.join(order)}"
    if case.expert_tp == "one" and case.impl == "torchtitan_tp":
        return "an expert TP of 1 is expert parallelism: ask torchtitan_ep_tp for it"
    if case.impl == "torchtitan_ep_tp" and case.mesh.size(case.expert_dims) == 1:
        return "without expert parallelism this is torchtitan_tp"
    return ""


def _refused_experts(case: Case) -> str:
    layout, model = Layout.of(case), case.model
    if model.num_experts % layout.ep or (layout.cuts_experts and model.d_ff % layout.tp):
        return f"{model.num_experts} experts of {model.d_ff} rows are not divided by ep={layout.ep} and tp={layout.tp}"
    if layout.fsdp > 1 and not layout.fsdp_divides(model):
        return f"fsdp={layout.fsdp} does not divide what it shards of the {model.num_experts // layout.ep} experts of a rank"
    is_lossless = case.dtype == "bf16" or (case.values == "exact" and not case.has_phase("step"))
    if case.experts_backend == _ROUNDED_GEMM and not is_lossless:
        return "torchtitan's grouped GEMM rounds what it is given to bf16: run it with dtype=bf16, or with values=exact before any step"
    return ""
