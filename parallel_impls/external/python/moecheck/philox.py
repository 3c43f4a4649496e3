"""Named streams of random numbers over Philox4x32-10, the same as the driver's (harness/inputs/philox_stream.h).

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A stream is a key and the upper half of the counter; any slice
of it is computed alone.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

_MUL0, _MUL1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL0, _WEYL1 = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MASK32 = 0xFFFFFFFF

# Of the sum of four 16-bit uniforms: its mean, and its standard deviation sqrt((2^32 - 1) / 3) to the last bit as the driver has it.
_MEAN = 131070
_SIGMA = 37837.22723720648


def philox4x32_10(counter_B4: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Blocks of four 32-bit words for B counters, uint32 (B, 4)."""
    c = [np.asarray(counter_B4, dtype=np.uint64)[:, i] for i in range(4)]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c[0] * _MUL0, c[2] * _MUL1
        c = [(p1 >> _HALF) ^ c[1] ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c[3] ^ np.uint64(k1), p0 & _LOW]
        k0, k1 = (k0 + _WEYL0) & _MASK32, (k1 + _WEYL1) & _MASK32
    return np.stack(c, axis=1).astype(np.uint32)


def fnv1a(name: str) -> int:
    """FNV-1a, 64 bits: names become counters."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


class Stream:
    def __init__(self, seed: int, name: str) -> None:
        self.seed, self.name = seed, name

    @cached_property
    def _hash(self) -> int:
        return fnv1a(self.name)

    def blocks(self, index_B: np.ndarray) -> np.ndarray:
        """The words of blocks, uint32 (B, 4)."""
        index_B = np.asarray(index_B, dtype=np.uint64)
        counter = np.empty((index_B.size, 4), dtype=np.uint64)
        counter[:, 0], counter[:, 1] = index_B & _LOW, index_B >> _HALF
        counter[:, 2], counter[:, 3] = self._hash & _MASK32, self._hash >> 32
        return philox4x32_10(counter, (self.seed & _MASK32, self.seed >> 32))

    def bits(self, index_N: np.ndarray) -> np.ndarray:
        """32 uniform bits at each index, uint32 (N,)."""
        index_N = np.asarray(index_N, dtype=np.uint64)
        return self.blocks(index_N // 4)[np.arange(index_N.size), (index_N % 4).astype(np.int64)]

    def normal(self, first: int, count: int, scale: float) -> np.ndarray:
        """Elements first .. first + count - 1 of the nearly normal stream, fp32: a block's four words are eight 16-bit uniforms,
        of which an element takes four."""
        last = first + count
        words = self.blocks(np.arange(first // 2, (last + 1) // 2, dtype=np.uint64)).astype(np.int64)
        halves = (words & 0xFFFF) + (words >> 16)
        n = (halves[:, 0::2] + halves[:, 1::2]).reshape(-1) - _MEAN
        values = (n.astype(np.float64) * (scale / _SIGMA)).astype(np.float32)
        return values[first % 2 : first % 2 + count]
