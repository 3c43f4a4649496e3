"""A test file that is its own subject: as a user of the package would write one, for pytest. It shows its router and its output."""

import torch

import moecheck


def _make(case, ctx, factor):
    w = ctx.parameters(range(case.model.num_experts))

    def forward(x_TD):
        logits_TE = ctx.tap("router/logits_TE", x_TD @ w.router_ED.T)
        scores_TK, ids_TK = torch.topk(torch.softmax(logits_TE, -1), case.model.top_k)
        scores_TK = ctx.tap("router/scores_TK", factor * scores_TK / scores_TK.sum(-1, keepdim=True))
        ctx.tap("router/ids_TK", ids_TK)
        gate_TKF, up_TKF = torch.einsum("td,tkgd->tkg", x_TD, w.gate_up_EGD[ids_TK]).chunk(2, -1)
        return torch.einsum("tkf,tkdf,tk->td", torch.nn.functional.silu(gate_TKF) * up_TKF, w.down_EDF[ids_TK], scores_TK)

    return forward


@moecheck.subject(name="routed")
def sound(case, ctx):
    return _make(case, ctx, 1.0)


@moecheck.subject(name="wrong_scores")
def wrong(case, ctx):
    return _make(case, ctx, 1.01)


def test_routes_as_the_reference_does(assert_layer):
    assert_layer("impl=routed model=qwen3_moe mesh=none dtype=fp32", observed=["routing_ties", "stage_diff", "layer_parity"])


def test_is_caught_with_wrong_scores(assert_layer):
    try:
        assert_layer("impl=wrong_scores model=qwen3_moe mesh=none dtype=fp32")
    except AssertionError as error:
        assert "router/scores_TK" in str(error)
    else:
        raise AssertionError("a wrong layer passed")
