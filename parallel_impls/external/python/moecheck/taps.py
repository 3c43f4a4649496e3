"""The observable tensors that this package knows by name (harness/trace/tap_points.h), and what belongs to what."""

from __future__ import annotations

from typing import Any

from moecheck.dtypes import HostTensor, to_host
from moecheck.mesh import Cut, Mesh, checked_cuts, global_shape_of

TRAINABLE = ("router/w_ED", "experts/gate_up_EGD", "experts/down_EDF")
"""Parameters that take steps, in the order of optim/steps_3; a tap of theirs is param/, grad/, optim/m/ ... and one of these."""

PARAMETERS = ("param/attention/w_DD", *(f"param/{name}" for name in TRAINABLE))
FORWARD = ("input/x_TD", "router/logits_TE", "router/scores_TK", "router/ids_TK", "dispatch/tokens_S", "dispatch/scores_TK",
           "dispatch/ids_TK", "dispatch/counts_e", "dispatch/rows_R3", "experts/in_RD", "experts/gate_up_RG", "experts/act_RF",
           "experts/out_RD", "combine/rows_N3", "combine/partial_TD", "output/y_TD")
GRADIENT_OF = {"experts/out_RD": "grad/out_RD", "experts/act_RF": "grad/act_RF", "experts/gate_up_RG": "grad/gate_up_RG",
               "experts/in_RD": "grad/in_RD", "router/scores_TK": "grad/scores_TK", "router/logits_TE": "grad/logits_TE",
               "input/x_TD": "grad/x_TD"}
"""What a backward shows of a tensor that a forward showed, without being asked."""

_OPTIMIZER = ("grad", "m", "v", "master", "param")
KNOWN = frozenset((*PARAMETERS, *FORWARD, *GRADIENT_OF.values(), "grad/y_TD", *(f"grad/{name}" for name in TRAINABLE),
                   *(f"optim/{kind}/{name}" for kind in _OPTIMIZER for name in TRAINABLE), "optim/norm_1", "optim/clip_1", "optim/steps_3",
                   "state/batches_1", "state/lr_1", "state/tokens_E"))


class Tapped:
    """A rank's local tensor as it was when it was shown, and how it lies in the global one."""

    def __init__(self, tensor: Any, cuts: list[Cut], global_shape: list[int]) -> None:
        self.host: HostTensor = to_host(tensor)
        self.cuts, self.global_shape = cuts, global_shape


def is_dtensor(tensor: Any) -> bool:
    """Of torch.distributed.tensor, whose import is not for nothing."""
    return hasattr(tensor, "to_local") and hasattr(tensor, "placements")


def local_of(tensor: Any) -> Any:
    return tensor.to_local() if is_dtensor(tensor) else tensor


def cuts_of_dtensor(tensor: Any) -> list[Cut]:
    """DTensor's strided shard takes of `split_factor` blocks a piece each, as StridedShard(dim, blocks) does; placements nest from left
    to right, as cuts do."""
    cuts: list[Cut] = []
    for name, placement in zip(tensor.device_mesh.mesh_dim_names, tensor.placements, strict=True):
        kind = type(placement).__name__
        if placement.is_partial():
            cuts.append((name, "Partial"))
        elif kind == "_StridedShard":
            cuts.append((name, f"StridedShard({placement.dim % tensor.ndim},{placement.split_factor})"))
        elif placement.is_shard():
            cuts.append((name, f"Shard({placement.dim % tensor.ndim})"))
    return cuts


def placed(tensor: Any, cuts: Any, mesh: Mesh, global_shape: Any = None) -> Tapped:
    """Local tensor, cuts and global shape of a DTensor are its own; of another tensor what is said of it, and pieces as large as this."""
    if is_dtensor(tensor):
        return Tapped(tensor.to_local(), cuts_of_dtensor(tensor), list(tensor.shape))
    checked = checked_cuts(cuts)
    return Tapped(tensor, checked, list(global_shape or global_shape_of(checked, list(tensor.shape), mesh)))


class Tapper:
    """What a phase has shown so far."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._shown: dict[str, Tapped] = {}

    def show(self, name: str, tensor: Any, cuts: Any = (), global_shape: Any = None) -> None:
        """Errors: ValueError for an unknown name or placement."""
        if name not in KNOWN:
            raise ValueError(f"there is no tap '{name}'")
        self._shown[name] = placed(tensor, cuts, self._mesh, global_shape)

    def shown(self, name: str) -> Tapped | None:
        return self._shown.get(name)

    def take(self) -> dict[str, Tapped]:
        shown, self._shown = self._shown, {}
        return shown
