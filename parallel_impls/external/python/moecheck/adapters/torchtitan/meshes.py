"""DeviceMeshes by the names that torchtitan gives their dimensions. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.distributed.device_mesh import init_device_mesh

from moecheck.adapters.torchtitan.layout import Layout

_kept: dict[tuple[tuple[str, int], ...], Any] = {}


def _mesh(**sizes: int) -> Any:
    """Kept: a warm rank is given the same mesh again, and each costs process groups. Ranks: every rank."""
    key = tuple(sizes.items())
    if key not in _kept:
        _kept[key] = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    return _kept[key]


@dataclass(frozen=True)
class Meshes:
    """As apply_moe_ep_tp and apply_fsdp take them: None where there is no such parallelism."""

    tp: Any = None
    ep: Any = None
    ep_etp: Any = None
    """Experts that are spread over ep and each cut over tp."""
    dense_fsdp: Any = None
    expert_fsdp: Any = None


def meshes_of(layout: Layout, expert_tp_name: str) -> Meshes:
    """The dense mesh has tp innermost, and where ep borrows ranks of tp they lie as in it. expert_tp_name: how the release calls the
    dimension that cuts experts."""
    if layout.fsdp > 1 and layout.ep == 1:
        return Meshes(dense_fsdp=_mesh(fsdp=layout.fsdp))
    if layout.fsdp > 1:
        sparse = _mesh(efsdp=layout.fsdp, ep=layout.ep)
        return Meshes(ep=sparse["ep"], dense_fsdp=_mesh(fsdp=layout.fsdp * layout.ep), expert_fsdp=sparse["efsdp"])
    if layout.tp == 1:
        return Meshes(ep=_mesh(ep=layout.ep)) if layout.ep > 1 else Meshes()
    if layout.ep == 1:
        return Meshes(tp=_mesh(tp=layout.tp))
    if layout.lends_tp:
        return Meshes(tp=_mesh(fsdp=layout.ep // layout.tp, tp=layout.tp)["tp"], ep=_mesh(ep=layout.ep))
    sparse = _mesh(**{"ep": layout.ep, expert_tp_name: layout.tp})
    return Meshes(tp=_mesh(fsdp=layout.ep, tp=layout.tp)["tp"], ep=sparse["ep"], ep_etp=sparse)
