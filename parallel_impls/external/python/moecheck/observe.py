"""Reports the collectives of code that calls torch.distributed itself, by wrapping its functions while a case is open.

Not seen: functional collectives, as DTensor and compiled code use them; groups that are none of the mesh; object collectives. An
asynchronous call counts as left when it returns. Imports torch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from moecheck.comm import Communicator

# Kind, and the argument that a rank puts in.
_WRAPPED = {"all_reduce": ("all_reduce", 0), "broadcast": ("broadcast", 0), "all_gather": ("all_gather", 1),
            "all_gather_into_tensor": ("all_gather", 1), "reduce_scatter_tensor": ("reduce_scatter", 1),
            "all_to_all_single": ("all_to_all", 1)}
_INPUT_NAMES = {"all_reduce": "tensor", "broadcast": "tensor", "all_gather": "tensor", "all_gather_into_tensor": "input_tensor",
                "reduce_scatter_tensor": "input", "all_to_all_single": "input"}
_GROUP_PLACE = {"all_reduce": 2, "broadcast": 2, "all_gather": 2, "all_gather_into_tensor": 2, "reduce_scatter_tensor": 3,
                "all_to_all_single": 4}


class Observation:
    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._original = {name: getattr(dist, name) for name in _WRAPPED}

    def begin(self) -> None:
        for name, original in self._original.items():
            setattr(dist, name, self._wrapper(name, original))

    def end(self) -> None:
        for name, original in self._original.items():
            setattr(dist, name, original)

    def _wrapper(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        kind, place = _WRAPPED[name]

        @functools.wraps(original)
        def call(*args: Any, **named: Any) -> Any:
            group = args[_GROUP_PLACE[name]] if len(args) > _GROUP_PLACE[name] else named.get("group")
            dims = self._dims_of(group)
            if not dims or self._comm.is_reporting:
                return original(*args, **named)
            tensor = args[place] if len(args) > place else named[_INPUT_NAMES[name]]
            with self._comm.reported(kind, tensor, dims, **self._details(name, tensor, dims, args, named)):
                return original(*args, **named)

        return call

    def _dims_of(self, group: Any) -> str:
        """The fewest dimensions of the mesh whose group has these ranks; "" for none."""
        mesh, rank = self._comm.mesh, self._comm.rank
        members = sorted(dist.get_process_group_ranks(group if group is not None else dist.group.WORLD))
        names = [name for name, size in mesh.dims if size > 1]
        for length in range(1, len(names) + 1):
            for chosen in itertools.combinations(names, length):
                if sorted(mesh.group(rank, ",".join(chosen))) == members:
                    return ",".join(chosen)
        return ""

    def _details(self, name: str, tensor: Any, dims: str, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        if name in ("all_reduce", "reduce_scatter_tensor"):
            place = 1 if name == "all_reduce" else 2
            op = args[place] if len(args) > place else named.get("op", dist.ReduceOp.SUM)
            return {"reduce_op": str(op).rpartition(".")[2].lower()}
        if name != "all_to_all_single":
            return {}
        ranks = self._comm.mesh.size(dims)
        output = args[0] if args else named["output"]
        receive = args[2] if len(args) > 2 else named.get("output_split_sizes")
        send = args[3] if len(args) > 3 else named.get("input_split_sizes")
        return {"send_splits": list(send or [tensor.shape[0] // ranks] * ranks),
                "recv_splits": list(receive or [output.shape[0] // ranks] * ranks)}
