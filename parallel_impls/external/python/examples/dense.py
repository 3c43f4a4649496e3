"""Data parallelism: the whole layer on every rank, each with tokens of its own, gradients summed over dp. Shows the router by a hook."""

import torch
import torch.nn.functional as F

import moecheck


class Experts(torch.nn.Module):
    def __init__(self, ctx, model):
        super().__init__()
        self.ctx, self.model = ctx, model
        self.gate_up_EGD = ctx.parameter("param/experts/gate_up_EGD", ctx.weights.gate_up_EGD())
        self.down_EDF = ctx.parameter("param/experts/down_EDF", ctx.weights.down_EDF())

    def forward(self, x_TD, scores_TK, ids_TK):
        tap_rows, y_TD = self.ctx.tap_rows, torch.zeros_like(x_TD)
        for e in range(self.model.num_experts):
            token_R, slot_R = (ids_TK == e).nonzero(as_tuple=True)
            tap_rows("dispatch/rows_R3", self.ctx.row_keys(token_R, slot_R, e))
            gate_up_RG = tap_rows("experts/gate_up_RG", F.linear(tap_rows("experts/in_RD", x_TD[token_R]), self.gate_up_EGD[e]))
            gate_RF, up_RF = gate_up_RG.chunk(2, -1)
            out_RD = tap_rows("experts/out_RD", F.linear(tap_rows("experts/act_RF", F.silu(gate_RF) * up_RF), self.down_EDF[e]))
            y_TD = y_TD.index_add(0, token_R, out_RD * scores_TK[token_R, slot_R, None])
        return y_TD


@moecheck.subject(name="dense", mesh_dims=["dp"], backends=["eager"], dtypes=["fp32", "bf16"])
class Dense(torch.nn.Module):
    def __init__(self, case, ctx):
        super().__init__()
        self.ctx, self.model = ctx, case.model
        self.gate = torch.nn.Linear(case.model.d_model, case.model.num_experts, bias=False, dtype=case.torch_dtype)
        self.gate.weight.data = ctx.checkpoint.router_ED()
        ctx.parameter("param/router/w_ED", self.gate.weight)
        ctx.parameter("param/attention/w_DD", ctx.checkpoint.attention_DD())
        self.experts = Experts(ctx, case.model)
        ctx.watch(self.gate, output="router/logits_TE")
        ctx.watch(self.experts, output="combine/partial_TD")

    def forward(self, x_TD):
        scores_TK, ids_TK = torch.topk(F.softmax(self.gate(x_TD), -1, dtype=torch.float32), self.model.top_k)
        if self.model.renormalise:
            scores_TK = scores_TK / scores_TK.sum(-1, keepdim=True)
        scores_TK = scores_TK.to(x_TD.dtype)
        for stage in ("router", "dispatch"):
            self.ctx.tap(f"{stage}/scores_TK", scores_TK)
            self.ctx.tap(f"{stage}/ids_TK", ids_TK)
        self.ctx.tap("dispatch/counts_e", torch.bincount(ids_TK.flatten(), minlength=self.model.num_experts))
        return self.experts(x_TD, scores_TK, ids_TK)

    def after_backward(self):
        for name, parameter in (("router/w_ED", self.gate.weight), ("experts/gate_up_EGD", self.experts.gate_up_EGD),
                                ("experts/down_EDF", self.experts.down_EDF)):
            if parameter.grad is None:   # a rank without tokens takes part all the same
                parameter.grad = torch.zeros_like(parameter)
            self.ctx.comm.all_reduce(parameter.grad, "dp", f"grad/{name}")


if __name__ == "__main__":
    moecheck.main()
