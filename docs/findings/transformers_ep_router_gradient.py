"""Expert parallelism: the router's gradient on each rank is that of its own experts' slots only, and nobody sums the parts.

Loads one random Qwen3-MoE layer plainly and with expert parallelism over two ranks, gives both the same tokens and the same gradient, and
compares. Usage: python transformers_ep_router_gradient.py [batched_mm|grouped_mm]    (transformers 5.6 to 5.16; exit code 1: it differs)
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from transformers.distributed import DistributedConfig

PLAN = {"layers.*.mlp.gate": "ep_router", "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
        "layers.*.mlp.experts.down_proj": "grouped_gemm", "layers.*.mlp.experts": "moe_tp_experts"}


def gradients(model):
    torch.manual_seed(1)
    x, grad = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
    x.requires_grad_()
    block = model.model.layers[0].mlp
    block(x).backward(grad)
    return {"router weight": block.gate.weight.grad, "tokens": x.grad}


def work(rank, folder, experts):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ep = DistributedConfig(tp_size=2, enable_expert_parallel=True) if hasattr(DistributedConfig, "tp_size") else \
        DistributedConfig(enable_expert_parallel=True)
    how = {} if os.path.exists(os.path.join(os.path.dirname(sys.modules["transformers.distributed"].__file__), "mixin.py")) else \
        {"tp_plan": "auto"}
    want = gradients(AutoModelForCausalLM.from_pretrained(folder, experts_implementation=experts))
    got = gradients(AutoModelForCausalLM.from_pretrained(folder, experts_implementation=experts, distributed_config=ep, **how))
    off = {name: ((got[name] - want[name]).norm() / want[name].norm()).item() for name in want}
    print(f"rank {rank}: relative error of the gradients: {off}", flush=True)
    dist.barrier()
    os._exit(1 if max(off.values()) > 1e-4 or any(v != v for v in off.values()) else 0)


if __name__ == "__main__":
    if not Qwen3MoeConfig.base_model_ep_plan:
        Qwen3MoeConfig.base_model_ep_plan = PLAN   # as users of releases before 5.7 had to
    config = Qwen3MoeConfig(hidden_size=32, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=2, num_hidden_layers=1,
                            num_attention_heads=4, num_key_value_heads=4, head_dim=8, vocab_size=16, initializer_range=0.2)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder, sys.argv[1] if len(sys.argv) > 1 else "batched_mm"), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
