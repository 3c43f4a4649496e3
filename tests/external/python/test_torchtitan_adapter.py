"""The adapter of torchtitan: what it asks for and refuses, without torchtitan; and where it is installed, that sound cells pass with the
checks really looking, and that the three cells of torchtitan 0.2.x without a reduction of the router's gradient are named."""

import functools
import importlib.metadata
import subprocess
import sys
import unittest
import unittest.mock

import driver_runs
from test_inputs import case_of

SUBJECT = driver_runs.ROOT / "parallel_impls" / "external" / "subjects" / "torchtitan_moe.py"
BACKWARD = "phases=load,forward,backward"


def refusal(**knobs):
    from moecheck.adapters.torchtitan.layout import refusal

    return refusal(case_of({"impl": "torchtitan", **knobs}))


@functools.cache
def why_no_torchtitan():
    """In another process, as torch."""
    program = "from moecheck.adapters.torchtitan.release import installed; installed()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else f"no torchtitan: {ended.stderr.strip().splitlines()[-1]}"


class AskedForALayout(unittest.TestCase):
    def test_takes_those_that_torchtitan_has(self):
        for knobs in ({}, {"impl": "torchtitan_ep", "mesh": "ep=2", "tokens_over": "dp,ep", "tokens": "7,5"},
                      {"impl": "torchtitan_tp", "mesh": "tp=2", "tokens_over": "tp"},
                      {"impl": "torchtitan_ep_tp", "mesh": "tp=2", "tokens_over": "tp", "expert_tp": "one"},
                      {"impl": "torchtitan_ep_tp", "mesh": "ep=2,tp=2", "tokens_over": "ep,tp"},
                      {"impl": "torchtitan_ep_fsdp", "mesh": "fsdp=2,ep=2", "tokens_over": "fsdp,ep"},
                      {"dtype": "bf16", "experts_backend": "grouped_mm"}, {"values": "exact", "experts_backend": "grouped_mm"}):
            self.assertEqual(refusal(**knobs), "", knobs)

    def test_says_why_it_has_not_the_others(self):
        for words, knobs in {
            "tokens over ep": {"impl": "torchtitan_ep", "mesh": "ep=2"},
            "as many tokens on every rank": {"impl": "torchtitan_tp", "mesh": "tp=2", "tokens_over": "tp", "tokens": "7,5"},
            "in the order ep,tp": {"impl": "torchtitan_ep_tp", "mesh": "tp=2,ep=2", "tokens_over": "ep,tp"},
            "ask torchtitan_ep_tp": {"impl": "torchtitan_tp", "mesh": "tp=2", "tokens_over": "tp", "expert_tp": "one"},
            "this is torchtitan_tp": {"impl": "torchtitan_ep_tp", "mesh": "tp=2", "tokens_over": "tp"},
            "not divided by ep=5": {"impl": "torchtitan_ep", "mesh": "ep=5", "tokens_over": "ep"},
            "fsdp=5 does not divide": {"impl": "torchtitan_ep_fsdp", "mesh": "fsdp=5", "tokens_over": "fsdp"},
            "to bf16": {"experts_backend": "grouped_mm"},
        }.items():
            self.assertIn(words, refusal(**knobs))
        from moecheck.adapters.torchtitan.layout import refusal as refusal_of

        self.assertIn("before the top-k", refusal_of(case_of({"impl": "torchtitan"}, softmax="after_topk")))
        self.assertEqual(refusal_of(case_of({"impl": "torchtitan"}, softmax="sigmoid", routed_scale=2.5)), "")

    def test_plans_the_cuts_of_the_style_that_torchtitan_chooses(self):
        from moecheck.adapters.torchtitan.layout import DOWN, GATE_UP, Layout

        ep, strided, rows = ("ep", "Shard(0)"), ("tp", "StridedShard(1,2)"), ("tp", "Shard(2)")
        for knobs, style, gate_up, down in (({"mesh": "ep=2"}, "ExpertParallel", [ep], [ep]),
                                            ({"mesh": "tp=2"}, "TensorParallel", [strided], [rows]),
                                            ({"mesh": "ep=2,tp=2"}, "ExpertTensorParallel", [ep, strided], [ep, rows]),
                                            ({}, "", [], [])):
            layout = Layout.of(case_of(knobs))
            self.assertEqual(layout.style, style)
            self.assertEqual((layout.planned_cuts(GATE_UP, "ep"), layout.planned_cuts(DOWN, "ep")), (gate_up, down))
        lent = Layout.of(case_of({"mesh": "ep=2,tp=2", "expert_tp": "one"}))
        self.assertEqual((lent.style, lent.ep, lent.planned_cuts(DOWN, "ep,tp")), ("ExpertParallel", 4, [("ep,tp", "Shard(0)")]))

    def test_refuses_releases_that_it_was_not_written_for(self):
        if driver_runs.why_no_torch():
            self.skipTest(driver_runs.why_no_torch())
        from moecheck.adapters.torchtitan.release import installed
        from moecheck.case import Unsupported

        with unittest.mock.patch("importlib.metadata.version", return_value="0.1.0"):
            self.assertRaisesRegex(Unsupported, "0.1.0 is not one of", installed)


