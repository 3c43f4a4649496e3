"""The Hugging Face form of a save (harness/subject/checkpoint.h): which tensors a family's layer has, under which names, and which file
holds each."""

from __future__ import annotations

import json
import math
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from moecheck.case import Case
from moecheck.dtypes import CARRIERS
from moecheck.taps import PARAMETERS

WEIGHT_FILE = "model.safetensors"
WEIGHT_INDEX = "model.safetensors.index.json"
_ATTENTION, _ROUTER, _GATE_UP, _DOWN = PARAMETERS


@dataclass(frozen=True)
class Weight:
    """A tensor of the files, and what it is of the tap: all of it, or of one expert some rows."""

    name: str
    tap: str
    shape: tuple[int, ...]
    expert: int | None = None
    first_row: int = 0


def taps_of_family() -> list[str]:
    return list(PARAMETERS)


def packed_name(per_expert: str, part: str) -> str:
    """ "mlp.experts.{e}.gate_proj.weight" and "gate_up_proj" make "mlp.experts.gate_up_proj". """
    return per_expert[: per_expert.index("{e}")] + part


def weights_of(case: Case, is_packed: bool) -> list[Weight]:
    """In the order in which they lie in the files."""
    m, names = case.model, case.model.names

    def whole(name: str, tap: str) -> Weight:
        return Weight(name, tap, tuple(case.param_shape(tap)))

    weights = [whole(names.attention, _ATTENTION), whole(names.router, _ROUTER)]
    if is_packed:
        return [*weights, whole(packed_name(names.gate, "gate_up_proj"), _GATE_UP), whole(packed_name(names.down, "down_proj"), _DOWN)]
    for e in range(m.num_experts):
        weights += [Weight(names.gate.replace("{e}", str(e)), _GATE_UP, (m.d_ff, m.d_model), e),
                    Weight(names.up.replace("{e}", str(e)), _GATE_UP, (m.d_ff, m.d_model), e, m.d_ff),
                    Weight(names.down.replace("{e}", str(e)), _DOWN, (m.d_model, m.d_ff), e)]
    return weights


def expected_shapes(case: Case, names: Set[str]) -> dict[str, tuple[int, ...]]:
    """Of the tensors that a checkpoint with these names has to have: packed ones, if it has one of them."""
    is_packed = not names.isdisjoint(weight.name for weight in weights_of(case, True)[2:])
    return {weight.name: weight.shape for weight in weights_of(case, is_packed)}


def weight_files(case: Case) -> list[tuple[str, list[Weight]]]:
    """As many files as the knob weight_files says, or as there are tensors; each about as many bytes."""
    weights = weights_of(case, case.knobs["weights"] == "packed")
    num_files = min(int(case.knobs["weight_files"]), len(weights))
    if num_files == 1:
        return [(WEIGHT_FILE, weights)]
    sizes = [math.prod(weight.shape) for weight in weights]
    files: list[tuple[str, list[Weight]]] = []
    for i, weight in enumerate(weights):
        begun = len(files)
        is_due = sum(sizes[:i]) >= sum(sizes) * begun // num_files
        is_needed = num_files - begun == len(weights) - i   # one for each of the other files
        if begun < num_files and (is_due or is_needed):
            files.append((f"model-{begun + 1:05}-of-{num_files:05}.safetensors", []))
        files[-1][1].append(weight)
    return files


def weight_index_text(case: Case, files: list[tuple[str, list[Weight]]]) -> str:
    file_of = {weight.name: file for file, weights in files for weight in weights}
    size = sum(math.prod(weight.shape) for _, weights in files for weight in weights) * CARRIERS[case.dtype].itemsize
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(file_of.items()))}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_weight_index(folder: Path, case: Case, files: list[tuple[str, list[Weight]]]) -> None:
    """A single file is its own index. Errors: OSError."""
    if len(files) > 1:
        (folder / WEIGHT_INDEX).write_text(weight_index_text(case, files), encoding="utf-8")
