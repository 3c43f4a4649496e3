"""The MoE layer of a release: loaded as its users load a model, found in it, watched and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moecheck.adapters.transformers.families import Family, ep_plan_for, family_of, make_config, set_activation
from moecheck.adapters.transformers.folder import write_folder
from moecheck.adapters.transformers.layouts import Layout, by_plans_of, is_plan_from_configuration, layout_of, loading_arguments
from moecheck.adapters.transformers.packing import DOWN, GATE_UP
from moecheck.adapters.transformers.placement import ATTENTION, ROUTER, planned_cuts, show_parameter
from moecheck.adapters.transformers.release import DISPATCH, Release, installed_release
from moecheck.adapters.transformers.saved import save_by_release
from moecheck.adapters.transformers.shims import on_the_cpu
from moecheck.adapters.transformers.watching import make_watchable, watch
from moecheck.case import Case
from moecheck.context import Context


class TransformersLayer:
    """Errors: Unsupported where the release cannot express the case's layout."""

    def __init__(self, case: Case, ctx: Context) -> None:
        self.case, self.ctx = case, ctx
        self.family: Family = family_of(case)
        self.release: Release = installed_release()
        self.layout: Layout = by_plans_of(case, layout_of(case, self.release), self.release)
        self.model: Any = None
        self.block: Any = None

    def load(self) -> None:
        for watched in (self.family.router_class(), self.family.experts_class()):
            make_watchable(watched)
        self.model = self._loaded().train(self.case.has_phase("backward"))
        self.block = self.model.model.layers[0].mlp
        set_activation(self.case, self.block.experts)
        self._watch_routing()
        watch(self.block.experts, self._saw_experts)
        self.ctx.experts_backend = self.block.experts.config._experts_implementation
        self._show_parameters()

    @property
    def _router(self) -> Any:
        return getattr(self.block, self.family.router)

    def __call__(self, x_TD: Any) -> Any:
        y = self._block_in_its_layer(x_TD[None])
        return (y[0] if isinstance(y, tuple) else y)[0]

    def after_backward(self) -> None:
        # FSDP takes the mean over its ranks, where the driver's loss is a sum over all tokens.
        if self.layout.fsdp_size == 1:
            return
        for parameter in self.model.model.layers[0].parameters():
            if parameter.grad is not None:
                parameter.grad.to_local().mul_(self.layout.fsdp_size)

    def save(self, folder: Path, _: int) -> None:
        """Ranks: every rank of the mesh."""
        if self.case.knobs.get("save") == "huggingface":
            save_by_release(self.ctx, self.model, folder)
        else:
            self.ctx.saves.write(folder)

    def _loaded(self) -> Any:
        from transformers import AutoModelForCausalLM

        config = make_config(self.case, self._plan_for_configuration())
        arguments = loading_arguments(self.layout, self.release) if self.layout.is_parallel else {}
        with write_folder(self.ctx, config) as folder, on_the_cpu(self.release, self.ctx):
            return AutoModelForCausalLM.from_pretrained(folder, dtype=self.case.torch_dtype,
                                                        experts_implementation=self.case.experts_backend, **arguments)

    def _plan_for_configuration(self) -> dict[str, str] | None:
        if not is_plan_from_configuration(self.layout, self.release):
            return None
        plan, _ = ep_plan_for(self.case, with_dense=self.layout.shards_dense_over_tp)
        return plan

    def _show_parameters(self) -> None:
        layer = self.model.model.layers[0]
        planned = planned_cuts(self.ctx, self.layout, self._plan()) if self.layout.is_parallel else {}
        shown = {ATTENTION: layer.self_attn.o_proj.weight, ROUTER: self._router.weight,
                 GATE_UP: self.block.experts.gate_up_proj, DOWN: self.block.experts.down_proj}
        if self.layout.shards_dense_over_tp and not self.family.is_attention_cut:
            # Whole by design, where the mesh of the case has it cut: nothing of the layer depends on it, and it is left unobserved.
            del shown[ATTENTION]
        for tap, parameter in shown.items():
            show_parameter(self.ctx, self.layout, tap, parameter, planned.get(tap, []))

    def _plan(self) -> dict[str, str]:
        """The rules that were applied: of one plan where a release has one at a time, else the experts' before the dense."""
        if self.release.generation != DISPATCH:
            return dict(self.model.tp_plan)
        tp_plan = dict(self.model.tp_plan) if self.layout.tp_size > 1 else {}
        if self.layout.ep_size == 1:
            return tp_plan
        ep_plan = dict(self.model.ep_plan)
        return {name: style for name, style in tp_plan.items() if not name.startswith(tuple(ep_plan))} | ep_plan

    def _block_in_its_layer(self, x_1TD: Any) -> Any:
        if self.layout.fsdp_size == 1:
            return self.block(x_1TD)
        # fully_shard gathers parameters in hooks on the decoder layer: it runs with nothing in it but the block.
        layer = self.model.model.layers[0]
        layer.__dict__["forward"] = self.block.__call__
        try:
            return layer(x_1TD)
        finally:
            del layer.__dict__["forward"]

    # What the modules show; logits and scores in another dtype than the case's (fp32 beside bf16) are not what the taps declare, and are
    # left out.

    def _watch_routing(self) -> None:
        block_class = self.family.routing_block_class()
        if block_class is None:
            watch(self._router, lambda _, output, logits_TE: self._saw_routing(logits_TE, *output[1:3]))
        else:
            make_watchable(block_class, "route_tokens_to_experts")
            watch(self.block, lambda inputs, output, _: self._saw_routing(inputs[0], output[1], output[0]))

    def _saw_routing(self, logits_TE: Any, scores_TK: Any, ids_TK: Any) -> None:
        for tap, tensor in (("router/logits_TE", logits_TE), ("router/scores_TK", scores_TK)):
            if tensor is not None and tensor.dtype == self.case.torch_dtype:
                self.ctx.tap(tap, tensor)
        self.ctx.tap("router/ids_TK", ids_TK)

    def _saw_experts(self, inputs: tuple[Any, ...], output: Any, _: Any) -> None:
        _, ids, scores = inputs[:3]
        if ids.ndim == 2 and ids.shape[1] == 1 != self.case.model.top_k:
            return   # rows that came from other ranks, each with one expert, are no tokens of this one
        if scores.dtype == self.case.torch_dtype:
            self.ctx.tap("dispatch/scores_TK", scores)
        self.ctx.tap("dispatch/ids_TK", ids)
        group = self.layout.experts_group
        self.ctx.tap("combine/partial_TD", output, [(group, "Partial")] if self.case.mesh.size(group) > 1 else [])
