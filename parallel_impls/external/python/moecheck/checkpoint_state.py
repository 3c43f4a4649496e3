"""What a save holds of a rank: local tensors under the names of taps, and the way back to where the subject keeps them. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from moecheck.case import Unsupported
from moecheck.context import ParamTap
from moecheck.mesh import Cut


_NO_WAY_BACK = ("what was saved cannot be loaded: read of ctx.parameter_of does more than to move elements, each to one place; give it "
                "`write`")


def _put_nowhere(_: torch.Tensor) -> None:
    raise ValueError("this tensor can be saved, and says not where it is loaded to")


@dataclass(frozen=True)
class StateTensor:
    name: str
    """ "param/router/w_ED", "optim/m/experts/down_EDF", "state/lr_1" """
    tensor: torch.Tensor
    """Local, as it was when it was asked for."""
    cuts: tuple[Cut, ...]
    global_shape: tuple[int, ...]
    put: Callable[[torch.Tensor], Any] = _put_nowhere
    """Writes a local tensor of this shape and dtype to where this one came from."""

    def changed(self, tensor: torch.Tensor) -> StateTensor:
        return replace(self, tensor=tensor)


def whole_tensor(name: str, tensor: torch.Tensor, put: Callable[[torch.Tensor], Any]) -> StateTensor:
    """Replicated."""
    return StateTensor(name, tensor, (), tuple(tensor.shape), put)


def put_into(param: ParamTap, pieces: list[tuple[Any, torch.Tensor]], tensor: torch.Tensor) -> None:
    """Writes the tap's local tensor to what the subject keeps it in. Errors: as put_through()."""
    with torch.no_grad():
        if param.write is not None:
            param.write(dict(pieces).__getitem__, tensor)
        else:
            put_through(param.read, pieces, tensor)


def put_through(read: Callable[[Any], Any], pieces: list[tuple[Any, torch.Tensor]], tensor: torch.Tensor) -> None:
    """Undoes `read`, which makes a tensor of several: writes what `tensor` has of each. pieces: what read's argument is asked for, with the
    local tensor to write.
    Errors: Unsupported where read does more than to move elements, each to one place; ValueError where the tensor does not fit."""
    numbers, total = {}, 0
    for key, local in pieces:
        numbers[key] = torch.arange(total, total + local.numel()).reshape(local.shape)
        total += local.numel()
    try:
        places = read(lambda key: numbers[key])
    except Exception as error:
        raise Unsupported(f"{_NO_WAY_BACK}: {error}") from error
    is_moved = places.dtype == torch.int64 and torch.equal(places.flatten().sort().values, torch.arange(total))
    if not is_moved:
        raise Unsupported(_NO_WAY_BACK)
    if places.shape != tensor.shape:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} was given for one of shape {list(places.shape)}")
    flat = torch.empty(total, dtype=tensor.dtype)
    flat[places.flatten()] = tensor.flatten()
    begin = 0
    for _, local in pieces:
        if local.dtype != tensor.dtype:
            raise ValueError(f"stored as {tensor.dtype}, a rank keeps {local.dtype}")
        local.copy_(flat[begin : begin + local.numel()].reshape(local.shape))
        begin += local.numel()
