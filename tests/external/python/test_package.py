import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import types
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import driver_runs
from test_inputs import case_of

from moecheck import registry, testing
from moecheck.case import Unsupported
from moecheck.protocol import main, reply_to, subject_version
from moecheck.safetensors_file import FileFailure
from moecheck.talk import LineSocket
from moecheck.taps import KNOWN


class Imports(unittest.TestCase):
    def test_need_no_torch(self):
        code = "import sys; sys.modules['torch'] = None; import moecheck; moecheck.Generator; print(moecheck.__version__)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        self.assertEqual((ended.returncode, ended.stdout.strip()), (0, "0.1.0"), ended.stderr)


class Versions(unittest.TestCase):
    def setUp(self):
        self.enterContext(mock.patch.dict(sys.modules))
        for name in [n for n in sys.modules if n in ("torch", "transformers", "torchtitan", "vllm") or n.startswith("moecheck.adapters")]:
            del sys.modules[name]

    def test_are_of_the_package_alone_where_no_framework_is_used(self):
        self.assertEqual(subject_version(), "0.1.0")

    def test_name_the_frameworks_that_are_used(self):
        for name, version in (("torch", "2.99.0"), ("transformers", "5.99.0")):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__version__ = version
        self.assertEqual(subject_version(), "0.1.0 with torch 2.99.0, transformers 5.99.0")

    def test_name_what_an_adapter_will_import(self):
        sys.modules["moecheck.adapters.torchtitan"] = types.ModuleType("moecheck.adapters.torchtitan")
        with mock.patch("importlib.metadata.version", {"torchtitan": "0.2.9", "torch": "2.98.0"}.__getitem__):
            self.assertEqual(subject_version(), "0.1.0 with torch 2.98.0, torchtitan 0.2.9")


class Descriptions(unittest.TestCase):
    def setUp(self):
        self.enterContext(mock.patch.dict(registry._subjects, clear=True))

    def test_name_what_the_decorator_was_told(self):
        @registry.subject(name="mine", mesh_dims=["dp", "ep"], backends=["eager", "fast"], dtypes=["bf16"], phases=["load", "forward"])
        def make(case, ctx):
            """A layer of mine.

            More of it."""

        text = io.StringIO()
        with redirect_stdout(text), self.assertRaises(SystemExit) as ended:
            main(["--moecheck-describe"])
        self.assertEqual(ended.exception.code, 0)
        told = json.loads(text.getvalue())
        self.assertEqual(told["implementations"], [{"name": "mine", "summary": "A layer of mine.", "mesh_dims": ["dp", "ep"],
                                                    "experts_backends": ["eager", "fast"]}])
        self.assertEqual((told["protocol"], told["dtypes"], told["phases"], told["devices"]), (1, ["bf16"], ["load", "forward"], ["cpu"]))

    def test_are_of_one_subject_a_name(self):
        registry.subject(name="mine")(lambda case, ctx: None)
        with self.assertRaisesRegex(ValueError, "mine"):
            registry.subject(name="mine")(lambda case, ctx: None)

    def test_that_do_not_name_an_activation_or_a_scale_refuse_a_family_that_has_one(self):
        registry.subject(name="x")(lambda case, ctx: None)
        registry.subject(name="heeding", heeds=["activation", "routed_scale", "softmax"])(lambda case, ctx: None)
        clamped = {"activation": {"alpha": 1.702, "limit": 1.5, "up_shift": 1}}
        for words, knobs, model in (("activation of olmoe", {}, clamped), ("routed_scale=2.5", {}, {"routed_scale": 2.5}),
                                    ("softmax=sigmoid", {"softmax": "sigmoid"}, {"softmax": "sigmoid"})):
            with self.assertRaisesRegex(Unsupported, words):
                registry.find_subject(case_of(knobs, "olmoe", **model))
            self.assertEqual(registry.find_subject(case_of({**knobs, "impl": "heeding"}, "olmoe", **model)).name, "heeding")
        self.assertEqual(registry.find_subject(case_of({}, "olmoe")).name, "x")

    @driver_runs.needs_driver
    def test_know_the_taps_that_in_tree_ranks_know(self):
        rank = driver_runs.BIN / "moecheck-rank"
        if not rank.exists():
            self.skipTest("no moecheck-rank")
        told = json.loads(subprocess.run([str(rank), "--moecheck-describe"], capture_output=True, text=True, check=True).stdout)
        self.assertEqual(set(told["taps"]), KNOWN)

    def test_without_a_driver_end_with_a_usage_error_that_says_how_to_go_on(self):
        environment = {k: v for k, v in os.environ.items() if k != "MOECHECK_SOCKET"}
        ended = subprocess.run([sys.executable, "-c", "import moecheck; moecheck.main()"], capture_output=True, text=True, env=environment,
                               check=False)
        self.assertEqual(ended.returncode, 4)
        self.assertIn("moecheck run --subject", ended.stderr)


