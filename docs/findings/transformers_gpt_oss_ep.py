"""Expert parallelism of GPT-OSS, the forward without gradients.

5.3          the loader asks the tp plan, which is empty, what to cut, and raises
5.5          it cuts nothing: every rank keeps all experts, and its ids count from its own first expert, which is another one's
5.6 on       experts_implementation "eager" meets the id num_experts of a slot that lives elsewhere, and raises. Other families were mended
             with 5.18 (one class more), GPT-OSS was not; 5.20 and 5.22 send tokens and have no such id, 5.23 has it again at inference
Usage: python transformers_gpt_oss_ep.py [eager|batched_mm|grouped_mm]
(exit code 1: it raises, a rank has more than its experts, or the output is not the model's without parallelism)
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, GptOssConfig
from transformers.distributed import DistributedConfig


def distributed():
    if hasattr(DistributedConfig, "tp_size"):
        expert = {"ep_size": 2} if hasattr(DistributedConfig, "ep_size") else {"enable_expert_parallel": True}
        return {"distributed_config": DistributedConfig(tp_size=2, **expert)}
    return {"tp_plan": "auto", "distributed_config": DistributedConfig(enable_expert_parallel=True)}


@torch.no_grad()
def output(model):
    return model.model.layers[0].mlp(torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(1)))[0]


def work(rank, folder, implementation):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    want = output(AutoModelForCausalLM.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, experts_implementation=implementation, **distributed())
    experts = model.model.layers[0].mlp.experts.gate_up_proj
    held = (experts.to_local() if hasattr(experts, "to_local") else experts).shape[0]
    try:
        off = ((output(model) - want).norm() / want.norm()).item()
    except (RuntimeError, IndexError) as error:
        print(f"rank {rank}: holds {held} of 8 experts; the forward raised: {error}", flush=True)
        os._exit(1)
    print(f"rank {rank}: holds {held} of 8 experts; relative error of the layer's output: {off}", flush=True)
    dist.barrier()
    os._exit(1 if held != 4 or off > 1e-4 else 0)


if __name__ == "__main__":
    config = GptOssConfig(hidden_size=32, intermediate_size=16, num_local_experts=8, num_experts_per_tok=2, num_hidden_layers=1,
                          num_attention_heads=4, num_key_value_heads=4, head_dim=8, vocab_size=16, initializer_range=0.2)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        try:
            mp.start_processes(work, (folder, sys.argv[1] if len(sys.argv) > 1 else "eager"), nprocs=2, start_method="fork")
        except mp.ProcessExitedException:
            sys.exit(1)
