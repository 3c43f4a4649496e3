"""Inputs are the driver's, byte for byte: compared with what in-tree ranks loaded from its checkpoint and were given as tokens."""

import hashlib
import json
import math
import subprocess
import tempfile
import unittest
from pathlib import Path

import driver_runs
import numpy as np

from moecheck.case import Activation, Case
from moecheck.inputs import Generator
from moecheck.mesh import held_indices
from moecheck.safetensors_file import read_file
from moecheck.weights import GeneratedWeights

NAMES = {part: f"{part}.{{e}}" for part in ("router", "gate", "up", "down", "attention")}
SIZES = {"qwen3_moe": {"experts": 12, "top_k": 3, "d_model": 48, "d_ff": 96, "renormalise": True},
         "olmoe": {"experts": 24, "top_k": 4, "d_model": 48, "d_ff": 64, "renormalise": False},
         "deepseek_v3": {"experts": 32, "top_k": 8, "d_model": 80, "d_ff": 64, "renormalise": True, "softmax": "sigmoid",
                         "routed_scale": 2}}
SILU = {"alpha": 1, "limit": None, "up_shift": 0}
DEFAULTS = {"impl": "x", "experts_backend": "eager", "device": "cpu", "mesh": "none", "dtype": "fp32", "seed": "1", "values": "normal",
            "routing": "natural", "tokens": "7", "tokens_over": "dp,fsdp", "expert_tp": "tp", "apply_scores": "after_experts",
            "recompute": "false", "steps": "1", "microbatches": "1", "optimizer": "sgd", "lr": "0.015625", "lr_decay": "1",
            "momentum": "0.5", "weight_decay": "0.0625", "clip_norm": "0", "phases": "load,forward"}
ROUTINGS = ("natural", "one_expert", "idle_expert", "idle_rank", "k_ranks", "one_rank", "ties", "zipf")


def case_of(knobs, family="qwen3_moe", **model):
    model = {"family": family, "softmax": "before_topk", "routed_scale": 1, "activation": SILU, "checkpoint": NAMES, **SIZES[family],
             **model}
    return Case.from_open({**DEFAULTS, **knobs}, model)


def digest(tensor):
    return hashlib.sha256(tensor.array.tobytes()).hexdigest()[:16]


class Opened(unittest.TestCase):
    def test_model_has_its_score_function_its_scale_and_its_activation(self):
        model = case_of({}, softmax="sigmoid", routed_scale=2.5, activation={"alpha": 1.702, "limit": 7, "up_shift": 1}).model
        self.assertEqual((model.softmax, model.routed_scale, model.activation), ("sigmoid", 2.5, Activation(1.702, 7.0, 1.0)))
        self.assertFalse(model.activation.is_silu)
        self.assertTrue(case_of({}).model.activation.is_silu)
        self.assertEqual(case_of({}).model.activation.limit, math.inf)


class Generated(unittest.TestCase):
    def test_bytes_stay_what_they_are(self):
        want = json.loads((Path(__file__).parent / "input_digests.json").read_text())
        got = {}
        for values in ("normal", "exact", "provenance"):
            for dtype in ("fp32", "bf16"):
                generator = Generator(case_of({"values": values, "dtype": dtype, "seed": "5", "tokens": "3"}, "olmoe"))
                made = (generator.router_ED(), generator.gate_up_EGD([0, 23]), generator.down_EDF([7]), generator.attention_DD(),
                        generator.tokens_TD(0, 2), generator.output_grad_TD(0, 1))
                got[f"{values} {dtype}"] = [digest(tensor) for tensor in made]
        self.assertEqual(got, want)

    def test_shards_are_what_cuts_leave_of_the_whole(self):
        if driver_runs.why_no_torch():
            self.skipTest(driver_runs.why_no_torch())
        case = case_of({"mesh": "ep=2,tp=2"})
        cuts = [("ep", "Shard(0)"), ("tp", "StridedShard(1,2)")]
        weights = GeneratedWeights(case, 3)
        whole = weights.gate_up_EGD().numpy()
        for dim in (0, 1):
            whole = np.take(whole, held_indices(cuts, whole.shape[dim], dim, case.mesh, 3), axis=dim)
        np.testing.assert_array_equal(weights.shard("param/experts/gate_up_EGD", cuts).numpy(), whole)

    def test_of_no_experts_and_no_tokens_are_empty(self):
        generator = Generator(case_of({"tokens": "0"}))
        self.assertEqual(generator.gate_up_EGD([]).array.shape, (0, 192, 48))
        self.assertEqual(generator.tokens_TD(0).array.shape, (0, 48))


