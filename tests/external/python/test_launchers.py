"""Ranks that somebody else starts: real mpirun and torchrun on loopback, srun where Slurm runs, and two hosts where the machine lets us."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import driver_runs
import variants

from moecheck.rank_place import RankPlace, rank_place

CASE = "impl=naive_ep model=qwen3_moe mesh=ep=2 dtype=fp32 phases=load,forward,backward,step"
NATIVE_CASE = "impl=ep_alltoall model=qwen3_moe mesh=ep=2 dtype=fp32 phases=load,forward,backward,step"
MPIRUN = "mpirun --allow-run-as-root --oversubscribe -n {ranks}"
SRUN = "srun --overcommit -n {ranks}"
TORCHRUN = f"{sys.executable} -m torch.distributed.run --nproc-per-node {{ranks}} --no-python"
TWO_HOSTS = driver_runs.ROOT / "tests" / "external" / "two_hosts"


def passes(case, launcher, subject=(), options=()):
    with tempfile.TemporaryDirectory() as folder:
        ended = driver_runs.driver("run", "--case", case, "--launch", launcher, "--out", folder, *subject, *options)
    return ended.returncode, ended.stdout + ended.stderr


def python_subject():
    return ("--subject", driver_runs.command(driver_runs.EXAMPLES / "naive_ep.py"))


class Environments(unittest.TestCase):
    def test_of_each_launcher_name_the_rank(self):
        self.assertEqual(rank_place({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}), RankPlace(5, 1, 8))
        self.assertEqual(rank_place({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4",
                                     "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}), RankPlace(3, 0, 4))
        self.assertEqual(rank_place({"PMI_RANK": "2", "MPI_LOCALRANKID": "1", "PMI_SIZE": "4"}), RankPlace(2, 1, 4))
        self.assertEqual(rank_place({"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "8"}), RankPlace(6, 2, 8))

    def test_without_a_launcher_are_refused(self):
        with self.assertRaisesRegex(ValueError, "RANK: is not set"):
            rank_place({})
        with self.assertRaisesRegex(ValueError, "RANK: is 2, and WORLD_SIZE is 2"):
            rank_place({"RANK": "2", "WORLD_SIZE": "2"})


@driver_runs.needs_driver
@unittest.skipUnless(shutil.which("mpirun"), "no mpirun")
class Mpirun(unittest.TestCase):
    def test_starts_native_ranks(self):
        code, text = passes(NATIVE_CASE, MPIRUN)
        self.assertEqual(code, 0, text)

    def test_starts_native_ranks_that_talk_over_tcp(self):
        code, text = passes(NATIVE_CASE, MPIRUN, options=("--listen", "127.0.0.1"))
        self.assertEqual(code, 0, text)

    def test_that_starts_too_few_is_told(self):
        code, text = passes(NATIVE_CASE, MPIRUN.replace("{ranks}", "1"))
        self.assertEqual(code, 6, text)
        self.assertIn("started a rank 0 of 1, and the case has 2 ranks", text)


@functools.cache
def why_no_slurm():
    if shutil.which("srun") is None:
        return "no srun"
    try:
        nodes = subprocess.run(["sinfo", "--noheader", "--responding"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"srun, but no Slurm: {error}"
    return "" if nodes.returncode == 0 and nodes.stdout.strip() else f"srun, but no Slurm: {nodes.stderr.strip() or 'no node responds'}"


@driver_runs.needs_driver
@unittest.skipIf(why_no_slurm(), why_no_slurm())
class Srun(unittest.TestCase):
    def test_starts_native_ranks(self):
        code, text = passes(NATIVE_CASE, SRUN)
        self.assertEqual(code, 0, text)

    def test_starts_native_ranks_that_talk_over_tcp(self):
        code, text = passes(NATIVE_CASE, SRUN, options=("--listen", "127.0.0.1"))
        self.assertEqual(code, 0, text)

    def test_starts_ranks_for_several_cases(self):
        code, text = passes(NATIVE_CASE, SRUN, options=("--case", NATIVE_CASE.replace("ep_alltoall", "ep_allreduce"),
                                                        "--case", NATIVE_CASE.replace("ep=2", "ep=4")))
        self.assertEqual(code, 0, text)
        self.assertIn("3 pass", text)

    def test_that_starts_too_few_is_told_and_gives_its_job_back(self):
        name = f"moecheck-{os.getpid()}"
        code, text = passes(NATIVE_CASE, f"srun --job-name {name} -n 1")
        self.assertEqual(code, 6, text)
        self.assertIn("started a rank 0 of 1, and the case has 2 ranks", text)
        left = ["squeue", "--noheader", "--states", "pending,running", "--name", name]
        self.assertEqual(subprocess.run(left, capture_output=True, text=True, check=True).stdout, "")

    @driver_runs.needs_subjects
    def test_starts_ranks_of_a_python_subject(self):
        code, text = passes(CASE, SRUN, python_subject())
        self.assertEqual(code, 0, text)

    @driver_runs.needs_subjects
    def test_says_which_rank_was_killed(self):
        at_rank_1 = 'if self.ctx.rank == 1:\n            __import__("signal").raise_signal(9)\n        '
        with tempfile.TemporaryDirectory() as folder:
            program = variants.write_program(Path(folder), {"killed": ("logits_TE = tap(", at_rank_1 + "logits_TE = tap(")})
            code, text = passes(CASE.replace("naive_ep", "killed"), SRUN, ("--subject", driver_runs.command(program)))
        self.assertEqual(code, 1, text)
        self.assertIn("rank 1 closed its socket in forward", text)
        self.assertIn("task 1: Killed", text)


@driver_runs.needs_subjects
class PythonSubjects(unittest.TestCase):
    @unittest.skipUnless(shutil.which("mpirun"), "no mpirun")
    def test_run_under_mpirun(self):
        code, text = passes(CASE, MPIRUN, python_subject())
        self.assertEqual(code, 0, text)

    def test_run_under_torchrun(self):
        code, text = passes(CASE, TORCHRUN, python_subject())
        self.assertEqual(code, 0, text)

    def test_that_raise_under_torchrun_are_told_as_ever(self):
        with tempfile.TemporaryDirectory() as folder:
            program = variants.write_program(Path(folder), {"raises": variants.MISBEHAVING["raises"]})
            code, text = passes(CASE.replace("naive_ep", "raises"), TORCHRUN, ("--subject", driver_runs.command(program)))
        self.assertEqual(code, 1, text)
        self.assertIn("IndexError: no such expert", text)
        self.assertIn("first diverging stage: forward, rank 1", text)


ONE_SHOT = """#!/bin/sh
if [ "$1" = --moecheck-describe ]; then
  exec {python} -c 'import json, subprocess, sys
