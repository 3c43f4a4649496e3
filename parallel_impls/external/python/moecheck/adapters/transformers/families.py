"""Families of models as transformers names them: configuration, the modules of the layer, and the plan for expert parallelism."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moecheck.adapters.transformers.packing import INTERLEAVED, ROWS, Packing
from moecheck.case import Case, ModelSpec, Unsupported

VOCABULARY = 48


@dataclass(frozen=True)
class Family:
    model_type: str
    prefix: str
    """Of its classes: Qwen3Moe in Qwen3MoeConfig, Qwen3MoeExperts."""
    config: Callable[[ModelSpec], dict[str, Any]]
    softmax: str = "before_topk"
    router: str = "gate"
    """The router's name in the block."""
    packing: Packing = ROWS
    is_clamped: bool = False
    """The activation of GPT-OSS; else silu."""
    has_routed_scale: bool = False
    is_attention_cut: bool = True
    """By tensor parallelism; no plan cuts the latent attention of DeepSeek-V3."""

    def config_class(self) -> Any:
        return self._class("configuration", "Config")

    def experts_class(self) -> Any:
        return self._class("modeling", "Experts", "NaiveMoe")

    def router_class(self) -> Any:
        return self._class("modeling", "TopKRouter", "TopkRouter")

    def routing_block_class(self) -> Any:
        """The block, where it makes scores of its gate's logits itself (DeepSeek-V3 up to 5.10); else None."""
        block = getattr(self._module("modeling"), self.prefix + "MoE", None)
        return block if hasattr(block, "route_tokens_to_experts") else None

    def refusal(self, model: ModelSpec) -> str:
        """Why its modules in transformers do not compute `model`; empty if they do."""
        if model.softmax != self.softmax:
            return f"{model.family} of transformers takes softmax={self.softmax}"
        if model.routed_scale != 1 and not self.has_routed_scale:
            return f"{model.family} of transformers does not scale its scores"
        activation = model.activation
        is_its_own = (activation.alpha, activation.up_shift) == (_GPT_OSS_ALPHA, 1.0) if self.is_clamped else activation.is_silu
        return "" if is_its_own else f"{model.family} of transformers has another activation"

    def _class(self, kind: str, *names: str) -> Any:
        """The first that the release has. Errors: AttributeError."""
        module = self._module(kind)
        found = [getattr(module, self.prefix + name) for name in names if hasattr(module, self.prefix + name)]
        if not found:
            raise AttributeError(f"{module.__name__} has none of {', '.join(self.prefix + name for name in names)}")
        return found[0]

    def _module(self, kind: str) -> Any:
        return importlib.import_module(f"transformers.models.{self.model_type}.{kind}_{self.model_type}")


_GPT_OSS_ALPHA = 1.702


def _qwen3_moe(m: ModelSpec) -> dict[str, Any]:
    return {"num_experts": m.num_experts, "moe_intermediate_size": m.d_ff, "intermediate_size": m.d_ff, "norm_topk_prob": m.renormalise,
            "decoder_sparse_step": 1}


def _mixtral(m: ModelSpec) -> dict[str, Any]:
    if not m.renormalise:
        raise Unsupported("mixtral of transformers always divides the scores by their sum")
    return {"num_local_experts": m.num_experts, "intermediate_size": m.d_ff}


def _olmoe(m: ModelSpec) -> dict[str, Any]:
    return {"num_experts": m.num_experts, "intermediate_size": m.d_ff, "norm_topk_prob": m.renormalise}


