"""One driver process for the cases of a scenario file: ranks stay warm from case to case, and records come as the cases end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 3.0
# Of one argument of a program, with room to spare.
_MAX_SELECTION = 100_000


def list_cases(driver: str, file: Path) -> list[str]:
    """Ids, in the order in which they run. Errors: ValueError with the driver's words, which name file, line and column."""
    ended = subprocess.run([driver, "list", file.name, "--json"], capture_output=True, text=True, check=False, cwd=file.parent)
    if ended.returncode != 0:
        raise ValueError((ended.stderr or ended.stdout).strip())
    return [case["id"] for case in json.loads(ended.stdout)]


def selection(wanted: Collection[str], everything: Sequence[str]) -> list[str]:
    """Options that leave a file's wanted cases. -k takes words that an id contains, so that a case or two may run beside them."""
    if set(wanted) >= set(everything):
        return []
    text = " or ".join(f"({' and '.join(case.split())})" for case in everything if case in wanted)
    return ["-k", text] if len(text) < _MAX_SELECTION else []


class ScenarioRun:
    """Runs in the file's folder, so that --subject may name what lies there."""

    def __init__(self, driver: str, file: Path, subject: str, options: Sequence[str] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="moecheck-")
        self._output = Path(self._folder.name) / "output.txt"
        self._events = Path(self._folder.name) / "run" / "events.jsonl"
        self._records: dict[str, dict[str, Any]] = {}
        self._read = 0
        command = [driver, "run", file.name, "--subject", subject, "--out", str(self._events.parent), *options]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=file.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def record_of(self, case: str) -> dict[str, Any]:
        """Waits for it. Errors: RuntimeError if the driver ended without it."""
        while case not in self._records:
            has_ended = self._process.poll() is not None
            self._take_events()
            if case in self._records:
                break
            if has_ended:
                said = self._output.read_text(errors="replace").strip()
                raise RuntimeError(f"moecheck ended with {self._process.returncode} and without this case:\n{said}")
            time.sleep(_POLL_SECONDS)
        return self._records[case]

    def close(self) -> None:
        """The first signal lets it finish a case and write its record, the second ends its ranks at once."""
        for _ in range(2):
            if self._process.poll() is None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _take_events(self) -> None:
        """Those that are whole; the last line may still be on its way."""
        if not self._events.exists():
            return
        with self._events.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            if event.get("event") == "case":
                self._records[event["case"]["id"]] = event["case"]
