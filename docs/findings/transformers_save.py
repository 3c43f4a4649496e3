"""save_pretrained of a model that from_pretrained distributed over two ranks.

tp  packed expert weights are strided shards, and gathering them raises (transformers 5.16 and later with torch 2.11)
ep  gathered as the tp plan says, along another dimension: half as many experts, twice as wide (5.14); or it raises (5.7)
ep gpt_oss  which has no tp plan: nothing is gathered, and the experts of rank 0 are saved as if they were all (5.14)
Usage: python transformers_save.py [tp|ep] [gpt_oss]    (exit code 1: it raises, or the saved experts are not the model's)
"""

import os
import pathlib
import sys
import tempfile

import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GptOssConfig, Qwen3MoeConfig
from transformers.distributed import DistributedConfig


GENERAL = {"hidden_size": 32, "num_experts_per_tok": 2, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
           "head_dim": 8, "vocab_size": 16}


def distributed(is_ep):
    if hasattr(DistributedConfig, "ep_size") and is_ep:
        return {"distributed_config": DistributedConfig(tp_size=2, ep_size=2)}
    if hasattr(DistributedConfig, "tp_size"):
        return {"distributed_config": DistributedConfig(tp_size=2, enable_expert_parallel=is_ep)}
    return {"tp_plan": "auto", **({"distributed_config": DistributedConfig(enable_expert_parallel=True)} if is_ep else {})}


def work(rank, folder, is_ep, want):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = AutoModelForCausalLM.from_pretrained(folder, **distributed(is_ep))
    try:
        model.save_pretrained(f"{folder}/saved", is_main_process=rank == 0)
    except (TypeError, ValueError) as error:
        print(f"rank {rank}: save_pretrained raised: {error}", flush=True)
        os._exit(1)
    dist.barrier()
    shapes = {}
    for file in pathlib.Path(folder, "saved").glob("*.safetensors"):
        with safe_open(file, framework="pt") as saved:
            shapes |= {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys() if ".experts." in name}
    found = (len(shapes), set(shapes.values()))
    print(f"rank {rank}: tensors of experts that were saved, and their shapes: {found}; the model has {want}", flush=True)
    os._exit(0 if found == want else 1)


if __name__ == "__main__":
    if "gpt_oss" in sys.argv[1:]:
        config = GptOssConfig(intermediate_size=16, num_local_experts=8, **GENERAL)
        expected = (4, {(8, 32, 32), (8, 32), (8, 16, 32)})
    else:
        config = Qwen3MoeConfig(moe_intermediate_size=16, num_experts=8, **GENERAL)
        expected = (24, {(16, 32), (32, 16)})
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder, "ep" in sys.argv[1:], expected), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