class Rows(unittest.TestCase):
    def rows(self, rank, **knobs):
        from moecheck.adapters.torchtitan.rows import Rows

        return Rows(case_of(knobs), rank)

    def test_of_an_odd_number_of_tokens_are_one_sequence_in_the_order_of_tp_ranks(self):
        rows = self.rows(1, mesh="tp=2", tokens_over="tp", tokens="3")
        self.assertEqual((rows.batch, rows.length, rows.tokens_S, rows.own), (1, 3, [0, 1, 2, 3, 4, 5], [3, 4, 5]))

    def test_of_an_even_number_are_two_sequences_each_with_a_piece_of_every_tp_rank(self):
        rows = self.rows(1, mesh="tp=2", tokens_over="tp", tokens="4")
        self.assertEqual((rows.batch, rows.length, rows.tokens_S, rows.own), (2, 2, [0, 1, 4, 5, 2, 3, 6, 7], [2, 3, 6, 7]))

    def test_are_a_ranks_own_tokens_without_tp(self):
        rows = self.rows(1, mesh="ep=2", tokens_over="ep", tokens="4,0")
        self.assertEqual((rows.batch, rows.length, rows.tokens_S, rows.own), (1, 0, [], []))
        rows = self.rows(0, mesh="ep=2", tokens_over="ep", tokens="4,2")
        self.assertEqual((rows.batch, rows.tokens_S, rows.own), (2, [0, 1, 2, 3], [0, 1, 2, 3]))


SOUND = ("impl=torchtitan mesh=none", "impl=torchtitan_ep mesh=ep=2 tokens_over=dp,ep tokens=7,5",
         "impl=torchtitan_tp mesh=tp=2 tokens_over=dp,tp apply_scores=before_experts",
         "impl=torchtitan_ep_fsdp mesh=fsdp=2 tokens_over=dp,fsdp")
UNREDUCED = ("impl=torchtitan_tp mesh=tp=2 tokens_over=dp,tp", "impl=torchtitan_ep_tp mesh=tp=2 tokens_over=dp,tp expert_tp=one",
             "impl=torchtitan_ep_tp mesh=tp=2 tokens_over=dp,tp expert_tp=one apply_scores=before_experts")


@driver_runs.needs_subjects
class InstalledTorchtitan(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if why_no_torchtitan():
            raise unittest.SkipTest(why_no_torchtitan())
        if not importlib.metadata.version("torchtitan").startswith("0.2."):
            raise unittest.SkipTest("these cells are of torchtitan 0.2.x")
        cases = [f"model=qwen3_moe values=exact top_k=2 {case} {BACKWARD}" for case in SOUND + UNREDUCED]
        cls.records = driver_runs.run_cases(SUBJECT, cases)

    def test_is_green_where_it_is_sound_with_the_checks_looking(self):
        from moecheck.testing import states

        for record in self.records[: len(SOUND)]:
            self.assertEqual(record["verdict"], "pass", record["findings"][:3])
            looked = {name for name, state in states(record).items() if state == "pass"}
            self.assertLessEqual({"expert_census", "placement", "routing_ties", "stage_diff", "gradient_parity"}, looked, record["id"])

    def test_is_red_where_nobody_reduces_the_routers_gradient_over_tp(self):
        self.assertEqual(len(self.records), len(SOUND + UNREDUCED))
        for record in self.records[len(SOUND) :]:
            found = {(f["check"], f["stage"]) for f in record["findings"] if f["class"] == "bug"}
            self.assertLessEqual({("gradient_parity", "grad/router/w_ED"), ("replica_agreement", "grad/router/w_ED")}, found, record["id"])


if __name__ == "__main__":
    unittest.main()
