"""transformers (5.1 and later) as subjects: its MoE layers, loaded by from_pretrained with the release's own parallel plans.

    import moecheck.adapters.transformers
    moecheck.main()

transformers            no parallelism
transformers_tp         the family's tp plan over tp
transformers_ep         the family's ep plan over ep; tokens replicated
transformers_ep_tp      both: whole experts over ranks that share dense layers (expert_tp=one)
transformers_fsdp       fully_shard over fsdp
transformers_ep_fsdp    experts over ep, everything over fsdp and ep, each rank with its own tokens

Releases up to 5.6 have no expert-parallel plan for most families: there the adapter puts one into the configuration class, as users had to.
"""

from __future__ import annotations

import os
from typing import Any

from moecheck.case import Case
from moecheck.context import Context
from moecheck.registry import subject

_BACKENDS = ("eager", "batched_mm", "grouped_mm")
_DTYPES = ("fp32", "bf16")
# Each family has its own; a case that asks for another's is refused (families.py).
_OF_FAMILIES = ("softmax", "routed_scale", "activation")


def _import_framework() -> None:
    """All that a case needs, once, in the process that forks the ranks."""
    from moecheck.adapters.transformers import layer, release  # noqa: F401
    from moecheck.adapters.transformers.families import import_models

    release.installed_release()
    import_models()


def _make(case: Case, ctx: Context) -> Any:
    from moecheck.adapters.transformers.layer import TransformersLayer

    return TransformersLayer(case, ctx)


def _offer(name: str, mesh_dims: list[str], heeds: list[str], summary: str) -> None:
    subject(name, mesh_dims=mesh_dims, backends=_BACKENDS, dtypes=_DTYPES, heeds=[*_OF_FAMILIES, *heeds], summary=summary)(_make)


_offer("transformers", [], [], "the layer without parallelism")
_offer("transformers_tp", ["tp"], [], "the tp plan: every expert cut over tp")
_offer("transformers_ep", ["ep"], [], "the ep plan: experts over ep, tokens replicated")
_offer("transformers_ep_tp", ["ep", "tp"], ["expert_tp", "tokens_over"], "the ep plan beside the dense part of the tp plan")
_offer("transformers_fsdp", ["fsdp"], [], "fully_shard over fsdp")
_offer("transformers_ep_fsdp", ["fsdp", "ep"], ["tokens_over"], "the ep plan beside fully_shard, tokens exchanged")

if "MOECHECK_SERVER" in os.environ:
    _import_framework()
