"""A folder that from_pretrained loads: config.json, the driver's checkpoint in the form that the release reads for the family, and beside
it the tensors that the layer does not have."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from moecheck.adapters.transformers.families import Family, family_of
from moecheck.adapters.transformers.packing import DOWN, GATE_UP
from moecheck.checkpoint_families import packed_name
from moecheck.context import Context
from moecheck.dtypes import to_host, to_torch
from moecheck.safetensors_file import write_file

_LAYER, _REST = "layer.safetensors", "rest.safetensors"
# Tensors of a block with which it adds nothing to what its experts compute: biases, and the output of a shared expert.
_ZERO = ("bias", "shared_experts.down_proj.weight")


def write_folder(ctx: Context, config: Any) -> tempfile.TemporaryDirectory[str]:
    """A rank's own, so that nobody has to wait for another's. The caller keeps it as long as it is read."""
    folder = tempfile.TemporaryDirectory(prefix="moecheck-transformers-", dir=ctx.checkpoint.folder.parent)
    path = Path(folder.name)
    config.save_pretrained(path)
    family = family_of(ctx.case)
    index = _write_packed(ctx, path, family) if family.packing.is_interleaved else _link_to_files(ctx, path)
    rest = _rest(ctx, config, family)
    write_file(path / _REST, {name: to_host(tensor) for name, tensor in rest.items()}, {"format": "pt"})
    index |= dict.fromkeys(rest, _REST)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _link_to_files(ctx: Context, path: Path) -> dict[str, str]:
    index: dict[str, str] = {}
    for file in sorted(ctx.checkpoint.folder.glob("*.safetensors")):
        # Under another name: a model.safetensors would be taken for all there is.
        name = f"layer-{file.name}"
        (path / name).symlink_to(file.resolve())
        index |= dict.fromkeys(_names_in(file), name)
    return index


def _write_packed(ctx: Context, path: Path, family: Family) -> dict[str, str]:
    """As the family's own checkpoints have it; no release converts from experts one by one."""
    names, source, packing = ctx.case.model.names, ctx.checkpoint, family.packing

    def kept(tap: str) -> Any:
        return to_host(packing.kept(tap, to_torch(source.host(tap))).contiguous())

    tensors = {names.router: source.host("param/router/w_ED"), names.attention: source.host("param/attention/w_DD"),
               packed_name(names.gate, "gate_up_proj"): kept(GATE_UP), packed_name(names.down, "down_proj"): kept(DOWN)}
    write_file(path / _LAYER, tensors, {"format": "pt"})
    return dict.fromkeys(tensors, _LAYER)


def _names_in(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        return list(opened.keys())


def _rest(ctx: Context, config: Any, family: Family) -> dict[str, Any]:
    """What the layer does not see, embeddings, norms and attention: ones for vectors, else numbers that the seed fixes. And what its block
    has beside router and experts, which is there to add nothing."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(ctx.case.seed)
    of_the_layer = (".self_attn.o_proj.weight", f".mlp.{family.router}.weight", ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")
    made: dict[str, Any] = {}
    for name, tensor in whole.state_dict().items():
        if name.endswith(of_the_layer):
            continue
        shape = tuple(tensor.shape)
        values = torch.ones(shape) if tensor.ndim == 1 else torch.randn(shape, generator=generator) * 0.2
        is_zero = ".mlp." in name and name.endswith(_ZERO)
        made[name] = (torch.zeros(shape) if is_zero else values).to(ctx.case.torch_dtype)
    return made
