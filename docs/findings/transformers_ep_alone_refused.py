"""DistributedConfig(tp_size=2, ep_size=2, tp_plan={}): by its documentation the expert-parallel plan alone. from_pretrained refuses it.

So does enable_expert_parallel=True, which its documentation calls the same.
Usage: python transformers_ep_alone_refused.py    (transformers 5.23; exit code 1: refused)
"""

import os
import sys
import tempfile

import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from transformers.distributed import DistributedConfig


def is_loaded(rank, folder, said, config):
    try:
        AutoModelForCausalLM.from_pretrained(folder, distributed_config=config)
    except ValueError as error:
        print(f"rank {rank}, {said}: {error}" if rank == 0 else "", flush=True)
        return False
    return True


def work(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    loaded = [is_loaded(rank, folder, "tp_plan={}", DistributedConfig(tp_size=2, ep_size=2, tp_plan={})),
              is_loaded(rank, folder, "enable_expert_parallel", DistributedConfig(tp_size=2, enable_expert_parallel=True)),
              is_loaded(rank, folder, "with the tp plan", DistributedConfig(tp_size=2, ep_size=2))]
    print(f"rank {rank}: loaded: {loaded}", flush=True)
    dist.barrier()
    os._exit(0 if all(loaded) else 1)


if __name__ == "__main__":
    config = Qwen3MoeConfig(hidden_size=32, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=2, num_hidden_layers=1,
                            num_attention_heads=4, num_key_value_heads=4, head_dim=8, vocab_size=16)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder,), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