@driver_runs.needs_driver
class AgainstTheDriver(unittest.TestCase):
    def test_weights_tokens_and_gradients_are_the_bytes_that_in_tree_ranks_had(self):
        case = "impl=ep_allreduce model=qwen3_moe mesh=dp=2,ep=2 phases=load,forward,backward,step steps=2 tokens=5,3 seed=9"
        cases = [f"{case} dtype={d} routing={r}" for d in ("fp32", "bf16") for r in ROUTINGS]
        exact = "impl=ep_allreduce model=olmoe mesh=ep=4 phases=load,forward,backward tokens=4 seed=4294967297"
        cases += [f"{exact} dtype={d} values={v} routing={r}" for d in ("fp32", "bf16") for v in ("exact", "provenance")
                  for r in ("natural", "k_ranks")]
        cases.append("impl=ep_allreduce model=deepseek_v3 mesh=ep=4 values=exact tokens=4 phases=load,forward,backward")
        compared = 0
        with tempfile.TemporaryDirectory() as folder:
            self._run(cases, folder)
            record = json.loads((Path(folder) / "run.json").read_text())
            self.assertEqual(len(record["cases"]), len(cases))
            for index, one in enumerate(record["cases"]):
                self.assertEqual(one["verdict"], "pass", one["id"])
                compared += self._compare(one, Path(folder) / "traces" / str(index))
        self.assertGreater(compared, 7_000_000)

    @staticmethod
    def _run(cases, folder):
        subprocess.run([str(driver_runs.BIN / "moecheck"), "run", "--keep-traces", "all", "--out", folder,
                        *(part for case in cases for part in ("--case", case))], capture_output=True, check=True)

    def _compare(self, record, trace):
        case = case_of(record["config"], record["config"]["model"])
        generator, compared = Generator(case), 0
        for rank in range(case.mesh.world_size):
            local = case.local_experts(rank)
            mine = range(local.first, local.first + local.count)
            want = {"load": {"param/router/w_ED": generator.router_ED(), "param/attention/w_DD": generator.attention_DD(),
                             "param/experts/gate_up_EGD": generator.gate_up_EGD(mine), "param/experts/down_EDF": generator.down_EDF(mine)}}
            for batch in range(case.training.steps):
                suffix = f".{batch}" if batch else ""
                want[f"forward{suffix}"] = {"input/x_TD": generator.tokens_TD(rank, batch)}
                want[f"backward{suffix}"] = {"grad/y_TD": generator.output_grad_TD(rank, batch)}
            for phase, taps in want.items():
                shown = read_file(trace / phase / f"rank{rank}.safetensors")
                for name, tensor in taps.items():
                    self.assertEqual(shown[name].dtype, tensor.dtype)
                    np.testing.assert_array_equal(shown[name].array.view(np.uint8), tensor.array.view(np.uint8), f"{record['id']}: {name}")
                    compared += tensor.array.size
        return compared

    def test_a_checkpoint_holds_what_is_generated(self):
        if driver_runs.why_no_torch():
            self.skipTest(driver_runs.why_no_torch())
        with tempfile.TemporaryDirectory() as folder:
            subject = Path(folder) / "reader.py"
            subject.write_text(READER)
            forms = ("weights=per_expert", "weights=packed", "weights=packed weight_files=3", "weights=per_expert weight_files=5")
            records = driver_runs.run_cases(subject, [f"impl=reader model=qwen3_moe mesh=none dtype=bf16 {form}" for form in forms])
        for record in records:
            self.assertEqual(record["verdict"], "pass", record)


READER = '''
import torch, moecheck

@moecheck.subject(name="reader", dtypes=["bf16"])
def make(case, ctx):
    for read in ("router_ED", "attention_DD", "gate_up_EGD", "down_EDF"):
        assert torch.equal(getattr(ctx.checkpoint, read)(), getattr(ctx.weights, read)()), read
    assert torch.equal(ctx.checkpoint.down_EDF([11, 2]), ctx.weights.down_EDF([11, 2]))
    ctx.parameters(range(case.model.num_experts))
    return lambda x_TD: x_TD * 0

moecheck.main()
'''


if __name__ == "__main__":
    unittest.main()
