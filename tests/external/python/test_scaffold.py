"""What `moecheck plugin new python` writes, run as its README says."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import driver_runs


def has_pytest():
    return subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True, check=False).returncode == 0


class InAFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "my-layer"
        made = driver_runs.driver("plugin", "new", "python", self.folder)
        self.assertEqual(made.returncode, 0, made.stderr)


@driver_runs.needs_driver
class Files(InAFolder):
    def test_are_named_after_the_folder(self):
        self.assertEqual({file.name for file in self.folder.iterdir()},
                         {"my_layer.py", "test_my_layer.py", "my_layer.moecheck.yaml", "pytest.ini", "README.md"})
        text = (self.folder / "my_layer.py").read_text()
        self.assertIn("class MyLayer(torch.nn.Module):", text)
        self.assertNotIn("naive", text.lower())

    def test_are_the_example_but_for_the_name(self):
        text = (self.folder / "my_layer.py").read_text().replace("my_layer", "naive_ep").replace("MyLayer", "NaiveEp")
        self.assertEqual(text, (driver_runs.EXAMPLES / "naive_ep.py").read_text())


@driver_runs.needs_subjects
class Layer(InAFolder):
    def test_passes_the_cases_of_the_kit(self):
        ended = driver_runs.driver("plugin", "check", driver_runs.command(self.folder / "my_layer.py"), "--only", "describe,cases")
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)

    @unittest.skipUnless(has_pytest(), "no pytest")
    def test_passes_its_own_tests(self):
        (self.folder / "pytest.ini").write_text(f"[pytest]\nmoecheck_subject = {driver_runs.shlex.quote(sys.executable)} my_layer.py\n")
        ended = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "moecheck.pytest_plugin", "-q"], cwd=self.folder,
                               capture_output=True, text=True, check=False, env={**os.environ, "MOECHECK_DRIVER": str(driver_runs.BIN / "moecheck")})
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertIn("8 passed", ended.stdout)


if __name__ == "__main__":
    unittest.main()
