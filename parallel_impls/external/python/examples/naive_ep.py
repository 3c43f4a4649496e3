"""Expert parallelism in its simplest form: tokens replicated over ep, every rank computes its own experts, all-reduce of the sums."""

import torch
import torch.nn.functional as F

import moecheck


@moecheck.subject(name="naive_ep", mesh_dims=["ep"], backends=["eager"], dtypes=["fp32", "bf16"])
class NaiveEp(torch.nn.Module):
    def __init__(self, case, ctx):
        super().__init__()
        self.ctx, self.model, self.num_local = ctx, case.model, case.model.num_experts // case.mesh.size("ep")
        self.first = ctx.coordinate("ep") * self.num_local
        self.w = ctx.parameters(range(self.first, self.first + self.num_local), [("ep", "Shard(0)")])

    def forward(self, x_TD):
        tap, tap_rows, comm, model, num_local = self.ctx.tap, self.ctx.tap_rows, self.ctx.comm, self.model, self.num_local
        logits_TE = tap("router/logits_TE", F.linear(x_TD, self.w.router_ED))
        scores_TK, ids_TK = torch.topk(F.softmax(logits_TE, -1, dtype=torch.float32), model.top_k)
        if model.renormalise:
            scores_TK = scores_TK / scores_TK.sum(-1, keepdim=True)
        scores_TK, ids_TK = tap("router/scores_TK", scores_TK.to(x_TD.dtype)), tap("router/ids_TK", ids_TK)
        is_remote_TK = (ids_TK < self.first) | (ids_TK >= self.first + num_local)
        scores_TK = tap("dispatch/scores_TK", comm.copy_to(scores_TK, "ep", "grad/scores_TK").masked_fill(is_remote_TK, 0))
        ids_TK = tap("dispatch/ids_TK", (ids_TK - self.first).masked_fill(is_remote_TK, num_local))
        tap("dispatch/counts_e", torch.bincount(ids_TK.flatten(), minlength=num_local + 1)[:num_local])
        x_TD, partial_TD = comm.copy_to(x_TD, "ep", "grad/x_TD"), torch.zeros_like(x_TD)
        for e in range(num_local):
            token_R, slot_R = (ids_TK == e).nonzero(as_tuple=True)
            tap_rows("dispatch/rows_R3", self.ctx.row_keys(token_R, slot_R, self.first + e))
            in_RD = tap_rows("experts/in_RD", x_TD[token_R])
            gate_up_RG = tap_rows("experts/gate_up_RG", F.linear(in_RD, self.w.gate_up_EGD[e]))
            act_RF = tap_rows("experts/act_RF", F.silu(gate_up_RG[:, : model.d_ff]) * gate_up_RG[:, model.d_ff :])
            out_RD = tap_rows("experts/out_RD", F.linear(act_RF, self.w.down_EDF[e]))
            partial_TD = partial_TD.index_add(0, token_R, out_RD * scores_TK[token_R, slot_R, None])
        return comm.reduce_from(tap("combine/partial_TD", partial_TD, [("ep", "Partial")]), "ep", "output/y_TD")


if __name__ == "__main__":
    moecheck.main()
