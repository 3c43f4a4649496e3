"""torchtitan 0.3.0: layers made and cut by configuration, on its DTensor backend (spmd_backend=partial_dtensor). Imports torch and
torchtitan; needs a torch that has what torchtitan 0.3.0 imports (2.14 has, 2.11 has not).

Its experts always are a grouped GEMM of operands rounded to bf16, its scores are applied after them, and no experts are cut over tp
beside ep.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from moecheck.adapters.torchtitan import shims
from moecheck.adapters.torchtitan.layout import SCORE_FUNCTIONS, Layout
from moecheck.adapters.torchtitan.parameters import Parts
from moecheck.case import Case, Unsupported

_BACKEND = "partial_dtensor"
_kept: dict[Layout, Any] = {}


class Release:
    averages_gradients = False

    def __init__(self, version: str) -> None:
        """Errors: Unsupported for a torch that is too old."""
        if not hasattr(torch.compiler, "_is_non_strict_tracing"):
            raise Unsupported(f"torchtitan {version} needs a newer torch than {torch.__version__}")
        self._moe = importlib.import_module("torchtitan.models.common.moe")
        self._dispatcher = importlib.import_module("torchtitan.models.common.token_dispatcher")
        self._sharding = importlib.import_module("torchtitan.models.common.moe_sharding")
        self._linear = importlib.import_module("torchtitan.models.common.linear")
        self._dims = importlib.import_module("torchtitan.distributed.parallel_dims")
        self._spmd = importlib.import_module("spmd_types")
        # A CUDA build of torch is taken for a machine with CUDA.
        self._dims.device_type = "cpu"  # type: ignore[attr-defined]
        importlib.import_module("torchtitan.distributed.utils").set_spmd_backend(_BACKEND)

    def make_moe(self, case: Case) -> Any:
        """On the CPU, in the case's dtype, with weights that nobody wrote. No shared experts, no bias of the load balancing.
        Errors: Unsupported."""
        if reason := _refusal(case):
            raise Unsupported(f"torchtitan 0.3.0 {reason}")
        layout, model = Layout.of(case), case.model
        kinds, num_experts = self._moe, model.num_experts
        dispatch = self._dispatcher.AllToAllTokenDispatcher if layout.ep > 1 else self._dispatcher.LocalTokenDispatcher
        gate = self._linear.Linear.Config(in_features=model.d_model, out_features=num_experts)
        experts = kinds.GroupedExperts.Config(dim=model.d_model, hidden_dim=model.d_ff, num_experts=num_experts)
        config = kinds.MoE.Config(
            num_experts=num_experts, load_balance_coeff=None,
            router=kinds.TokenChoiceTopKRouter.Config(num_experts=num_experts, gate=gate, top_k=model.top_k,
                                                      score_func=SCORE_FUNCTIONS[model.softmax], route_norm=model.renormalise,
                                                      route_scale=model.routed_scale),
            routed_experts=kinds.RoutedExperts.Config(
                inner_experts=experts, token_dispatcher=dispatch.Config(num_experts=num_experts, top_k=model.top_k)))
        columns, rows = self._spmd.S(1), self._spmd.S(2)
        self._sharding.set_moe_sharding_config(config, enable_ep=layout.ep > 1, enable_sp=True,
                                               expert_param_layout={"w1_EFD": columns, "w2_EDF": rows, "w3_EFD": columns})
        moe = config.build().to(case.torch_dtype)
        moe.tokens_per_expert_E = torch.zeros(num_experts, dtype=torch.float32)
        shims.compute_in_fp32(moe.router.gate)
        return moe

    @staticmethod
    def parts(moe: Any) -> Parts:
        experts = moe.routed_experts.inner_experts
        return Parts(moe.router.gate, experts.w1_EFD, experts.w2_EDF, experts.w3_EFD)

    def parallelized(self, moe: Any, layout: Layout, dtype: torch.dtype) -> nn.Module:
        """Ranks: every rank."""
        if layout.style:
            moe.parallelize(self._parallel_dims(layout))
        return moe

    def _parallel_dims(self, layout: Layout) -> Any:
        """torchtitan's own meshes. Kept, as they hold process groups."""
        if layout not in _kept:
            data_ranks = layout.ep // layout.tp if layout.ep > 1 else 1
            dims = self._dims.ParallelDims(dp_replicate=1, dp_shard=data_ranks, cp=1, tp=layout.tp, pp=1, ep=layout.ep,
                                           world_size=data_ranks * layout.tp, spmd_backend=_BACKEND)
            dims.build_mesh()
            _kept[layout] = dims
        return _kept[layout]


def _refusal(case: Case) -> str:
    layout = Layout.of(case)
    if case.experts_backend != "grouped_mm":
        return "computes its experts by grouped_mm only"
    if case.apply_scores != "after_experts":
        return "applies scores after the experts only"
    if layout.style == "ExpertTensorParallel":
        return "does not cut experts over tp beside ep: use expert_tp=one"
    if layout.fsdp > 1:
        return "has an FSDP that is not driven here"
    if case.dtype == "bf16" and case.has_phase("backward"):
        # Nothing could be said of the router's gradient: the logits in between do not fit their tap.
        return "routes in fp32: run a backward with values=exact in fp32"
    return ""
