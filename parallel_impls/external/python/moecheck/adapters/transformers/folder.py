"""A folder that from_pretrained loads: config.json, the driver's checkpoint, and beside it the tensors that the layer does not have."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from moecheck.context import Context
from moecheck.dtypes import to_host
from moecheck.safetensors_file import write_file

_REST = "rest.safetensors"


def write_folder(ctx: Context, config: Any) -> tempfile.TemporaryDirectory[str]:
    """A rank's own, so that nobody has to wait for another's. The caller keeps it as long as it is read."""
    folder = tempfile.TemporaryDirectory(prefix="moecheck-transformers-", dir=ctx.checkpoint.folder.parent)
    path = Path(folder.name)
    config.save_pretrained(path)
    index: dict[str, str] = {}
    for file in sorted(ctx.checkpoint.folder.glob("*.safetensors")):
        # Under another name: a model.safetensors would be taken for all there is.
        name = f"layer-{file.name}"
        (path / name).symlink_to(file.resolve())
        index |= dict.fromkeys(_names_in(file), name)
    rest = _rest(ctx, config)
    write_file(path / _REST, {name: to_host(tensor) for name, tensor in rest.items()}, {"format": "pt"})
    index |= dict.fromkeys(rest, _REST)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _names_in(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        return list(opened.keys())


def _rest(ctx: Context, config: Any) -> dict[str, Any]:
    """Embeddings, norms and attention, which the layer does not see: ones for vectors, else numbers that the seed fixes."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(ctx.case.seed)
    made: dict[str, Any] = {}
    for name, tensor in whole.state_dict().items():
        if ".mlp." in name or name == ctx.case.model.names.attention:
            continue
        shape = tuple(tensor.shape)
        values = torch.ones(shape) if tensor.ndim == 1 else torch.randn(shape, generator=generator) * 0.2
        made[name] = values.to(ctx.case.torch_dtype)
    return made
