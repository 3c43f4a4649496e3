"""The MoE layers of the installed transformers, as its users load them.

    moecheck run --subject "python transformers_moe.py" --case "impl=transformers_ep model=qwen3_moe mesh=ep=2 phases=load,forward,backward"

`ci/external` runs it for many releases.
"""

import moecheck
import moecheck.adapters.transformers  # noqa: F401  (offers the implementations)

if __name__ == "__main__":
    moecheck.main()
