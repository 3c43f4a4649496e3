"""Tensor parallelism of DeepSeek-V3: the plan calls gate_up_proj rowwise, which cuts the columns that the tokens are multiplied with,
where the tokens are whole; and names nothing that sums the parts.

Usage: python transformers_deepseek_tp_plan.py    (transformers 5.1; exit code 1: the forward raises, or its output is wrong)
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, DeepseekV3Config
from transformers.distributed import DistributedConfig


def distributed():
    return {"distributed_config": DistributedConfig(tp_size=2)} if hasattr(DistributedConfig, "tp_size") else {"tp_plan": "auto"}


def local_shape(parameter):
    return tuple(parameter.to_local().shape if hasattr(parameter, "to_local") else parameter.shape)


@torch.no_grad()
def output(model):
    return model.model.layers[0].mlp(torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(1)))


def work(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    want, model = output(AutoModelForCausalLM.from_pretrained(folder)), AutoModelForCausalLM.from_pretrained(folder, **distributed())
    shape = local_shape(model.model.layers[0].mlp.experts.gate_up_proj)
    try:
        got = output(model)
    except RuntimeError as error:
        print(f"rank {rank}: gate_up_proj is {shape}, of (8, 32, 32); the forward raised: {error}", flush=True)
        os._exit(1)
    off = ((got - want).norm() / want.norm()).item()
    print(f"rank {rank}: gate_up_proj is {shape}, of (8, 32, 32); relative error of the layer's output: {off}", flush=True)
    dist.barrier()
    os._exit(1 if off > 1e-4 else 0)


if __name__ == "__main__":
    config = DeepseekV3Config(hidden_size=32, intermediate_size=16, moe_intermediate_size=16, n_routed_experts=8, num_experts_per_tok=2,
                              n_group=1, topk_group=1, first_k_dense_replace=0, num_hidden_layers=1, num_attention_heads=4,
                              num_key_value_heads=4, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
                              vocab_size=16, initializer_range=0.2)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder,), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
