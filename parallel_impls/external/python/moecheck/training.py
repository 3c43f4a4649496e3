"""The phase `step`, for a subject that has no optimizer of its own: torch's SGD and AdamW on fp32 masters, clipping by the global norm,
gradients summed over microbatches; and how far the training has come."""

from __future__ import annotations

import functools
from typing import Any

import torch

from moecheck.case import Case
from moecheck.checkpoint_state import StateTensor, put_into, whole_tensor
from moecheck.context import Context, ParamTap, gradient_of
from moecheck.taps import TRAINABLE, local_of

# As torch.nn.utils.clip_grad_norm_ has it.
_CLIP_EPS = 1e-6

_STEPS = "optim/steps_3"
_TOKENS = "state/tokens_E"


def _optimizer(case: Case, masters: list[torch.Tensor]) -> torch.optim.Optimizer:
    t = case.training
    if t.optimizer == "adamw":
        return torch.optim.AdamW(masters, lr=t.learning_rate, betas=(t.beta1, t.beta2), eps=t.eps, weight_decay=t.weight_decay,
                                 foreach=False)
    return torch.optim.SGD(masters, lr=t.learning_rate, momentum=t.momentum, weight_decay=t.weight_decay, foreach=False)


class Training:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._owned = [p for param in ctx.trainable for p in param.parameters]
        self._masters = {p: local_of(p.detach()).float().clone().requires_grad_() for p in self._owned}
        self._gradients = {p: torch.zeros_like(master) for p, master in self._masters.items()}
        self._optimizer = _optimizer(ctx.case, list(self._masters.values())) if self._owned else None

    def take_weights(self, param: ParamTap) -> None:
        """Masters of what was loaded."""
        for p in param.parameters:
            if p in self._masters:
                with torch.no_grad():
                    self._masters[p].copy_(local_of(p.detach()))

    def accumulate(self) -> None:
        """Gradients of one microbatch, after their reductions."""
        for p in self._owned:
            self._gradients[p] += gradient_of(p).float()

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        if self._optimizer is None:
            raise ValueError("a step needs parameters: make them with ctx.parameter")
        tapper, limit = self._ctx.tapper, self._ctx.case.training.clip_norm
        self._show("optim/grad", self._gradients)
        norm_1 = self._global_norm()
        clip_1 = (limit / (norm_1 + _CLIP_EPS)).clamp(max=1.0) if limit > 0 else torch.ones_like(norm_1)
        tapper.show("optim/norm_1", norm_1)
        tapper.show("optim/clip_1", clip_1)
        for p in self._owned:
            self._masters[p].grad = self._gradients[p] * clip_1 if limit > 0 else self._gradients[p].clone()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        for p in self._owned:
            local_of(p.detach()).copy_(self._masters[p])
            self._gradients[p].zero_()
        self._show_state()

    def _global_norm(self) -> torch.Tensor:
        """Each shard once: squares are summed over the dimensions that a parameter is sharded over, and over no others."""
        total_1 = torch.zeros(1)
        for param in self._ctx.trainable:
            squares_1 = sum((self._gradients[p].square().sum().reshape(1) for p in param.parameters), torch.zeros(1))
            total_1 += self._ctx.comm.all_reduce(squares_1, _sharding_dims(param), "optim/norm_1")
        return total_1.sqrt()

    def _show(self, prefix: str, of: dict[Any, torch.Tensor]) -> None:
        for param in self._ctx.trainable:
            param.show(self._ctx.tapper, prefix, lambda p: of[p].detach())

    def _show_state(self) -> None:
        for one in self.state():
            self._ctx.tapper.show(one.name, one.tensor, one.cuts, one.global_shape)
        self._show("optim/param", {p: local_of(p) for p in self._owned})

    # What is saved.

    def state(self) -> list[StateTensor]:
        """Masters, moments and step counts; what the optimizer does not have yet is not in it."""
        state = []
        for param in self._ctx.trainable:
            state.append(self._placed("optim/master", param, self._masters))
            for prefix, name in self._moments():
                if all(isinstance(self._state_of(p).get(name), torch.Tensor) for p in param.parameters):
                    state.append(self._placed(prefix, param, {p: self._state_of(p)[name] for p in param.parameters}))
        firsts = [self._state_of(param.parameters[0]) for param in self._ctx.trainable]
        if len(firsts) == len(TRAINABLE) and all("step" in first for first in firsts):
            state.append(whole_tensor(_STEPS, torch.tensor([int(first["step"]) for first in firsts]), self._put_steps))
        return state

    def make_moments(self, names: set[str]) -> None:
        """A fresh optimizer has none: those of these names are made, and are NaN until they are filled."""
        for param in self._ctx.trainable:
            wanted = [name for prefix, name in self._moments() if f"{prefix}/{param.name}" in names]
            for p in param.parameters if wanted else ():
                state = self._state_of(p)
                state.update({name: torch.full_like(self._masters[p].detach(), torch.nan) for name in wanted})
                if self._is_adamw:
                    state.setdefault("step", torch.tensor(0.0))

    @property
    def _is_adamw(self) -> bool:
        return self._ctx.case.training.optimizer == "adamw"

    def _moments(self) -> tuple[tuple[str, str], ...]:
        """Taps, and how torch's optimizer calls them."""
        return (("optim/m", "exp_avg"), ("optim/v", "exp_avg_sq")) if self._is_adamw else (("optim/m", "momentum_buffer"),)

    def _state_of(self, p: Any) -> dict[str, Any]:
        assert self._optimizer is not None
        return self._optimizer.state[self._masters[p]]

    def _placed(self, prefix: str, param: ParamTap, of: dict[Any, torch.Tensor]) -> StateTensor:
        pieces = [(p, of[p].detach()) for p in param.parameters]
        tensor = param.read(lambda p: of[p].detach()).clone()
        return StateTensor(f"{prefix}/{param.name}", tensor, param.cuts, param.global_shape,
                           functools.partial(put_into, param, pieces))

    def _put_steps(self, steps_3: torch.Tensor) -> None:
        for param, steps in zip(self._ctx.trainable, steps_3.tolist(), strict=True):
            for p in param.parameters:
                self._state_of(p)["step"] = torch.tensor(float(steps))


