"""Expert parallelism before transformers#45473, two of its parts.

plan     from_pretrained matches parameters with the tp plan and looks them up in the ep plan: KeyError for attention
pairing  the router's hook makes scores (T, experts of a rank) beside ids (T, top_k), which every experts forward pairs one by one
Usage: python transformers_45473.py [plan|pairing]    (transformers 5.1 to 5.5; exit code 1: it is so)
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from transformers.distributed import DistributedConfig
from transformers.integrations.tensor_parallel import ALL_PARALLEL_STYLES
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

PLAN = {"layers.*.mlp.gate": "ep_router", "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
        "layers.*.mlp.experts.down_proj": "grouped_gemm", "layers.*.mlp.experts": "moe_tp_experts"}


def load(folder):
    Qwen3MoeConfig.base_model_ep_plan = PLAN   # experts only, as later releases have it
    AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto", distributed_config=DistributedConfig(enable_expert_parallel=True))


def work(rank, folder, what, config):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    if what == "plan":
        try:
            load(folder)
        except KeyError as error:
            print(f"rank {rank}: KeyError: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    router = Qwen3MoeTopKRouter(config)
    ALL_PARALLEL_STYLES["ep_router"].prepare_module_tp(router, dist.init_device_mesh("cpu", (2,)))
    _, scores, ids = router(torch.randn(6, 32))
    print(f"rank {rank}: scores {tuple(scores.shape)} beside ids {tuple(ids.shape)}", flush=True)
    os._exit(1 if scores.shape != ids.shape else 0)


if __name__ == "__main__":
    config = Qwen3MoeConfig(hidden_size=32, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=2, num_hidden_layers=1,
                            num_attention_heads=4, num_key_value_heads=4, head_dim=8, vocab_size=16)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder, sys.argv[1] if len(sys.argv) > 1 else "pairing", config), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