class Replies(unittest.TestCase):
    def code_of(self, error):
        def answer(_):
            raise error

        reply = reply_to({"op": "forward"}, answer)
        self.assertFalse(reply["ok"])
        return reply["code"], reply["message"]

    def test_name_the_kind_of_failure(self):
        self.assertEqual(self.code_of(Unsupported("no tp")), ("unsupported", "no tp"))
        self.assertEqual(self.code_of(FileFailure("disk full")), ("io", "disk full"))
        self.assertEqual(self.code_of(MemoryError())[0], "oom")
        self.assertEqual(self.code_of(KeyError("w1")), ("error", "KeyError: 'w1'"))
        self.assertEqual(self.code_of(OSError("of the subject's own making"))[0], "error")
        self.assertEqual(self.code_of(SystemExit(3))[0], "error")

    def test_carry_the_traceback(self):
        reply = reply_to({"op": "forward"}, lambda request: request["missing"])
        self.assertIn('request["missing"]', reply["traceback"])

    def test_go_over_the_socket_a_line_each(self):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "s")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            rank = LineSocket(path)
            driver, _ = listener.accept()
            rank.write({"ok": True, "message": "two\nlines"})
            self.assertEqual(driver.recv(1000), b'{"ok": true, "message": "two\\nlines"}\n')
            driver.sendall(b'{"op": "lo')
            driver.sendall(b'ad"}\n{"op": "close"}\n')
            self.assertEqual([rank.read(), rank.read()], [{"op": "load"}, {"op": "close"}])
            driver.close()
            self.assertIsNone(rank.read())
            rank.write({"nobody": "listens"})
            rank.write({"nobody": "listens"})
            rank.close()
            listener.close()


@driver_runs.needs_subjects
class TestsOfLayers(unittest.TestCase):
    """A test file is its own subject."""

    FILE = driver_runs.ROOT / "tests" / "external" / "python" / "layer_with_tests.py"

    def test_pass_with_a_sound_layer_and_say_what_is_wrong_with_another(self):
        driver = driver_runs.BIN / "moecheck"
        case = "model=qwen3_moe mesh=none dtype=fp32"
        testing.assert_layer(f"impl=routed {case}", subject=self.FILE, driver=driver, observed=["routing_ties", "expert_census"])
        with self.assertRaisesRegex(AssertionError, "not observed.*token_conservation"):
            testing.assert_layer(f"impl=routed {case}", subject=self.FILE, driver=driver, observed=["token_conservation"])
        with self.assertRaisesRegex(AssertionError, "stage_diff at router/scores_TK.*\n(.*\n)*  repro: moecheck run"):
            testing.assert_layer(f"impl=wrong_scores {case}", subject=self.FILE, driver=driver)

    def test_run_under_pytest_if_it_is_there(self):
        if subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True, check=False).returncode != 0:
            self.skipTest("pytest is not there")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "moecheck.pytest_plugin", "--moecheck-driver",
                   str(driver_runs.BIN / "moecheck"), str(self.FILE)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertIn("2 passed", ended.stdout)


if __name__ == "__main__":
    unittest.main()
