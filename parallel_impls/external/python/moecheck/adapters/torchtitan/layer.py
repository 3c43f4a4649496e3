"""torchtitan's MoE layer in a case: made, cut by torchtitan's functions, fed, shown. Imports torch.

What its trainer does around the layer, and is done here:
- The router's weight is replicated over ranks with tokens of their own, and FSDP sums its gradient over them. Where FSDP is not applied
  (one layer needs none) the gradient of the router, and of nothing else, is summed over ep here.
- Where FSDP averages gradients over data parallelism (up to 0.2.1: the trainer's loss is a mean over a rank's tokens, the driver's a sum
  over all) they are multiplied by the number of these ranks.
Over tp nothing is summed: there torchtitan's layer has to leave complete gradients, since nobody after it reduces them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import Replicate

from moecheck.adapters.torchtitan import parameters
from moecheck.adapters.torchtitan.layout import Layout
from moecheck.adapters.torchtitan.release import installed
from moecheck.adapters.torchtitan.rows import Rows
from moecheck.case import Case
from moecheck.context import Context
from moecheck.taps import GRADIENT_OF, is_dtensor, local_of


class Layer:
    def __init__(self, case: Case, ctx: Context) -> None:
        """Errors: Unsupported for the release, or for what it does not have."""
        self._case, self._ctx, self._release = case, ctx, installed()
        self._layout, self._rows = Layout.of(case), Rows(case, ctx.rank)
        self._kept: dict[str, torch.Tensor] = {}
        self._slots_TK = torch.empty(0, case.model.top_k, dtype=torch.int64)
        moe = self._release.make_moe(case)
        parameters.load(self._release.parts(moe), ctx)
        moe.register_forward_hook(self._saw_layer)
        self._model = self._release.parallelized(moe, self._layout, case.torch_dtype)
        self._parts = self._release.parts(moe)
        # After torchtitan's own hooks, which make local tensors of the gate's output.
        self._parts.gate.register_forward_hook(self._saw_logits)
        moe.router.register_forward_hook(self._saw_routing)
        parameters.show(self._parts, ctx, self._layout)
        parameters.plan(ctx, self._layout)

    def __call__(self, x_TD: torch.Tensor) -> torch.Tensor:
        self._kept = {}
        y_BLD = self._model(x_TD.reshape(self._rows.batch, self._rows.length, x_TD.shape[1]))
        return local_of(y_BLD).reshape(x_TD.shape).clone()

    def after_backward(self) -> None:
        for name, tensor in self._kept.items():
            if tensor.dtype != self._case.torch_dtype:
                # The gradient of bf16's fp32 scores: rounded it would not be what went into the gradient of the logits.
                continue
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            self._ctx.tapper.show(GRADIENT_OF[name], self._own(name, gradient))
        weights = (self._parts.gate.weight, self._parts.w1, self._parts.w2, self._parts.w3)
        for weight in weights:
            _let_lie_as_declared(weight)
        if self._layout.fsdp == 1 and self._case.mesh.size("ep") > 1:
            self._ctx.comm.all_reduce(local_of(weights[0].grad), "ep", "grad/router/w_ED")
        if self._layout.fsdp > 1 and self._release.averages_gradients:
            for weight in weights:
                local_of(weight.grad).mul_(self._case.mesh.size("fsdp,ep"))

    # What the layer shows.

    def _saw_logits(self, _: Any, __: Any, logits: torch.Tensor) -> None:
        if logits.dtype == self._case.torch_dtype:
            # Those of 0.3.0 stay fp32 in bf16: rounded they would not be what the scores were made of.
            self._show("router/logits_TE", logits)

    def _saw_routing(self, _: Any, __: Any, routing: tuple[torch.Tensor, ...]) -> None:
        """torchtitan's top-k leaves the order of a token's slots open (sorted=False) and nothing depends on it; here they are shown by
        falling score, scores and ids and gradients alike."""
        scores, ids = routing[:2]
        self._slots_TK = _by_falling_score(self._own_rows(scores), self._own_rows(ids))
        self._show("router/scores_TK", scores)
        self._ctx.tap("router/ids_TK", self._own("router/ids_TK", ids))

    def _saw_layer(self, _: Any, __: Any, partial_BLD: torch.Tensor) -> None:
        """Before torchtitan's own hook, which reduces it over tp. With experts spread over ranks it is not the sum of local experts."""
        if self._layout.style == "TensorParallel" and not is_dtensor(partial_BLD):
            self._ctx.tap("dispatch/tokens_S", torch.tensor(self._rows.tokens_S))
            self._ctx.tap("combine/partial_TD", partial_BLD.detach().flatten(0, 1), [("tp", "Partial")])

    def _show(self, name: str, routed: torch.Tensor) -> None:
        """The rows of the rank's own tokens, of a tensor about all that it routes; after a backward, those of its gradient."""
        if routed.requires_grad:
            routed.retain_grad()
            self._kept[name] = routed
        self._ctx.tap(name, self._own(name, routed))

    def _own(self, name: str, routed: torch.Tensor) -> torch.Tensor:
        """In bf16 torchtitan's scores stay fp32; the driver knows them in the case's dtype."""
        own = self._own_rows(routed)
        if name.endswith("_TK"):
            own = own.gather(1, self._slots_TK)
        return own.to(self._case.torch_dtype) if own.is_floating_point() else own

    def _own_rows(self, routed: Any) -> torch.Tensor:
        """0.3.0 with experts over ep routes a rank's own tokens only; all else routes all that tp's ranks have together. A gradient that
        says that it is partial is summed, as it will be before anyone uses it."""
        if is_dtensor(routed) and any(placement.is_partial() for placement in routed.placements):
            routed = routed.redistribute(placements=[Replicate() if p.is_partial() else p for p in routed.placements])
        rows = local_of(routed.detach()).flatten(0, -2)
        return rows if rows.shape[0] == len(self._rows.own) else rows[self._rows.own]


def _let_lie_as_declared(weight: Any) -> None:
    """FSDP, which torchtitan always applies, does so before it reduces: a gradient that says that it is partial over tp is summed there.
    One that says that it is complete is taken at its word."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    if is_dtensor(weight) and weight.grad.placements != weight.placements:
        weight.grad = weight.grad.redistribute(placements=weight.placements)


def _by_falling_score(scores_TK: torch.Tensor, ids_TK: torch.Tensor) -> torch.Tensor:
    """Slots in that order; of equal scores the lower id first."""
    by_id_TK = ids_TK.argsort(dim=1)
    by_score_TK = scores_TK.detach().gather(1, by_id_TK).argsort(dim=1, descending=True, stable=True)
    return by_id_TK.gather(1, by_score_TK)
