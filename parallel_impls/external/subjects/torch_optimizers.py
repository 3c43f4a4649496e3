"""torch's optimizers, each implementation of them, on the parameters of examples/naive_ep.py:

moecheck run --subject "python torch_optimizers.py" --case "impl=torch_fused model=mixtral mesh=ep=2 dtype=bf16 phases=load,forward,backward,step"
"""

import sys
from pathlib import Path

import torch

import moecheck

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python" / "examples"))
from naive_ep import NaiveEp  # noqa: E402


def offer(implementation):
    @moecheck.subject(name=f"torch_{implementation}", mesh_dims=["ep"], dtypes=["fp32", "bf16"], phases=["load", "forward", "backward", "step"])
    class Trained(NaiveEp):
        def load(self):
            t, how = self.ctx.case.training, {name: name == implementation for name in ("fused", "foreach")}
            if t.clip_norm > 0:
                raise moecheck.Unsupported("the norm of an expert-parallel layer is not torch's")
            parameters = [p for p in self.w.values() if p.requires_grad]
            if t.optimizer == "adamw":
                self.optimizer = torch.optim.AdamW(parameters, betas=(t.beta1, t.beta2), eps=t.eps, weight_decay=t.weight_decay, **how)
            else:
                self.optimizer = torch.optim.SGD(parameters, momentum=t.momentum, weight_decay=t.weight_decay, **how)

        def step(self, learning_rate):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self.optimizer.zero_grad()
            for param in self.ctx.trainable:
                param.show(self.ctx.tapper, "optim/param", lambda p: p.detach())


for one in ("fused", "foreach", "loop"):
    offer(one)

if __name__ == "__main__":
    moecheck.main()
