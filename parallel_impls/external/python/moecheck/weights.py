"""Where a subject's weights come from: generated, or read from the checkpoint that the driver wrote or was given.

Both speak of the canonical tensors: router (E, D), gate_up (E, 2F, D) with gate rows before up rows, down (E, D, F), attention (D, D).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moecheck.case import Case
from moecheck.checkpoint_families import packed_name
from moecheck.dtypes import HostTensor, to_torch
from moecheck.inputs import Generator
from moecheck.mesh import Cut, held_indices
from moecheck.safetensors_file import FileFailure, read_file

_GATE_UP, _DOWN = "param/experts/gate_up_EGD", "param/experts/down_EDF"


class WeightSource(ABC):
    """Tensors come as torch tensors, copies in the case's dtype; experts: global ids, all of them if not given."""

    def __init__(self, case: Case, rank: int) -> None:
        self.case, self.rank = case, rank

    @abstractmethod
    def host(self, tap: str, experts: Sequence[int] | None = None) -> HostTensor:
        """A canonical tensor by the name of its tap."""

    def router_ED(self) -> Any:
        return to_torch(self.host("param/router/w_ED"))

    def attention_DD(self) -> Any:
        return to_torch(self.host("param/attention/w_DD"))

    def gate_up_EGD(self, experts: Sequence[int] | None = None) -> Any:
        return to_torch(self.host(_GATE_UP, experts))

    def down_EDF(self, experts: Sequence[int] | None = None) -> Any:
        return to_torch(self.host(_DOWN, experts))

    def shard(self, tap: str, cuts: Sequence[Cut]) -> Any:
        """What cuts leave to this rank."""
        return to_torch(self.host_shard(tap, cuts))

    def host_shard(self, tap: str, cuts: Sequence[Cut]) -> HostTensor:
        held = [held_indices(cuts, size, dim, self.case.mesh, self.rank) for dim, size in enumerate(self.case.param_shape(tap))]
        is_of_experts = tap in (_GATE_UP, _DOWN)
        whole = self.host(tap, held[0] if is_of_experts else None)
        array = whole.array
        for dim, indices in enumerate(held):
            if dim > 0 or not is_of_experts:
                array = np.take(array, indices, axis=dim)
        return HostTensor(whole.dtype, array)

    def _experts(self, experts: Sequence[int] | None) -> Sequence[int]:
        return range(self.case.model.num_experts) if experts is None else experts


class GeneratedWeights(WeightSource):
    # A warm rank is given many cases with the same weights; the last small ones are kept.
    _kept: ClassVar[OrderedDict[tuple[Any, ...], HostTensor]] = OrderedDict()
    _NUM_KEPT = 16
    _MAX_BYTES_KEPT = 4 << 20

    def host(self, tap: str, experts: Sequence[int] | None = None) -> HostTensor:
        case, model, wanted = self.case, self.case.model, tuple(self._experts(experts))
        key = (tap, wanted, case.seed, case.values, case.routing, case.dtype, model.num_experts, model.d_model, model.d_ff)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._made(tap, wanted)
        if made.array.nbytes <= self._MAX_BYTES_KEPT:
            self._kept[key] = made
            if len(self._kept) > self._NUM_KEPT:
                self._kept.popitem(last=False)
        return made

    def _made(self, tap: str, experts: Sequence[int]) -> HostTensor:
        generator = Generator(self.case)
        if tap == _GATE_UP:
            return generator.gate_up_EGD(experts)
        if tap == _DOWN:
            return generator.down_EDF(experts)
        return generator.router_ED() if tap == "param/router/w_ED" else generator.attention_DD()


class Checkpoint(WeightSource):
    """A Hugging Face style checkpoint: one file, or several with an index; experts one by one or packed."""

    def __init__(self, case: Case, rank: int, folder: Path) -> None:
        super().__init__(case, rank)
        self.folder = folder

    @cached_property
    def tensors(self) -> dict[str, HostTensor]:
        """All of them, as they lie in the mapped files. Errors: FileFailure."""
        index = self.folder / "model.safetensors.index.json"
        if not index.exists():
            return read_file(self.folder / "model.safetensors")
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError) as error:
            raise FileFailure(f"{index}: {error}") from error
        found: dict[str, HostTensor] = {}
        for file in files:
            found.update(read_file(self.folder / file))
        return found

    def tensor(self, name: str) -> HostTensor:
        if name not in self.tensors:
            raise FileFailure(f"checkpoint {self.folder} has no tensor '{name}'")
        return self.tensors[name]

    def host(self, tap: str, experts: Sequence[int] | None = None) -> HostTensor:
        names = self.case.model.names
        if tap == "param/router/w_ED":
            return self.tensor(names.router)
        if tap == "param/attention/w_DD":
            return self.tensor(names.attention)
        parts = [names.gate, names.up] if tap == _GATE_UP else [names.down]
        packed = packed_name(names.gate, "gate_up_proj" if tap == _GATE_UP else "down_proj")
        if packed in self.tensors:
            whole = self.tensor(packed)
            return HostTensor(whole.dtype, whole.array[list(self._experts(experts))])
        wanted = [np.concatenate([self.tensor(part.replace("{e}", str(e))).array for part in parts]) for e in self._experts(experts)]
        shape = (0, *self.case.param_shape(tap)[1:])
        dtype = self.tensor(parts[0].replace("{e}", "0")).dtype
        return HostTensor(dtype, np.stack(wanted) if wanted else np.empty(shape, self.tensor(parts[0].replace("{e}", "0")).array.dtype))
