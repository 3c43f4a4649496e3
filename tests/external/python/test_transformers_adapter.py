"""The adapter for transformers: what a release is, which layouts it can be asked for, how its cuts are told; and, where transformers can be
imported, a layer of it that passes and a layout that is refused."""

import importlib.util
import subprocess
import sys
import types
import unittest

import driver_runs
from moecheck.adapters.transformers import layouts, placement, release
from moecheck.adapters.transformers.families import family_of, num_heads
from moecheck.adapters.transformers.packing import DOWN, GATE_UP, INTERLEAVED, ROWS
from moecheck.adapters.transformers.release import DISPATCH, DTENSOR, HOOKS, Release, Version
from moecheck.adapters.transformers.watching import make_watchable, watch
from moecheck.case import SILU, Activation, Case, Unsupported
from moecheck.mesh import Mesh

SUBJECT = driver_runs.ROOT / "parallel_impls" / "external" / "subjects" / "transformers_moe.py"
HOOKED = Release(Version(5, 7, 0), HOOKS, loads_fsdp=False, takes_tp_plan=True)
DTENSORS = Release(Version(5, 16, 1), DTENSOR, loads_fsdp=True, takes_tp_plan=False)
DISPATCHING = Release(Version(5, 23, 0), DISPATCH, loads_fsdp=True, takes_tp_plan=False)


def case_of(impl, mesh, tokens_over="dp,fsdp", expert_tp="tp", phases=("load", "forward"), **model):
    named = types.SimpleNamespace(**{"family": "qwen3_moe", "softmax": "before_topk", "renormalise": True, "routed_scale": 1,
                                     "activation": SILU, "num_experts": 12, **model})
    return Case(impl=impl, experts_backend="eager", device="cpu", model=named, mesh=Mesh.parse(mesh), dtype="fp32", seed=1, values="normal",
                routing="natural", tokens=(7,), tokens_over=tokens_over, expert_tp=expert_tp, apply_scores="after_experts", recompute=False,
                training=None, phases=phases, knobs={})


class Releases(unittest.TestCase):
    def test_are_ordered_by_number_whatever_follows_it(self):
        self.assertEqual(Version.parse("5.10.4.dev0"), Version(5, 10, 4))
        self.assertLess(Version.parse("5.9.0"), Version.parse("5.10.0rc1"))
        with self.assertRaises(ValueError):
            Version.parse("main")

    def test_are_told_apart_by_what_they_offer(self):
        self.assertEqual(release.generation_of({"enable_expert_parallel"}, has_dtensor_styles=False), HOOKS)
        self.assertEqual(release.generation_of({"enable_expert_parallel", "tp_size"}, has_dtensor_styles=True), DTENSOR)
        self.assertEqual(release.generation_of({"tp_size", "ep_size"}, has_dtensor_styles=True), DISPATCH)


class Layouts(unittest.TestCase):
    def refusal(self, case, of=DISPATCHING):
        with self.assertRaises(Unsupported) as raised:
            layouts.layout_of(case, of)
        return str(raised.exception)

    def test_name_the_dimensions_of_the_case_that_a_release_calls_otherwise(self):
        layout = layouts.layout_of(case_of("transformers_ep", "ep=2"), HOOKED)
        self.assertEqual((layout.tp_size, layout.ep_size, layout.dims["tp"], layout.experts_group), (2, 2, "ep", "ep"))
        layout = layouts.layout_of(case_of("transformers_ep_fsdp", "fsdp=2,ep=2", tokens_over="dp,fsdp,ep"), DISPATCHING)
        self.assertEqual((layout.fsdp_size, layout.ep_size, layout.dims["fsdp"], layout.dims["efsdp"]), (4, 2, "fsdp,ep", "fsdp"))

    def test_that_no_release_has_are_refused_with_the_reason(self):
        self.assertIn("replicates tokens over ep", self.refusal(case_of("transformers_ep", "ep=2", tokens_over="dp,ep")))
        self.assertIn("cut by tp beside ep", self.refusal(case_of("transformers_ep_tp", "ep=2,tp=2", tokens_over="dp,ep")))
        self.assertIn("every rank of fsdp has its own", self.refusal(case_of("transformers_ep_fsdp", "fsdp=2,ep=2")))

    def test_that_a_release_does_not_have_yet_are_refused_for_it(self):
        case = case_of("transformers_ep_tp", "ep=2,tp=2", tokens_over="dp,ep", expert_tp="one")
        self.assertIn("ep_size", self.refusal(case, DTENSORS))
        self.assertEqual(layouts.layout_of(case, DISPATCHING).ep_size, 4)
        self.assertIn("does not apply fsdp_size", self.refusal(case_of("transformers_fsdp", "fsdp=2"), HOOKED))


class Families(unittest.TestCase):
    def test_that_are_not_known_or_compute_otherwise_are_refused(self):
        with self.assertRaisesRegex(Unsupported, "does not know the family nemo"):
            family_of(case_of("transformers", "none", family="nemo"))
        with self.assertRaisesRegex(Unsupported, "takes softmax=before_topk"):
            family_of(case_of("transformers", "none", softmax="after_topk"))
        with self.assertRaisesRegex(Unsupported, "does not scale its scores"):
            family_of(case_of("transformers", "none", routed_scale=2.5))
        with self.assertRaisesRegex(Unsupported, "another activation"):
            family_of(case_of("transformers", "none", family="gpt_oss", softmax="after_topk"))
        with self.assertRaisesRegex(Unsupported, "divides the scores"):
            case = case_of("transformers", "none", family="mixtral", renormalise=False)
            family_of(case).config(case.model)

    def test_with_a_clamped_activation_and_a_scale_are_those_that_have_them(self):
        clamped = case_of("transformers", "none", family="gpt_oss", softmax="after_topk", activation=Activation(1.702, 1.5, 1.0))
        self.assertTrue(family_of(clamped).packing.is_interleaved)
        scaled = case_of("transformers", "none", family="deepseek_v3", softmax="sigmoid", routed_scale=2.5)
        self.assertFalse(family_of(scaled).is_attention_cut)

    def test_get_heads_of_an_even_size(self):
        self.assertEqual([num_heads(d) for d in (48, 64, 2048)], [12, 8, 8])


