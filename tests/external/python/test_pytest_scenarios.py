"""Scenario files beside tests, under pytest in a process of its own, as a user runs it."""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import driver_runs

from moecheck.scenario_run import selection

LAYER = driver_runs.ROOT / "tests" / "external" / "python" / "layer_with_tests.py"
SCENARIO = """version: 1
description: a sound layer, one with wrong scores, and one that nobody can run
model: qwen3_moe
phases: [load, forward]
dtype: fp32
matrix:
  impl: [routed, wrong_scores]
  seed: [4, 2]
include: [{impl: routed, seed: 3, mesh: "tp=2"}]
xfail:
  - {impl: wrong_scores, seed: 2, reason: the scores are known to be wrong}
  - {impl: routed, seed: 2, reason: was once wrong}
"""
INI = f"[pytest]\nmoecheck_subject = {driver_runs.shlex.quote(sys.executable)} -m moecheck mine.py\n"


def has_pytest():
    return subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True, check=False).returncode == 0


class InAFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "layers").mkdir()
        (self.folder / "layers" / "scores.moecheck.yaml").write_text(SCENARIO)
        shutil.copy(LAYER, self.folder / "layers" / "mine.py")
        (self.folder / "pytest.ini").write_text(INI)
        # Counts how often the driver is started to run something.
        self.driver = self.folder / "driver"
        self.driver.write_text(f'#!/bin/sh\necho "$@" >> {self.folder}/started\nexec {driver_runs.BIN}/moecheck "$@"\n')
        self.driver.chmod(0o755)

    def pytest(self, *options, driver=None):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "moecheck.pytest_plugin", "--moecheck-driver",
                   str(driver or self.driver), "-rA", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)

    def node(self, *words):
        """The one whose id has these words."""
        listed = driver_runs.driver("list", self.folder / "layers" / "scores.moecheck.yaml").stdout.splitlines()
        (case,) = [case for case in listed if set(words) <= set(case.split())]
        return f"layers/scores.moecheck.yaml::{case}"

    def runs(self):
        started = self.folder / "started"
        return [line for line in started.read_text().splitlines() if line.startswith("run")] if started.exists() else []


@unittest.skipUnless(has_pytest(), "pytest is not there")
@driver_runs.needs_subjects
class ScenarioFiles(InAFolder):
    def test_are_run_by_one_driver_with_each_case_told_on_its_own(self):
        ended = self.pytest()
        self.assertEqual(ended.returncode, 1, ended.stdout + ended.stderr)
        self.assertIn("2 failed, 1 passed, 1 skipped, 1 xfailed", ended.stdout)
        self.assertEqual(len(self.runs()), 1)
        told = [line for line in ended.stdout.splitlines() if line.split(" ")[0] in ("PASSED", "FAILED", "XFAIL", "SKIPPED")]
        self.assertEqual(sum(line.startswith("PASSED layers/scores.moecheck.yaml::impl=routed ") for line in told), 1, told)
        self.assertTrue(any(line.startswith("XFAIL") and "seed=2" in line and "known to be wrong" in line for line in told), told)
        self.assertTrue(any(line.startswith("SKIPPED") and "does not support mesh dimension tp" in line for line in told), told)

    def test_show_the_findings_of_a_case_that_failed_and_no_traceback(self):
        shown = self.pytest(self.node("impl=wrong_scores", "seed=4")).stdout
        self.assertIn("1 failed in", shown)
        self.assertRegex(shown, r"stage_diff at router/scores_TK \(rank 0.*\): ")
        self.assertIn('repro: moecheck run --case "impl=wrong_scores ', shown)
        self.assertNotIn("pytest_scenarios.py", shown)
        self.assertEqual(len(self.runs()), 1)
        self.assertIn("-k (impl=wrong_scores and", self.runs()[0])

    def test_that_pass_though_they_should_fail_are_failures_with_the_reason(self):
        shown = self.pytest(self.node("impl=routed", "seed=2")).stdout
        self.assertIn("xpass: impl=routed ", shown)
        self.assertIn("was once wrong", shown)


@unittest.skipUnless(has_pytest(), "pytest is not there")
@driver_runs.needs_driver
class FilesThatCannotBeRun(InAFolder):
    def test_are_collected_without_a_run(self):
        ended = self.pytest("--collect-only", "-q")
        self.assertEqual(ended.stdout.count("scores.moecheck.yaml::impl="), 5, ended.stdout)
        self.assertEqual(self.runs(), [])

    def test_with_a_mistake_are_told_with_their_line(self):
        (self.folder / "layers" / "scores.moecheck.yaml").write_text(SCENARIO.replace("phases:", "phasse:"))
        ended = self.pytest()
        self.assertIn("scores.moecheck.yaml:4:", ended.stdout)
        self.assertIn("1 error", ended.stdout)

    def test_without_a_subject_say_how_to_name_one(self):
        (self.folder / "pytest.ini").write_text("[pytest]\n")
        self.assertIn("moecheck_subject = python mine.py", self.pytest(self.node("impl=wrong_scores", "seed=2")).stdout)
        self.assertEqual(self.runs(), [])

    def test_without_a_driver_are_skipped_with_the_reason(self):
        ended = self.pytest(driver=self.folder / "nothing")
        self.assertIn("1 skipped", ended.stdout)
        self.assertIn("is not there; build moecheck", ended.stdout)

    def test_whose_subject_does_not_start_say_what_it_said(self):
        ended = self.pytest("--moecheck-subject", "sh -c 'echo no such layer >&2; exit 3'", self.node("impl=routed", "seed=2"))
        self.assertIn("1 failed", ended.stdout)
        self.assertIn("moecheck ended with", ended.stdout)
        self.assertIn("no such layer", ended.stdout)


class Selections(unittest.TestCase):
    CASES = ("impl=a mesh=ep=2", "impl=a mesh=ep=2 seed=2", "impl=b mesh=none")

    def test_are_not_made_where_everything_is_wanted(self):
        self.assertEqual(selection(set(self.CASES), self.CASES), [])

    def test_name_every_word_of_each_wanted_case(self):
        wanted = {self.CASES[2], self.CASES[1]}
        self.assertEqual(selection(wanted, self.CASES), ["-k", "(impl=a and mesh=ep=2 and seed=2) or (impl=b and mesh=none)"])

    def test_give_way_to_everything_where_they_are_too_long_for_an_argument(self):
        many = [f"impl=a{'x' * 1000} seed={i}" for i in range(200)]
        self.assertEqual(selection(many[:150], many), [])


if __name__ == "__main__":
    unittest.main()
