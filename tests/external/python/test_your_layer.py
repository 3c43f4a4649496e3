"""docs/your_layer.md, command by command."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import driver_runs

PAGE = driver_runs.ROOT / "docs" / "your_layer.md"
_EXIT = re.compile(r"\s+# exit code (\d+)$")


def commands():
    """(command, exit code), in the order of the page."""
    lines = [line.removeprefix("    ") for line in PAGE.read_text().splitlines() if line.startswith("    ")]
    return [(_EXIT.sub("", line), int(found.group(1)) if (found := _EXIT.search(line)) else 0) for line in lines]


def write_program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


class Page(unittest.TestCase):
    def test_has_commands_of_each_part(self):
        text = "\n".join(command for command, _ in commands())
        for part in ("pip install", "plugin new python", "plugin new cpp", "plugin check", "pytest", "--launch", "cmake --build"):
            self.assertIn(part, text)


@driver_runs.needs_subjects
@unittest.skipUnless((driver_runs.BIN / "moecheck-rank").exists(), "no moecheck-rank")
class Commands(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="moecheck-")))
        programs, packages, work = (self.folder / name for name in ("bin", "packages", "work"))
        for one in (programs, packages, work):
            one.mkdir()
        python = shlex.quote(sys.executable)
        write_program(programs, "python", f'exec {python} "$@"')
        # Into a folder of the test's, from a copy: pip builds in the source tree.
        write_program(programs, "pip", f'cp -r "$2" {self.folder}/source && exec {python} -m pip --quiet --disable-pip-version-check '
                                       f"install --no-deps --no-build-isolation --target {packages} {self.folder}/source")
        self.environment = {**os.environ, "PATH": f"{programs}:{driver_runs.BIN}:{os.environ['PATH']}", "PYTHONPATH": str(packages),
                            "MOECHECK_SOURCE": str(driver_runs.ROOT), "MOECHECK_TMPDIR": ""}
        self.work = work

    def test_do_what_the_page_says(self):
        where = self.work
        for command, code in commands():
            ended = subprocess.run(["bash", "-c", f"{command}\ncode=$?; pwd > {self.folder}/where; exit $code"], cwd=where, env=self.environment,
                                   capture_output=True, text=True, check=False)
            where = (self.folder / "where").read_text().strip()
            self.assertEqual(ended.returncode, code, f"{command}\n{ended.stdout}{ended.stderr}")
            if code == 1:
                self.assertRegex(ended.stdout + ended.stderr, "stage_diff +combine/partial_TD")


if __name__ == "__main__":
    unittest.main()
