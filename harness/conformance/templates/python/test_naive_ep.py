"""The layer under the driver; the cases of naive_ep.moecheck.yaml are tests too."""

from pathlib import Path

import pytest

LAYER = Path(__file__).with_name("naive_ep.py")


@pytest.mark.parametrize("mesh", ["none", "ep=2"])
def test_layer_is_right_forward_and_backward(assert_layer, mesh):
    assert_layer(f"impl=naive_ep model=qwen3_moe mesh={mesh} phases=load,forward,backward", subject=LAYER,
                 observed=["expert_census", "stage_diff", "gradient_parity"])
