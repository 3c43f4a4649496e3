"""subjects/torch_optimizers.py under scenarios/regressions/torch-191763.yaml: torch's implementations of a step pass, and the one that leaves
bf16 parameters as they are is named wherever the script in docs/findings, which knows nothing of moecheck, sees it too."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import driver_runs

SUBJECT = driver_runs.ROOT / "parallel_impls" / "external" / "subjects" / "torch_optimizers.py"
SCRIPT = driver_runs.ROOT / "docs" / "findings" / "torch_fused_sgd.py"


@driver_runs.needs_subjects
class Steps(unittest.TestCase):
    def test_pass_in_fp32(self):
        case = "model=mixtral mesh=ep=2 dtype=fp32 phases=load,forward,backward,step steps=3"
        cases = [f"impl=torch_{one} {case} optimizer={optimizer}" for one in ("fused", "foreach", "loop") for optimizer in ("sgd", "adamw")]
        for one in driver_runs.run_cases(SUBJECT, cases):
            self.assertEqual(one["verdict"], "pass", one)
            self.assertGreater({check["name"]: check["compared"] for check in one["checks"]}["step_parity"], 0)

    def test_of_bf16_parameters_are_seen_where_they_do_not_move(self):
        with tempfile.TemporaryDirectory(prefix="moecheck-") as folder:
            out = Path(folder) / "run"
            driver_runs.driver("run", "regressions/torch-191763.yaml", "--subject", driver_runs.command(SUBJECT), "--out", out)
            cases = {one["config"]["impl"]: one for one in json.loads((out / "run.json").read_text())["cases"]}
        is_wrong = subprocess.run([sys.executable, SCRIPT], capture_output=True, check=False).returncode == 1
        self.assertEqual({impl: one["verdict"] for impl, one in cases.items()},
                         {"torch_fused": "fail" if is_wrong else "pass", "torch_foreach": "pass", "torch_loop": "pass"})
        if is_wrong:
            found = cases["torch_fused"]["findings"]
            self.assertEqual({one["check"] for one in found}, {"step_parity"})
            self.assertIn("did not move", found[0]["hypothesis"])


if __name__ == "__main__":
    unittest.main()
