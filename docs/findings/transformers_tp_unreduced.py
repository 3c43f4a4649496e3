"""Tensor parallelism of Qwen3-MoE: the plan cuts every expert and names nothing that sums the parts. Each rank goes on with its own.

Usage: python transformers_tp_unreduced.py    (transformers 5.1; exit code 1: the outputs differ from the model's without parallelism)
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, Qwen3MoeConfig


@torch.no_grad()
def output(model):
    return model.model.layers[0].mlp(torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(1)))


def work(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    want, got = output(AutoModelForCausalLM.from_pretrained(folder)), output(AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto"))
    total = got.clone()
    dist.all_reduce(total)
    off = ((got - want).norm() / want.norm()).item()
    sum_off = ((total - want).norm() / want.norm()).item()
    print(f"rank {rank}: relative error of the layer's output: {off}; of the sum over ranks: {sum_off}", flush=True)
    dist.barrier()
    os._exit(1 if off > 1e-4 else 0)


if __name__ == "__main__":
    config = Qwen3MoeConfig(hidden_size=32, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=2, num_hidden_layers=1,
                            num_attention_heads=4, num_key_value_heads=4, head_dim=8, vocab_size=16, initializer_range=0.2)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder,), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
