"""The driver from within tests: runs cases with a file of subjects, and asserts that they pass."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DRIVER_VARIABLE = "MOECHECK_DRIVER"
_MAX_FINDINGS = 4
_GOOD = ("pass", "xfail")


def find_driver(given: str | Path | None = None) -> str:
    """The driver's program: as given, named by MOECHECK_DRIVER, or `moecheck` on PATH. Errors: FileNotFoundError."""
    named = str(given or os.environ.get(DRIVER_VARIABLE) or "moecheck")
    found = shutil.which(named)
    if found is None:
        raise FileNotFoundError(f"the driver '{named}' is not there; build moecheck and name it in {DRIVER_VARIABLE}")
    return found


def subject_command(file: str | Path) -> str:
    """What --subject takes to serve the subjects of a file with this interpreter."""
    return f"{shlex.quote(sys.executable)} -m moecheck {shlex.quote(str(file))}"


def run_cases(cases: Iterable[str], subject: str, driver: str | Path | None = None, timeout: float = 120,
              options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The records of the cases (run.json), whatever their verdicts. Errors: RuntimeError if the driver did not come to one."""
    with tempfile.TemporaryDirectory(prefix="moecheck-") as folder:
        command = [find_driver(driver), "run", "--subject", subject, "--out", folder, "--timeout", str(timeout), *options]
        for case in cases:
            command += ["--case", case]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        record = Path(folder) / "run.json"
        if not record.exists():
            raise RuntimeError(f"moecheck ended with {ended.returncode} and without a record:\n{ended.stdout}{ended.stderr}")
        found = json.loads(record.read_text())["cases"]
    if not found:
        raise RuntimeError(f"moecheck selected no case:\n{ended.stdout}{ended.stderr}")
    return found


def states(record: dict[str, Any]) -> dict[str, str]:
    """State of each check of a case's record."""
    return {check["name"]: check["state"] for check in record["checks"]}


def failure_text(record: dict[str, Any]) -> str:
    lines = [f"{record['verdict']}: {record['id']}", record.get("reason") or ""]
    for finding in record["findings"][:_MAX_FINDINGS]:
        place = ", ".join(f"{key} {finding[key]}" for key in ("rank", "expert", "token", "step") if finding.get(key) is not None)
        lines.append(f"  {finding['check']} at {finding['stage']} ({place}): {finding['message']}")
        lines.append(f"    {finding['hypothesis']}" if finding.get("hypothesis") else "")
    if len(record["findings"]) > _MAX_FINDINGS:
        lines.append(f"  and {len(record['findings']) - _MAX_FINDINGS} more")
    return "\n".join(line for line in (*lines, f"  repro: {record['repro']}") if line)


def assert_layer(*cases: str, subject: str | Path | None = None, observed: Iterable[str] = (), driver: str | Path | None = None,
                 timeout: float = 120) -> list[dict[str, Any]]:
    """Runs cases ("impl=mine model=qwen3_moe mesh=ep=2 ...") with the subjects that a file declares, the caller's if none is named;
    all of them on the same warm ranks. observed: checks that must have looked and passed, so that nothing passes by not being shown.
    Returns the records. Errors: AssertionError for any verdict but pass and xfail."""
    file = subject or inspect.stack()[1].filename
    records = run_cases(cases, subject_command(file), driver, timeout)
    wrong = [failure_text(record) for record in records if record["verdict"] not in _GOOD]
    for record in records:
        unseen = [f"{name} ({states(record).get(name, 'not run')})" for name in observed if states(record).get(name) != "pass"]
        if record["verdict"] in _GOOD and unseen:
            wrong.append(f"not observed: {record['id']}: {', '.join(unseen)}")
    assert not wrong, "\n".join(wrong)
    return records
