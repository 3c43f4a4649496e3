"""torchtitan's MoE layer, as it is installed, under moecheck:

moecheck run --subject "python torchtitan_moe.py" --case "impl=torchtitan_ep model=qwen3_moe mesh=ep=2 tokens_over=dp,ep values=exact"
"""

import moecheck
import moecheck.adapters.torchtitan  # noqa: F401  offers torchtitan, torchtitan_ep, torchtitan_tp, torchtitan_ep_tp, torchtitan_ep_fsdp

if __name__ == "__main__":
    moecheck.main()
