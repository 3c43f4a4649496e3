"""torch's fused SGD leaves bf16 parameters on the CPU as they are, pytorch#191763.

Usage: python torch_fused_sgd.py    (torch 2.11; exit code 1: it is so)
"""

import sys

import torch


def stepped(dtype, is_fused):
    weight = torch.nn.Parameter(torch.ones(64, dtype=dtype))
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.5, fused=is_fused).step()
    return weight[0].item()


if __name__ == "__main__":
    found = {(dtype, is_fused): stepped(dtype, is_fused) for dtype in (torch.float32, torch.bfloat16) for is_fused in (False, True)}
    for (dtype, is_fused), value in found.items():
        print(f"torch {torch.__version__}, {dtype}, {'fused' if is_fused else 'not fused'}: 1 - 0.5 * 1 = {value}")
    sys.exit(any(value != 0.5 for value in found.values()))
