"""torch.distributed over the groups of a mesh, with every collective reported to the driver and logged in the trace.

Optional: a subject may as well use ctx.group(dims) on its own, and then no timeout can name the collective that a rank waits in, unless
it calls ctx.comm.observe().
Over a group of one nothing is sent. `site` names the stage at which a collective stands; in an autograd function the one of the
backward. Rows are dim 0; rows[c] are those of coordinate c.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moecheck.dtypes import of_torch
from moecheck.mesh import Mesh

# The driver's deadline comes first and names the collective; this one only ends ranks that lost their driver.
_TIMEOUT = datetime.timedelta(minutes=10)


class Groups:
    """Process groups by their members, made at the first use and kept: a warm rank needs them again."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._groups: dict[tuple[int, ...], Any] = {}
        self._meshes: dict[Mesh, Any] = {}

    def start(self, rendezvous: Path) -> None:
        import torch.distributed as dist

        if dist.is_initialized():
            return
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = dist.FileStore(str(rendezvous / "python-world"), self._world_size)
        dist.init_process_group("gloo", store=store, rank=self._rank, world_size=self._world_size, timeout=_TIMEOUT)

    def of(self, members: Sequence[int]) -> Any:
        import torch.distributed as dist

        key = tuple(members)
        if key == tuple(range(self._world_size)):
            return dist.group.WORLD
        if key not in self._groups:
            # Only the members call, so that one that took another path does not stop the others.
            self._groups[key] = dist.new_group(list(key), backend="gloo", timeout=_TIMEOUT, use_local_synchronization=True)
        return self._groups[key]

    def device_mesh(self, mesh: Mesh) -> Any:
        from torch.distributed.device_mesh import init_device_mesh

        if mesh not in self._meshes:
            names, sizes = zip(*mesh.dims, strict=True) if mesh.dims else ((), ())
            self._meshes[mesh] = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        return self._meshes[mesh]


