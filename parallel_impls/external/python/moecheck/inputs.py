"""Every weight and token as a pure function of seed, tensor and global index; the same bytes as harness/inputs/generator.h makes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from moecheck.case import Case
from moecheck.dtypes import HostTensor, store
from moecheck.philox import Stream
from moecheck.routing import is_designed, wanted_experts

_LOGIT_SCALE, _DOWN_SCALE = 1.5, 2.0
# Designed routing: the router's gain, the first choice's code, everyone else's, and how far the one favourite leads.
_GAIN, _NOISE, _JITTER = 2.0, 0.1, 0.04
_FIRST_CODE, _OTHER_CODE, _FAVOURITE_LEAD = 2.0, -1.0, 1.0
_EXACT_ROUTER, _EXACT_GATES = 64.0, (128.0, 64.0)
_EXACT_UP_ENTRIES, _EXACT_DOWN_ENTRIES = 3, 4
_WORDS_A_ROW = 8


def _small_integers(stream: Stream, first: int, count: int) -> np.ndarray:
    return (stream.bits(first + np.arange(count, dtype=np.uint64)) % 3).astype(np.float32) - np.float32(1)


def _sparse_signs(stream: Stream, first_row: int, rows: int, columns: int, entries: int) -> np.ndarray:
    """`entries` of +-1 a row, at places drawn from the stream; where two meet, the last one stays."""
    out = np.zeros((rows, columns), np.float32)
    for j in range(entries):
        words = stream.bits((first_row + np.arange(rows, dtype=np.uint64)) * _WORDS_A_ROW + j)
        out[np.arange(rows), (words >> 1) % columns] = np.where(words & 1, np.float32(1), np.float32(-1))
    return out


class Generator:
    def __init__(self, case: Case) -> None:
        self._case, self._model = case, case.model

    def _stream(self, name: str) -> Stream:
        return Stream(self._case.seed, name)

    def _store(self, values: np.ndarray) -> HostTensor:
        return store(values, self._case.dtype)

    def router_ED(self) -> HostTensor:
        experts, d = self._model.num_experts, self._model.d_model
        diagonal = np.eye(experts, d, dtype=np.float32)
        if self._case.values == "exact":
            return self._store(diagonal * np.float32(_EXACT_ROUTER))
        if is_designed(self._case) and self._case.routing == "ties":
            return self._store(diagonal * np.float32(_GAIN))
        scale = (_NOISE if is_designed(self._case) else _LOGIT_SCALE) / math.sqrt(d)
        values_ED = self._stream("router").normal(0, experts * d, scale).reshape(experts, d)
        return self._store(values_ED + diagonal * np.float32(_GAIN) if is_designed(self._case) else values_ED)

    def attention_DD(self) -> HostTensor:
        d = self._model.d_model
        return self._store(self._stream("attention").normal(0, d * d, 1.0 / math.sqrt(d)).reshape(d, d))

    def gate_up_EGD(self, experts: Sequence[int]) -> HostTensor:
        """Packed gate rows, then up rows, of these experts."""
        return self._store(np.stack([self._gate_up_GD(e) for e in experts]) if len(experts) else self._none("param/experts/gate_up_EGD"))

    def down_EDF(self, experts: Sequence[int]) -> HostTensor:
        return self._store(np.stack([self._down_DF(e) for e in experts]) if len(experts) else self._none("param/experts/down_EDF"))

    def tokens_TD(self, rank: int, batch: int = 0) -> HostTensor:
        """Of the token shard of `rank`; batch b has the tokens b * total_tokens and on."""
        first, count = self._tokens_of(rank, batch)
        rows_TD = self._plain_tokens(first, count)
        if is_designed(self._case):
            for i in range(count):
                rows_TD[i, : self._model.num_experts] = self._code_E(first + i)
        return self._store(rows_TD)

    def output_grad_TD(self, rank: int, batch: int = 0) -> HostTensor:
        """What the loss gives to the output: the loss is a plain sum over all tokens of the output times this."""
        d, (first, count) = self._model.d_model, self._tokens_of(rank, batch)
        stream = self._stream("output_grad")
        if self._case.values == "exact":
            return self._store(_small_integers(stream, first * d, count * d).reshape(count, d))
        return self._store(stream.normal(first * d, count * d, 1.0).reshape(count, d))

    def _tokens_of(self, rank: int, batch: int) -> tuple[int, int]:
        return batch * self._case.total_tokens + self._case.first_token(rank), self._case.num_tokens(rank)

    def _none(self, tap: str) -> np.ndarray:
        return np.empty((0, *self._case.param_shape(tap)[1:]), np.float32)

    def _gate_up_GD(self, expert: int) -> np.ndarray:
        rows, d, f = self._model.gate_up_rows, self._model.d_model, self._model.d_ff
        stream = self._stream("gate_up")
        if self._case.values == "normal":
            return stream.normal(expert * rows * d, rows * d, 1.0 / math.sqrt(d)).reshape(rows, d)
        if self._case.values == "provenance":
            value = np.where(np.arange(rows) < f, 2.0**-10, 2.0**-11) * (expert + 1)
            return np.repeat(value.astype(np.float32)[:, None], d, axis=1)
        out_GD = np.zeros((rows, d), np.float32)
        gates = stream.bits((expert * rows + np.arange(f, dtype=np.uint64)) * _WORDS_A_ROW) & 1
        out_GD[:f, -1] = np.where(gates, np.float32(_EXACT_GATES[0]), np.float32(_EXACT_GATES[1]))
        out_GD[f:] = _sparse_signs(stream, expert * rows + f, f, d, _EXACT_UP_ENTRIES)
        return out_GD

    def _down_DF(self, expert: int) -> np.ndarray:
        d, f = self._model.d_model, self._model.d_ff
        stream = self._stream("down")
        if self._case.values == "normal":
            return stream.normal(expert * d * f, d * f, _DOWN_SCALE / math.sqrt(f)).reshape(d, f)
        if self._case.values == "exact":
            return _sparse_signs(stream, expert * d, d, f, _EXACT_DOWN_ENTRIES)
        return np.full((d, f), (expert + 1) * 2.0**-9, np.float32)

    def _plain_tokens(self, first: int, count: int) -> np.ndarray:
        d, stream = self._model.d_model, self._stream("tokens")
        if self._case.values == "normal":
            return stream.normal(first * d, count * d, 1.0).reshape(count, d)
        if self._case.values == "provenance":
            value_T = (np.arange(first, first + count) + 1) * 2.0**-6
            return np.repeat(value_T.astype(np.float32)[:, None], d, axis=1)
        rows_TD = _small_integers(stream, first * d, count * d).reshape(count, d)
        rows_TD[:, -1] = 1.0
        return rows_TD

    def _code_E(self, token: int) -> np.ndarray:
        """The routing, written into a token's first columns. Normal values get a jitter, so that columns are not constant."""
        experts, is_exact = self._model.num_experts, self._case.values == "exact"
        # A sigmoid has the slope 1/4 at 0, and none far out.
        exact_code = 0.0 if self._model.softmax == "sigmoid" else 1.0
        wanted = wanted_experts(self._case, token)
        jitter_E = np.zeros(experts, np.float32)
        if not is_exact and self._case.routing != "ties":
            jitter_E = self._stream("tokens/jitter").normal(token * experts, experts, _JITTER)
        code_E = np.float32(_OTHER_CODE) + jitter_E
        # A step that is representable in bf16 for up to 16 choices.
        step = 0.125 if self._model.top_k <= 8 else 0.03125
        for j, e in enumerate(wanted.chosen):
            lead = _FAVOURITE_LEAD if j == 0 and self._case.routing == "one_expert" else 0.0
            code_E[e] = exact_code if is_exact else np.float32(_FIRST_CODE - step * j + lead) + jitter_E[e]
        if wanted.tied >= 0:
            code_E[wanted.tied] = code_E[wanted.chosen[-1]]
        return code_E