def _sharding_dims(param: ParamTap) -> str:
    return ",".join(dict.fromkeys(dims for dims, placement in param.cuts if "Shard" in placement))


class Progress:
    """What goes on where a training was broken off, beside weights and optimizer."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.batches = 0
        self.learning_rate = ctx.case.training.learning_rate
        self._tokens_E = torch.zeros(ctx.case.model.num_experts, dtype=torch.int64)
        self._counted_E = torch.zeros_like(self._tokens_E)
        self._is_counted = False

    def take_batch(self) -> None:
        self.batches += 1
        ids = self._ctx.tapper.shown("router/ids_TK")
        if ids is not None and self._ctx.case.has_phase("step"):
            self._counted_E += torch.bincount(torch.from_numpy(ids.host.array).flatten(), minlength=self._counted_E.numel())
            self._is_counted = True

    def end_step(self) -> None:
        """Ranks: every rank of the mesh."""
        self.learning_rate *= self._ctx.case.training.lr_decay
        if self._is_counted:
            self._tokens_E += self._ctx.comm.all_reduce(self._counted_E, self._ctx.case.tokens_over, "state/tokens_E")
            self._counted_E.zero_()
        for one in self.state():
            if one.name != _TOKENS or self._is_counted:
                self._ctx.tapper.show(one.name, one.tensor)

    @property
    def counts_tokens(self) -> bool:
        """Or has nothing to count yet."""
        return self._is_counted or self.batches == 0

    def state(self) -> list[StateTensor]:
        def put_batches(batches_1: torch.Tensor) -> None:
            self.batches = int(batches_1)
            # What was saved was counted.
            self._is_counted = self.batches > 0

        def put_rate(rate_1: torch.Tensor) -> None:
            self.learning_rate = float(rate_1)

        return [whole_tensor("state/batches_1", torch.tensor([self.batches]), put_batches),
                whole_tensor("state/lr_1", torch.tensor([self.learning_rate], dtype=torch.float64), put_rate),
                whole_tensor(_TOKENS, self._tokens_E.clone(), self._tokens_E.copy_)]