description = json.loads(subprocess.run([*sys.argv[1:], "--moecheck-describe"], capture_output=True, check=True).stdout)
print(json.dumps({{**description, "one_shot": True, "fork_server": False}}))' {program}
fi
[ -n "$MOECHECK_CASE" ] && [ -z "$MOECHECK_SOCKET" ] && exec {program}
"""


@driver_runs.needs_driver
class OneShot(unittest.TestCase):
    """Ranks that are given a case whole, by a few lines of shell around a program."""

    def run_shell(self, program, case):
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "subject"
            script.write_text(ONE_SHOT.format(python=sys.executable, program=program))
            script.chmod(0o755)
            ended = driver_runs.driver("run", "--subject", script, "--case", case, "--out", Path(folder) / "out")
        return ended.returncode, ended.stdout + ended.stderr

    def test_of_native_ranks_pass(self):
        code, text = self.run_shell(driver_runs.BIN / "moecheck-rank", f"{NATIVE_CASE} steps=2")
        self.assertEqual(code, 0, text)

    @driver_runs.needs_subjects
    def test_of_a_python_subject_pass(self):
        code, text = self.run_shell(driver_runs.command(driver_runs.EXAMPLES / "naive_ep.py"), CASE)
        self.assertEqual(code, 0, text)


def why_no_hosts():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and ip"
    tried = subprocess.run([str(TWO_HOSTS), "check"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


@driver_runs.needs_driver
@unittest.skipIf(why_no_hosts(), why_no_hosts())
class TwoHosts(unittest.TestCase):
    """Rank 0 on the driver's host, rank 1 on another, with a network between them and nothing else in common but the file system."""

    def run_there(self, case, *options):
        with tempfile.TemporaryDirectory() as folder:
            command = [str(TWO_HOSTS), "run", str(driver_runs.BIN / "moecheck"), case, "--out", folder, *options]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    def test_share_a_case(self):
        code, text = self.run_there(NATIVE_CASE)
        self.assertEqual(code, 0, text)

    @driver_runs.needs_subjects
    def test_share_a_case_of_a_python_subject(self):
        code, text = self.run_there(CASE, *python_subject())
        self.assertEqual(code, 0, text)


if __name__ == "__main__":
    unittest.main()