def _gpt_oss(m: ModelSpec) -> dict[str, Any]:
    """swiglu_limit: releases before 5.20 keep it as an attribute, see set_activation()."""
    return {"num_local_experts": m.num_experts, "intermediate_size": m.d_ff, "swiglu_limit": m.activation.limit,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def _deepseek_v3(m: ModelSpec) -> dict[str, Any]:
    """One group of experts, no dense layer before this one, a shared expert whose weights (folder.py) let it add nothing, and attention
    of the smallest sizes with an output weight of (D, D)."""
    v_head_dim, rotary = m.d_model // num_heads(m.d_model), 4
    return {"n_routed_experts": m.num_experts, "moe_intermediate_size": m.d_ff, "intermediate_size": m.d_ff, "n_shared_experts": 1,
            "norm_topk_prob": m.renormalise, "routed_scaling_factor": m.routed_scale, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 0, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": v_head_dim,
            "qk_rope_head_dim": rotary, "v_head_dim": v_head_dim, "head_dim": rotary}


_FAMILIES = (Family("qwen3_moe", "Qwen3Moe", _qwen3_moe), Family("mixtral", "Mixtral", _mixtral), Family("olmoe", "Olmoe", _olmoe),
             Family("gpt_oss", "GptOss", _gpt_oss, softmax="after_topk", router="router", packing=INTERLEAVED, is_clamped=True),
             Family("deepseek_v3", "DeepseekV3", _deepseek_v3, softmax="sigmoid", has_routed_scale=True, is_attention_cut=False))
_BY_NAME = {f.model_type: f for f in _FAMILIES} | {"qwen3_30b_a3b": _FAMILIES[0], "mixtral_8x7b": _FAMILIES[1]}

# What releases without an expert-parallel plan for a family were given by their users, in the styles of those that have one.
_EP_PLAN = {"layers.*.mlp.gate": "ep_router", "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
            "layers.*.mlp.experts.down_proj": "grouped_gemm", "layers.*.mlp.experts": "moe_tp_experts"}


def family_of(case: Case) -> Family:
    """Errors: Unsupported."""
    model = case.model
    if model.family not in _BY_NAME:
        raise Unsupported(f"the adapter does not know the family {model.family}; it has {', '.join(_BY_NAME)}")
    family = _BY_NAME[model.family]
    if reason := family.refusal(model):
        raise Unsupported(reason)
    return family


def import_models() -> None:
    """Of all families."""
    for family in _FAMILIES:
        family.experts_class()
        family.config_class()


def num_heads(d_model: int) -> int:
    """The most of 12 or fewer with an even head size (rotary embeddings): what tp of 2, 3 and 4 divides, where it can be had."""
    return next(n for n in range(12, 0, -1) if d_model % n == 0 and d_model // n % 2 == 0)


def make_config(case: Case, ep_plan: dict[str, str] | None) -> Any:
    """A configuration with one layer. ep_plan: put into its class, as from_pretrained reads it from there. Errors: Unsupported."""
    model, family = case.model, family_of(case)
    heads = num_heads(model.d_model)
    config_class = family.config_class()
    if ep_plan is not None:
        config_class.base_model_ep_plan = ep_plan
    general = {"hidden_size": model.d_model, "num_experts_per_tok": model.top_k, "num_hidden_layers": 1, "num_attention_heads": heads,
               "num_key_value_heads": heads, "head_dim": model.d_model // heads, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
               "tie_word_embeddings": False, "architectures": [family.prefix + "ForCausalLM"]}
    return config_class(**(general | family.config(model)))


def set_activation(case: Case, experts: Any) -> None:
    """GPT-OSS keeps the limit of its activation as a number in the module, 7.0; from 5.20 on it comes from the configuration. Values as
    these cases have them (of a unit's size) hardly ever reach 7, so that nothing would tell a clamp from none: families here have a
    smaller one, set before anything is computed."""
    if family_of(case).is_clamped:
        experts.limit = case.model.activation.limit


def spreads_experts(plan: dict[str, str] | None) -> bool:
    """A tp plan may give whole experts to ranks: that of GPT-OSS in 5.1 is expert parallelism beside tensor-parallel attention."""
    return "grouped_gemm" in (plan or {}).values()


def ep_plan_for(case: Case, with_dense: bool) -> tuple[dict[str, str] | None, bool]:
    """The plan to put into the configuration class, None where the release's own stands, and whether the release had one. with_dense:
    with the attention's entries of the tp plan, and those of shared experts, beside the experts'."""
    config_class = family_of(case).config_class()
    if not hasattr(config_class, "moecheck_own_ep_plan"):
        config_class.moecheck_own_ep_plan = config_class.base_model_ep_plan
    own, tp_plan = config_class.moecheck_own_ep_plan, dict(config_class.base_model_tp_plan or {})
    if own is None and spreads_experts(tp_plan):
        plan = {name: style for name, style in tp_plan.items() if ".mlp." in name}
    else:
        plan = dict(own or _EP_PLAN)
    if with_dense:
        plan |= {name: style for name, style in tp_plan.items() if ".self_attn." in name or ".shared_experts." in name}
    return plan, own is not None
