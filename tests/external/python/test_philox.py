import unittest

import driver_runs  # noqa: F401
import numpy as np

from moecheck.philox import Stream, fnv1a, philox4x32_10


class Philox(unittest.TestCase):
    def test_agrees_with_the_published_vectors(self):
        ones, pi = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
        vectors = [((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
                   ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
                   (pi, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1))]
        for counter, key, want in vectors:
            self.assertEqual(tuple(philox4x32_10(np.array([counter]), key)[0]), want)

    def test_hashes_names_as_fnv1a_is_published(self):
        self.assertEqual([fnv1a(""), fnv1a("a"), fnv1a("foobar")], [0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8])


class Streams(unittest.TestCase):
    def test_make_any_slice_alone(self):
        stream = Stream(7, "tokens")
        whole = stream.normal(0, 40, 1.0)
        for first, count in ((0, 1), (1, 1), (1, 6), (2, 5), (39, 1), (7, 33), (5, 0)):
            np.testing.assert_array_equal(stream.normal(first, count, 1.0), whole[first : first + count])

    def test_differ_by_name_by_seed_and_beyond_32_bits(self):
        draws = {stream.bits(np.array([index]))[0] for stream in (Stream(1, "a"), Stream(1, "b"), Stream(2, "a"), Stream(1 + 2**32, "a"))
                 for index in (5, 5 + 2**34)}
        self.assertEqual(len(draws), 8)

    def test_are_nearly_normal(self):
        values = Stream(1, "x").normal(0, 20000, 3.0)
        self.assertEqual(values.dtype, np.float32)
        self.assertAlmostEqual(float(values.mean()), 0.0, delta=0.1)
        self.assertAlmostEqual(float(values.std()), 3.0, delta=0.1)


if __name__ == "__main__":
    unittest.main()