class Communicator:
    def __init__(self, mesh: Mesh, rank: int, groups: Groups, send: Callable[[dict[str, Any]], None]) -> None:
        self.mesh, self.rank = mesh, rank
        self._groups, self._send = groups, send
        self._sequence: dict[str, int] = {}
        self._log: list[dict[str, Any]] = []
        self._observation: Any = None
        self.is_reporting = False

    def observe(self) -> None:
        """From now on reports what other code sends through torch.distributed, until the case is closed; see moecheck/observe.py."""
        from moecheck.observe import Observation

        if self._observation is None:
            self._observation = Observation(self)
            self._observation.begin()

    def close(self) -> None:
        if self._observation is not None:
            self._observation.end()
            self._observation = None

    def group(self, dims: str) -> Any:
        """The process group of this rank over these dimensions."""
        return self._groups.of(self.mesh.group(self.rank, dims))

    def is_alone(self, dims: str) -> bool:
        return self.mesh.size(dims) == 1

    def take_log(self) -> list[dict[str, Any]]:
        log, self._log = self._log, []
        return log

    @contextmanager
    def reported(self, kind: str, tensor: Any, dims: str, site: str = "", **more: Any) -> Iterator[None]:
        """Around a collective of one's own: kind is all_reduce, broadcast, all_gather, reduce_scatter or all_to_all; tensor what this
        rank puts in; more: reduce_op, send_splits, recv_splits."""
        name = self.mesh.group_name(dims)
        self._sequence[name] = self._sequence.get(name, 0) + 1
        what = {"kind": kind, "group": name, "sequence": self._sequence[name], "dtype": of_torch(tensor.dtype), "count": tensor.numel(),
                "bytes": tensor.numel() * tensor.element_size(), "site": site, **more}
        self._log.append(what)
        self._send({"event": "enter", **what})
        self.is_reporting = True
        try:
            yield
        finally:
            self.is_reporting = False
        self._send({"event": "leave", **what})

    def all_reduce(self, tensor: Any, dims: str, site: str = "") -> Any:
        """The sum, in place."""
        import torch.distributed as dist

        if self.is_alone(dims) or tensor.numel() == 0:
            return tensor
        with self.reported("all_reduce", tensor, dims, site, reduce_op="sum"):
            dist.all_reduce(tensor, group=self.group(dims))
        return tensor

    def broadcast(self, tensor: Any, source: int, dims: str, site: str = "") -> Any:
        """In place, from the rank with coordinate `source` in `dims`."""
        import torch.distributed as dist

        if self.is_alone(dims) or tensor.numel() == 0:
            return tensor
        with self.reported("broadcast", tensor, dims, site):
            dist.broadcast(tensor, self.mesh.group(self.rank, dims)[source], group=self.group(dims))
        return tensor

    def all_gather(self, local: Any, rows: Sequence[int], dims: str, site: str = "") -> Any:
        """The rows of all ranks, one after the other."""
        import torch
        import torch.distributed as dist

        longest = max(rows)
        if self.is_alone(dims) or longest == 0:
            return local
        mine = _padded(local, longest)
        parts = torch.empty((longest * len(rows), *mine.shape[1:]), dtype=mine.dtype)
        with self.reported("all_gather", mine, dims, site):
            dist.all_gather_into_tensor(parts, mine, group=self.group(dims))
        return torch.cat([parts[c * longest : c * longest + count] for c, count in enumerate(rows)])

    def reduce_scatter(self, whole: Any, rows: Sequence[int], dims: str, site: str = "") -> Any:
        """The sum of the ranks' tensors, of which a rank gets its rows."""
        import torch
        import torch.distributed as dist

        longest = max(rows)
        if self.is_alone(dims) or longest == 0:
            return whole
        parts = torch.cat([_padded(piece, longest) for piece in whole.split(list(rows))])
        mine = torch.empty((longest, *whole.shape[1:]), dtype=whole.dtype)
        with self.reported("reduce_scatter", parts, dims, site, reduce_op="sum"):
            dist.reduce_scatter_tensor(mine, parts, group=self.group(dims))
        return mine[: rows[self.mesh.coordinate(self.rank, dims)]].contiguous()

    def all_to_all(self, rows: Any, send: Sequence[int], receive: Sequence[int], dims: str, site: str = "") -> Any:
        """Rows to and from each rank; sent also where this rank has none."""
        import torch
        import torch.distributed as dist

        if self.is_alone(dims):
            return rows
        mine = rows.contiguous()
        received = torch.empty((sum(receive), *mine.shape[1:]), dtype=mine.dtype)
        with self.reported("all_to_all", mine, dims, site, send_splits=list(send), recv_splits=list(receive)):
            dist.all_to_all_single(received, mine, list(receive), list(send), group=self.group(dims))
        return received

    # What autograd passes through.

    def copy_to(self, tensor: Any, dims: str, site: str = "") -> Any:
        """Forward: the identity, a replicated tensor enters a sharded computation. Backward: the all-reduced sum."""
        from moecheck import autograd

        return autograd.CopyTo.apply(tensor, self, dims, site)

    def reduce_from(self, tensor: Any, dims: str, site: str = "") -> Any:
        """Forward: the all-reduced sum. Backward: the identity. (With copy_to the pair f and g of Megatron-LM, arXiv 1909.08053.)"""
        from moecheck import autograd

        return autograd.ReduceFrom.apply(tensor, self, dims, site)

    def gather_from(self, tensor: Any, rows: Sequence[int], dims: str, site: str = "", backward_site: str = "") -> Any:
        """Forward: the rows of all ranks. Backward: their gradients are partial sums, reduce-scattered."""
        from moecheck import autograd

        return autograd.GatherFrom.apply(tensor, self, rows, dims, (site, backward_site))

    def scatter_to(self, tensor: Any, rows: Sequence[int], dims: str, site: str = "", backward_site: str = "") -> Any:
        """Forward: the rank's rows of the summed tensor, reduce-scattered. Backward: gathered."""
        from moecheck import autograd

        return autograd.ScatterTo.apply(tensor, self, rows, dims, (site, backward_site))

    def exchange(self, rows: Any, send: Sequence[int], receive: Sequence[int], dims: str, site: str = "", backward_site: str = "") -> Any:
        """Forward: all_to_all. Backward: the gradients the way back."""
        from moecheck import autograd

        return autograd.Exchange.apply(rows, self, (send, receive), dims, (site, backward_site))


def _padded(rows: Any, length: int) -> Any:
    """Collectives of torch.distributed want equal pieces."""
    import torch

    return torch.cat([rows, rows.new_zeros((length - rows.shape[0], *rows.shape[1:]))]) if rows.shape[0] < length else rows.contiguous()
