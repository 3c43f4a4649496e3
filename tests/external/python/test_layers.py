"""Layers written with the package, run and judged by the driver: sound ones pass with the checks really looking, broken ones are named."""

import tempfile
import unittest
from pathlib import Path

import driver_runs
import variants

ALL = "load,forward,backward,step"
LOOKING = {"comm_log", "euler_identity", "expert_census", "gradient_parity", "nonfinite", "optimizer", "path_taken", "phase_completion",
           "placement", "replica_agreement", "routing_ties", "shape_pairing", "stage_diff", "token_conservation", "training_state"}


def states(record):
    from moecheck.testing import states

    return states(record)


def failures(record):
    return [f for f in record["findings"] if f["class"] in ("bug", "contract")]


def run_variants(which, cases):
    """Records by name of the variant, of all cases on the same ranks."""
    found = {name: [] for name in which}
    with tempfile.TemporaryDirectory() as folder:
        program = variants.write_program(Path(folder), which)
        for record in driver_runs.run_cases(program, [f"impl={name} {case}" for case in cases for name in which]):
            found[record["config"]["impl"]].append(record)
    return found


@driver_runs.needs_subjects
class SoundLayers(unittest.TestCase):
    def test_pass_in_every_layout_and_dtype_with_every_check_looking(self):
        optimizers = ("optimizer=adamw", "optimizer=sgd lr_decay=0.5")
        cases = [f"impl=naive_ep model=qwen3_moe mesh={mesh} dtype={dtype} phases={ALL} steps=2 microbatches=2 clip_norm=1 {optimizer}"
                 for mesh in ("none", "ep=2", "ep=4") for dtype in ("fp32", "bf16") for optimizer in optimizers]
        for record in driver_runs.run_cases(driver_runs.EXAMPLES / "naive_ep.py", cases):
            self.assertEqual(record["verdict"], "pass", record["findings"][:3])
            alone = {"comm_log", "replica_agreement"} if record["config"]["mesh"] == "none" else set()
            looked = {name for name, state in states(record).items() if state == "pass"}
            self.assertEqual(looked, LOOKING - alone, record["id"])

    def test_agree_bit_for_bit_where_every_sum_is_exact(self):
        cases = [f"impl=naive_ep model=olmoe values=exact phases=load,forward,backward dtype={dtype} mesh={mesh}"
                 for dtype in ("fp32", "bf16") for mesh in ("none", "ep=2", "ep=3")]
        for record in driver_runs.run_cases(driver_runs.EXAMPLES / "naive_ep.py", cases):
            self.assertEqual(record["verdict"], "pass", record["findings"][:3])

    def test_sum_gradients_over_data_parallel_ranks_of_which_one_has_no_tokens(self):
        cases = [f"impl=dense model=mixtral mesh={mesh} dtype={dtype} tokens=5,0,3 phases={ALL} steps=2 weights=packed weight_files=3"
                 for mesh in ("none", "dp=3") for dtype in ("fp32", "bf16")]
        for record in driver_runs.run_cases(driver_runs.EXAMPLES / "dense.py", cases):
            self.assertEqual(record["verdict"], "pass", record["findings"][:3])
            self.assertEqual(states(record)["optimizer"], "pass")

    def test_may_keep_their_parameters_as_dtensors_or_one_by_one(self):
        cases = [f"model=qwen3_moe mesh=ep=2 dtype=bf16 phases={ALL} steps=2 optimizer={optimizer}" for optimizer in ("sgd", "adamw")]
        for records in run_variants(variants.SOUND, cases).values():
            for record in records:
                self.assertEqual(record["verdict"], "pass", record["findings"][:3])
                looking = ("placement", "optimizer", "gradient_parity", "expert_census")
                self.assertEqual({states(record)[name] for name in looking}, {"pass"})


