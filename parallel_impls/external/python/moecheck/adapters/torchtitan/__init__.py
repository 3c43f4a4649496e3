"""torchtitan's MoE layer as subjects: importing this offers them. Driven: 0.2.0 to 0.2.2, and 0.3.0 without FSDP.

`torchtitan` is the layer alone, `torchtitan_ep`, `torchtitan_tp` and `torchtitan_ep_tp` (expert_tp=tp or one) have apply_moe_ep_tp
applied, `torchtitan_ep_fsdp` also apply_fsdp. What the trainer does for the layer is done here too: see layer.py. The release is what
`import torchtitan` finds; another one is another PYTHONPATH.
"""

from __future__ import annotations

from typing import Any

from moecheck.adapters.torchtitan.layout import refusal
from moecheck.case import Case, Unsupported
from moecheck.context import Context
from moecheck.registry import subject

_IMPLEMENTATIONS = {
    "torchtitan": ((), "torchtitan's MoE layer on one rank"),
    "torchtitan_ep": (("ep",), "torchtitan's MoE layer, apply_moe_ep_tp with expert parallelism"),
    "torchtitan_tp": (("tp",), "torchtitan's MoE layer, apply_moe_ep_tp with tensor parallelism"),
    "torchtitan_ep_tp": (("ep", "tp"), "torchtitan's MoE layer, apply_moe_ep_tp with both; expert_tp=one lends tp to ep"),
    "torchtitan_ep_fsdp": (("fsdp", "ep"), "torchtitan's MoE layer, apply_moe_ep_tp and apply_fsdp"),
}


def _make(case: Case, ctx: Context) -> Any:
    if reason := refusal(case):
        raise Unsupported(reason)
    from moecheck.adapters.torchtitan import layer

    return layer.Layer(case, ctx)


for _name, (_dims, _summary) in _IMPLEMENTATIONS.items():
    subject(name=_name, mesh_dims=_dims, backends=("eager", "grouped_mm"), dtypes=("fp32", "bf16"),
            heeds=("apply_scores", "softmax", "routed_scale", "expert_tp", "tokens_over"), summary=_summary)(_make)
