"""DistributedConfig(fsdp_size=2, enable_expert_parallel=True) is accepted, and every rank computes all experts.

Usage: python transformers_fsdp_ignores_ep.py    (transformers 5.15 to 5.19; exit code 1: the experts module runs with all experts)
"""

import os
import sys
import tempfile

import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from transformers.distributed import DistributedConfig


def work(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    asked = DistributedConfig(fsdp_size=2, enable_expert_parallel=True)
    experts = AutoModelForCausalLM.from_pretrained(folder, distributed_config=asked).model.layers[0].mlp.experts
    weight = experts.gate_up_proj
    over = weight.device_mesh.mesh_dim_names
    print(f"rank {rank}: num_experts {experts.num_experts}, gate_up_proj {weight.placements} over {over}", flush=True)
    dist.barrier()
    os._exit(1 if experts.num_experts == 8 else 0)


if __name__ == "__main__":
    config = Qwen3MoeConfig(hidden_size=32, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=2, num_hidden_layers=1,
                            num_attention_heads=4, num_key_value_heads=4, head_dim=8, vocab_size=16)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder,), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
