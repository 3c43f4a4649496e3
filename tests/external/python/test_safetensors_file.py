import struct
import tempfile
import unittest
from pathlib import Path

import driver_runs  # noqa: F401
import numpy as np

from moecheck.dtypes import HostTensor, round_bf16, store
from moecheck.safetensors_file import FileFailure, read_file, write_file


def tensors():
    return {"a": HostTensor("fp32", np.arange(6, dtype=np.float32).reshape(2, 3)), "empty": HostTensor("int64", np.empty((0, 3), np.int64)),
            "b": store(np.array([1.0, -2.5], np.float32), "bf16")}


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "deep" / "rank0.safetensors"

    def test_read_back_what_was_written(self):
        write_file(self.path, tensors(), {"moecheck": "{}"})
        found = read_file(self.path)
        self.assertEqual(found.keys(), tensors().keys())
        for name, want in tensors().items():
            self.assertEqual(found[name].dtype, want.dtype)
            np.testing.assert_array_equal(found[name].array, want.array)
        self.assertEqual([p.name for p in self.path.parent.iterdir()], [self.path.name])

    def test_are_what_the_package_of_the_format_reads(self):
        try:
            from safetensors import safe_open
        except ImportError:
            self.skipTest("the package safetensors is not there")
        write_file(self.path, {name: t for name, t in tensors().items() if t.dtype != "bf16"}, {"moecheck": "{}"})
        with safe_open(self.path, framework="np") as file:
            self.assertEqual(file.metadata(), {"moecheck": "{}"})
            np.testing.assert_array_equal(file.get_tensor("a"), tensors()["a"].array)
            self.assertEqual(file.get_tensor("empty").shape, (0, 3))

    def test_that_are_damaged_are_refused_by_name(self):
        write_file(self.path, tensors(), {})
        sound = self.path.read_bytes()
        for wrong in (sound[:-3], sound[:4], b"", struct.pack("<Q", 2**40) + sound[8:], sound.replace(b'"F32"', b'"X32"')):
            self.path.write_bytes(wrong)
            with self.assertRaisesRegex(FileFailure, self.path.name):
                read_file(self.path)

    def test_that_cannot_be_written_say_where(self):
        self.path.parent.parent.joinpath("deep").write_text("in the way")
        with self.assertRaisesRegex(FileFailure, "rank0"):
            write_file(self.path, tensors(), {})


class Rounding(unittest.TestCase):
    def test_to_bf16_goes_to_nearest_with_ties_to_even(self):
        values = np.array([1.0, 1.00390625, 1.01171875, 1.003907, -1.00390625, 3.4e38], np.float32)
        self.assertEqual([hex(b) for b in round_bf16(values)], ["0x3f80", "0x3f80", "0x3f82", "0x3f81", "0xbf80", "0x7f80"])


if __name__ == "__main__":
    unittest.main()
