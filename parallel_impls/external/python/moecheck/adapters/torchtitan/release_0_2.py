"""torchtitan 0.2.0, 0.2.1 and 0.2.2: torchtitan.models.moe and apply_moe_ep_tp. Imports torch and torchtitan."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import nn

from moecheck.adapters.torchtitan import shims
from moecheck.adapters.torchtitan.layout import SCORE_FUNCTIONS, Layout
from moecheck.adapters.torchtitan.meshes import Meshes, meshes_of
from moecheck.adapters.torchtitan.parameters import Parts
from moecheck.case import Case

# From here on FSDP sums gradients, and the trainer divides the loss by the number of all tokens; before, it averaged over data parallelism.
_SUMS_SINCE = "0.2.2"


class Release:
    def __init__(self, version: str) -> None:
        self._version = version
        self._moe = importlib.import_module("torchtitan.models.moe")
        self._parallelize = importlib.import_module("torchtitan.models.llama4.infra.parallelize")
        shims.fill_indices_in_python(importlib.import_module("torchtitan.models.moe.utils"))

    @property
    def averages_gradients(self) -> bool:
        """FSDP divides them by the number of ranks with data of their own."""
        return self._version < _SUMS_SINCE

    def make_moe(self, case: Case) -> Any:
        """On the CPU, in the case's dtype, with weights that nobody wrote. No shared experts, no bias of the load balancing."""
        model = case.model
        args = self._moe.MoEArgs(num_experts=model.num_experts, num_shared_experts=0, score_func=SCORE_FUNCTIONS[model.softmax],
                                 route_norm=model.renormalise, route_scale=model.routed_scale,
                                 score_before_experts=case.apply_scores == "before_experts", top_k=model.top_k,
                                 use_grouped_mm=case.experts_backend == "grouped_mm", load_balance_coeff=None)
        moe = self._moe.MoE(args, dim=model.d_model, hidden_dim=model.d_ff).to(case.torch_dtype)
        # A buffer that only counts: the trainer keeps it in fp32.
        moe.tokens_per_expert = torch.zeros(model.num_experts, dtype=torch.float32)
        return moe

    @staticmethod
    def parts(moe: Any) -> Parts:
        return Parts(moe.router.gate, moe.experts.w1, moe.experts.w2, moe.experts.w3)

    def parallelized(self, moe: nn.Module, layout: Layout, dtype: torch.dtype) -> nn.Module:
        """As much of a model around the layer as torchtitan's functions look at. Ranks: every rank."""
        model = _Model(_Block(moe))
        meshes = meshes_of(layout, "tp" if self._version == "0.2.0" else "etp")
        if layout.style:
            self._apply_moe_ep_tp(model, meshes)
        if layout.fsdp > 1:
            self._apply_fsdp(model, meshes, layout.ep, dtype)
        return model

    def _apply_moe_ep_tp(self, model: nn.Module, meshes: Meshes) -> None:
        """With the names that its parameters have in this release."""
        apply = self._parallelize.apply_moe_ep_tp
        named = {"tp_mesh": meshes.tp, "ep_mesh": meshes.ep}
        if self._version == "0.2.0":
            apply(model, **named, ep_tp_mesh=meshes.ep_etp, etp_enabled=meshes.ep_etp is not None)
        else:
            etp = None if meshes.ep_etp is None else meshes.ep_etp["etp"]
            apply(model, **named, etp_mesh=etp, ep_etp_mesh=meshes.ep_etp)

    def _apply_fsdp(self, model: nn.Module, meshes: Meshes, ep: int, dtype: torch.dtype) -> None:
        """With what the trainer gives it."""
        apply = self._parallelize.apply_fsdp
        experts = "edp_mesh" if "edp_mesh" in inspect.signature(apply).parameters else "dp_mod_ep_mesh"
        apply(model, meshes.dense_fsdp, param_dtype=dtype, reduce_dtype=torch.float32, pp_enabled=False, ep_degree=ep,
              gradient_divide_factor=meshes.dense_fsdp.size(), **{experts: meshes.expert_fsdp})
        shims.reduce_by_sums(model)


class _Block(nn.Module):
    moe_enabled = True

    def __init__(self, moe: nn.Module) -> None:
        super().__init__()
        self.moe = moe

    def forward(self, x_BLD: torch.Tensor) -> Any:
        return self.moe(x_BLD)


class _Model(nn.Module):
    tok_embeddings = norm = output = None

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"0": block})

    def forward(self, x_BLD: torch.Tensor) -> Any:
        return self.layers["0"](x_BLD)