@driver_runs.needs_subjects
class BrokenLayers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cases = [f"model=qwen3_moe mesh=ep=2 dtype={dtype} phases=load,forward,backward" for dtype in ("fp32", "bf16")]
        cls.found = run_variants(variants.BROKEN, cases)

    def assert_found(self, name, check, stage):
        self.assertEqual(len(self.found[name]), 2)
        for record in self.found[name]:
            self.assertEqual(record["verdict"], "fail")
            self.assertIn((check, stage), {(f["check"], f["stage"]) for f in failures(record)}, record["id"])
            self.assertEqual(failures(record)[0]["stage"], stage, "the first place is where the mistake is")

    def test_with_a_wrong_expert_offset_are_flagged(self):
        self.assert_found("wrong_expert_offset", "expert_census", "param/experts/gate_up_EGD")

    def test_without_the_all_reduce_are_flagged(self):
        self.assert_found("missing_all_reduce", "stage_diff", "output/y_TD")

    def test_with_scores_of_experts_that_live_elsewhere_are_flagged(self):
        self.assert_found("scores_not_masked", "shape_pairing", "dispatch/scores_TK")

    def test_without_the_reduction_of_the_routers_gradient_are_flagged(self):
        self.assert_found("router_gradient_not_reduced", "gradient_parity", "grad/scores_TK")

    def test_that_forget_to_renormalise_are_flagged(self):
        self.assert_found("renormalisation_forgotten", "stage_diff", "router/scores_TK")


@driver_runs.needs_subjects
class MisbehavingLayers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.found = run_variants(variants.MISBEHAVING, ["model=qwen3_moe mesh=ep=2 dtype=fp32 phases=load,forward,backward"])

    def run_one(self, name):
        return self.found[name][0]

    def test_that_raise_are_reported_with_rank_and_message(self):
        record = self.run_one("raises")
        self.assertEqual(record["verdict"], "fail")
        cause = next(f for f in failures(record) if f["check"] == "phase_completion")
        self.assertEqual((cause["stage"], cause["rank"]), ("forward", 1))
        self.assertIn("IndexError: no such expert", cause["message"])

    def test_that_raise_when_they_are_made_are_reported_too(self):
        record = self.run_one("raises_when_made")
        self.assertEqual(record["verdict"], "fail")
        self.assertIn("w1.weight", failures(record)[0]["message"])

    def test_that_show_what_no_table_knows_are_told_so(self):
        self.assertIn("there is no tap 'router/logits'", failures(self.run_one("unknown_tap"))[0]["message"])

    def test_that_ran_something_else_are_caught_by_their_word(self):
        self.assertIn("path_taken", {f["check"] for f in failures(self.run_one("other_backend"))})

    def test_that_leave_memory_unwritten_show_nan(self):
        self.assertIn("nonfinite", {f["check"] for f in failures(self.run_one("unwritten"))})

    def test_that_leave_a_peer_waiting_are_told_apart_from_it(self):
        record = self.run_one("takes_no_part")
        self.assertEqual(record["verdict"], "fail")
        self.assertTrue(any("rank 1 took no part in all_reduce" in f["message"] for f in failures(record)), failures(record))


@driver_runs.needs_driver
class SlowLayers(unittest.TestCase):
    def test_have_the_time_to_start_that_they_are_given(self):
        with tempfile.TemporaryDirectory() as folder:
            slow = Path(folder) / "slow.py"
            slow.write_text(f"import time\ntime.sleep(2)\n{(driver_runs.EXAMPLES / 'naive_ep.py').read_text()}")
            ended = driver_runs.driver("run", "--case", "impl=naive_ep model=qwen3_moe mesh=ep=2", "--subject", driver_runs.command(slow),
                                       "--start-timeout", "0.5", "--out", Path(folder) / "run")
        self.assertEqual(ended.returncode, 6, ended.stderr)
        self.assertIn("no answer within 500 ms", ended.stderr)
        self.assertIn("--start-timeout gives it longer", ended.stderr)


@driver_runs.needs_subjects
class RefusedCases(unittest.TestCase):
    def test_are_unsupported_and_leave_the_ranks_as_good_as_before(self):
        refused = ["mesh=tp=2", "mesh=ep=2 experts_backend=grouped_mm", "mesh=ep=2 tokens_over=dp,fsdp,ep", "mesh=ep=2 softmax=after_topk",
                   "mesh=ep=2 apply_scores=before_experts", "mesh=ep=2 recompute=true", "mesh=ep=2 loader=full_then_shard",
                   "mesh=ep=2 dtype=bf16 experts=12 d_model=16 d_ff=8 device=cuda"]
        cases = [f"impl=naive_ep model=qwen3_moe {c}" for c in (*refused, "mesh=ep=2")]
        records = driver_runs.run_cases(driver_runs.EXAMPLES / "naive_ep.py", cases)
        self.assertEqual([r["verdict"] for r in records], ["unsupported"] * len(refused) + ["pass"])
        self.assertIn("tokens that are sharded over ep", records[2]["reason"])
        self.assertIn("does not heed softmax=after_topk", records[3]["reason"])


if __name__ == "__main__":
    unittest.main()
