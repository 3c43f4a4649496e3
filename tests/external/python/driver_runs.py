"""What the tests share: the built driver, the package, and whether torch is there."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "parallel_impls" / "external" / "python"
EXAMPLES = PACKAGE / "examples"
BIN = Path(os.environ.get("MOECHECK_BIN_DIR", ROOT / "build" / "bin"))

sys.path.insert(0, str(PACKAGE))
os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
# Subjects start in folders that are not theirs, and must leave nothing there.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@functools.cache
def why_no_torch() -> str:
    """Empty if torch can be imported. In another process: a failed import leaves half a torch behind."""
    ended = subprocess.run([sys.executable, "-c", "import torch.distributed"], capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else f"torch cannot be imported: {ended.stderr.strip().splitlines()[-1]}"


def needs_driver(test):
    return unittest.skipUnless((BIN / "moecheck").exists(), f"no driver in {BIN}")(test)


def needs_subjects(test):
    """The driver and torch."""
    return unittest.skipIf(why_no_torch(), why_no_torch())(needs_driver(test))


def command(file: Path) -> str:
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(file))}"


def needs_xxhash(test):
    try:
        import xxhash  # noqa: F401
    except ImportError:
        return unittest.skip("the package xxhash is not there")(test)
    return test


def driver(*arguments):
    return subprocess.run([str(BIN / "moecheck"), *map(str, arguments)], capture_output=True, text=True, check=False)


def keep_saves(folder: Path, cases, *options) -> list[Path]:
    """The saves of cases that are run into `folder`, in their order."""
    chosen = [part for case in cases for part in ("--case", case)]
    ended = driver("run", *chosen, "--keep-traces", "all", "--out", folder, *options)
    if ended.returncode != 0:
        raise AssertionError(ended.stdout + ended.stderr)
    return sorted((folder / "traces").rglob("saved/step-*"))


def run_cases(file: Path, cases, options=()):
    from moecheck import testing

    return testing.run_cases(cases, command(file), driver=BIN / "moecheck", options=options)
