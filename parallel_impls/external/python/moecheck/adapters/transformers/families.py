"""Families of models as transformers names them: configuration, the modules of the layer, and the plan for expert parallelism."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moecheck.case import Case, ModelSpec, Unsupported

VOCABULARY = 48


@dataclass(frozen=True)
class Family:
    model_type: str
    prefix: str
    """Of its classes: Qwen3Moe in Qwen3MoeConfig, Qwen3MoeExperts."""
    config: Callable[[ModelSpec], dict[str, Any]]

    def config_class(self) -> Any:
        return self._class("configuration", "Config")

    def experts_class(self) -> Any:
        return self._class("modeling", "Experts")

    def router_class(self) -> Any:
        return self._class("modeling", "TopKRouter")

    def _class(self, kind: str, name: str) -> Any:
        module = importlib.import_module(f"transformers.models.{self.model_type}.{kind}_{self.model_type}")
        return getattr(module, self.prefix + name)


def _qwen3_moe(m: ModelSpec) -> dict[str, Any]:
    return {"num_experts": m.num_experts, "moe_intermediate_size": m.d_ff, "intermediate_size": m.d_ff, "norm_topk_prob": m.renormalise,
            "decoder_sparse_step": 1}


def _mixtral(m: ModelSpec) -> dict[str, Any]:
    if not m.renormalise:
        raise Unsupported("mixtral of transformers always divides the scores by their sum")
    return {"num_local_experts": m.num_experts, "intermediate_size": m.d_ff}


def _olmoe(m: ModelSpec) -> dict[str, Any]:
    return {"num_experts": m.num_experts, "intermediate_size": m.d_ff, "norm_topk_prob": m.renormalise}


_FAMILIES = (Family("qwen3_moe", "Qwen3Moe", _qwen3_moe), Family("mixtral", "Mixtral", _mixtral), Family("olmoe", "Olmoe", _olmoe))
_BY_NAME = {f.model_type: f for f in _FAMILIES} | {"qwen3_30b_a3b": _FAMILIES[0], "mixtral_8x7b": _FAMILIES[1]}

# What releases without an expert-parallel plan for a family were given by their users, in the styles of those that have one.
_EP_PLAN = {"layers.*.mlp.gate": "ep_router", "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
            "layers.*.mlp.experts.down_proj": "grouped_gemm", "layers.*.mlp.experts": "moe_tp_experts"}


def family_of(case: Case) -> Family:
    """Errors: Unsupported."""
    model = case.model
    if model.family not in _BY_NAME:
        raise Unsupported(f"the adapter does not know the family {model.family}; it has {', '.join(_BY_NAME)}")
    if not model.softmax_before_topk:
        raise Unsupported(f"{model.family} of transformers takes the softmax before the top-k")
    return _BY_NAME[model.family]


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
    return config_class(hidden_size=model.d_model, num_experts_per_tok=model.top_k, num_hidden_layers=1, num_attention_heads=heads,
                        num_key_value_heads=heads, head_dim=model.d_model // heads, vocab_size=VOCABULARY, max_position_embeddings=64,
                        tie_word_embeddings=False, architectures=[family.prefix + "ForCausalLM"], **family.config(model))


def ep_plan_for(case: Case, with_dense: bool) -> tuple[dict[str, str] | None, bool]:
    """The plan to put into the configuration class, None where the release's own stands, and whether the release had one. with_dense:
    with the attention's entries of the tp plan beside the experts'."""
    config_class = family_of(case).config_class()
    if not hasattr(config_class, "moecheck_own_ep_plan"):
        config_class.moecheck_own_ep_plan = config_class.base_model_ep_plan
    own = config_class.moecheck_own_ep_plan
    plan = dict(own or _EP_PLAN)
    if with_dense:
        plan |= {name: style for name, style in (config_class.base_model_tp_plan or {}).items() if ".self_attn." in name}
    return plan, own is not None
