"""Experts modules and the sentinel: slots of experts that live on other ranks come with the id num_experts and the weight 0.

Their outputs are masked, so the gradient of their weights should be 0. One process is enough to see what it is: with batched_mm the product
with an expert that was never meant, with grouped_mm NaN where unwritten memory holds NaN; eager raises. Under expert parallelism these
gradients are then summed over ranks, into those of the slots' owners.
Usage: python transformers_sentinel_gradient.py [eager|batched_mm|grouped_mm]    (5.10 to 5.16; exit code 1: not 0, or it raises)
"""

import sys

import torch
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = True   # fresh memory holds NaN, as any recycled memory may

NUM_LOCAL = 4
config = Qwen3MoeConfig(hidden_size=32, moe_intermediate_size=16, num_experts=NUM_LOCAL, num_experts_per_tok=2)
config._experts_implementation = sys.argv[1] if len(sys.argv) > 1 else "grouped_mm"
experts = Qwen3MoeExperts(config)
experts._is_expert_parallel = True   # what later releases ask for
torch.manual_seed(1)
for parameter in experts.parameters():
    torch.nn.init.normal_(parameter, std=0.2)

x = torch.randn(3, 32, requires_grad=True)
ids = torch.tensor([[0, NUM_LOCAL], [NUM_LOCAL, 3], [NUM_LOCAL, NUM_LOCAL]])
weights = torch.tensor([[0.7, 0.0], [0.0, 0.4], [0.0, 0.0]], requires_grad=True)
output = experts(x, ids, weights)
output.backward(torch.ones_like(output))
remote = weights.grad[ids == NUM_LOCAL]
print("gradients of the weights of slots that live elsewhere:", remote.tolist())
print("gradients of the local ones:", weights.grad[ids < NUM_LOCAL].tolist())
sys.exit(0 if bool((remote == 0).all()) else 1)