class Cuts(unittest.TestCase):
    def test_of_a_style_take_pieces_of_gate_and_of_up(self):
        self.assertEqual(placement.cuts_by_style("packed_colwise", 3, "tp"), [("tp", "StridedShard(1,2)")])
        self.assertEqual(placement.cuts_by_style("grouped_gemm", 3, "ep"), [("ep", "Shard(0)")])
        self.assertEqual(placement.cuts_by_style("moe_tp_experts", 3, "ep"), [])


@unittest.skipIf(driver_runs.why_no_torch(), driver_runs.why_no_torch())
class Packings(unittest.TestCase):
    def test_of_gpt_oss_have_gate_and_up_in_turns_and_lie_transposed(self):
        import torch

        gate_up_EGD = torch.arange(2 * 6 * 4).reshape(2, 6, 4)
        kept_EDG = INTERLEAVED.kept(GATE_UP, gate_up_EGD)
        self.assertTrue(torch.equal(kept_EDG[..., 0::2], gate_up_EGD[:, :3].transpose(1, 2)))
        self.assertTrue(torch.equal(kept_EDG[..., 1::2], gate_up_EGD[:, 3:].transpose(1, 2)))
        self.assertTrue(torch.equal(INTERLEAVED.canonical(GATE_UP, kept_EDG), gate_up_EGD))
        down_EDF = torch.arange(2 * 4 * 3).reshape(2, 4, 3)
        self.assertTrue(torch.equal(INTERLEAVED.kept(DOWN, down_EDF), down_EDF.transpose(1, 2)))
        self.assertTrue(torch.equal(INTERLEAVED.canonical(DOWN, INTERLEAVED.kept(DOWN, down_EDF)), down_EDF))

    def test_know_cuts_by_whole_experts_only_where_they_lie_transposed(self):
        self.assertEqual(INTERLEAVED.canonical_cuts(DOWN, [("ep", "Shard(0)")]), [("ep", "Shard(0)")])
        with self.assertRaisesRegex(Unsupported, "by whole experts only"):
            INTERLEAVED.canonical_cuts(DOWN, [("tp", "Shard(2)")])
        self.assertEqual(ROWS.canonical_cuts(DOWN, [("tp", "Shard(2)")]), [("tp", "Shard(2)")])


class Watching(unittest.TestCase):
    def test_sees_what_the_class_is_given_also_where_an_instance_wraps_its_forward(self):
        class Module:
            def forward(self, x):
                return x + 1

        make_watchable(Module)
        make_watchable(Module)
        module, other, seen = Module(), Module(), []
        watch(module, lambda inputs, output, logits: seen.append((inputs, output, logits)))
        inner = module.forward
        module.forward = lambda x: 10 * inner(2 * x)
        self.assertEqual((module.forward(3), other.forward(3)), (70, 4))
        self.assertEqual(seen, [((6,), 7, None)])


def why_no_transformers():
    return driver_runs.why_no_torch() or ("" if importlib.util.find_spec("transformers") else "transformers is not installed")


class Describing(unittest.TestCase):
    def test_needs_no_framework(self):
        ended = subprocess.run([sys.executable, SUBJECT, "--moecheck-describe"], capture_output=True, text=True, check=True)
        self.assertIn('"transformers_ep_fsdp"', ended.stdout)


@unittest.skipIf(why_no_transformers(), why_no_transformers())
@driver_runs.needs_subjects
class Layer(unittest.TestCase):
    def test_passes_without_parallelism_with_its_output_judged(self):
        [record] = driver_runs.run_cases(SUBJECT, ["impl=transformers model=olmoe values=exact phases=load,forward,backward"])
        self.assertEqual(record["verdict"], "pass", record["findings"][:3])
        states = {check["name"]: check["state"] for check in record["checks"]}
        for name in ("stage_diff", "expert_census", "placement", "routing_ties", "gradient_parity"):
            self.assertEqual(states[name], "pass", name)

    def test_of_gpt_oss_and_of_deepseek_v3_passes_with_its_own_arithmetic(self):
        cases = [f"impl=transformers model={model} phases=load,forward,backward" for model in ("gpt_oss", "deepseek_v3")]
        for record in driver_runs.run_cases(SUBJECT, cases):
            self.assertEqual(record["verdict"], "pass", record["findings"][:3])
            states = {check["name"]: check["state"] for check in record["checks"]}
            for name in ("stage_diff", "layer_parity", "expert_census", "placement", "routing_ties", "gradient_parity"):
                self.assertEqual(states[name], "pass", f"{name} of {record['id']}")

    def test_is_cut_by_the_plan_over_tp_and_agrees(self):
        case = "impl=transformers_tp model=mixtral mesh=tp=2 values=exact phases=load,forward,backward"
        [record] = driver_runs.run_cases(SUBJECT, [case])
        self.assertEqual(record["verdict"], "pass", record["findings"][:3])


if __name__ == "__main__":
    unittest.main()
