"""Which experts designed routing wants for each token; the same as harness/inputs/patterns.cpp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moecheck.case import Case
from moecheck.philox import Stream

_BLOCKS_AT_ONCE = 8


def is_designed(case: Case) -> bool:
    return case.routing != "natural" or case.values != "normal"


@dataclass(frozen=True)
class Wanted:
    """Experts in order of preference; with ties the last one is tied with `tied`."""

    chosen: list[int]
    tied: int = -1


class _Draws:
    """Draws without replacement; a token's draws are a stretch of the stream of their own."""

    def __init__(self, case: Case, token: int) -> None:
        self._stream, self._next, self._ready = Stream(case.seed, "routing"), token << 16, np.empty(0, np.uint32)

    def below(self, bound: int) -> int:
        if self._ready.size == 0:
            block = self._next // 4 + np.arange(_BLOCKS_AT_ONCE, dtype=np.uint64)
            self._ready = self._stream.blocks(block).reshape(-1)
            self._next += 4 * _BLOCKS_AT_ONCE
        word, self._ready = int(self._ready[0]), self._ready[1:]
        return word % bound

    def take(self, pool: list[int]) -> int:
        return pool.pop(self.below(len(pool)))

    def take_many(self, pool: list[int], count: int) -> list[int]:
        return [self.take(pool) for _ in range(count)]


def _num_blocks(case: Case) -> int:
    """Without an ep dimension, patterns that speak of ranks take two halves."""
    return case.mesh.size("ep") if "ep" in dict(case.mesh.dims) else 2


def _experts_of_block(case: Case, block: int) -> list[int]:
    size = max(1, case.model.num_experts // _num_blocks(case))
    return [e for e in range(case.model.num_experts) if min(e // size, _num_blocks(case) - 1) == block]


def _fixed_choice(case: Case, bound: int) -> int:
    """One choice a problem, so that the favourite or idle one is the same for all tokens."""
    return int(Stream(case.seed, "routing/fixed").bits(np.array([0]))[0]) % bound


def _on_different_ranks(case: Case, draws: _Draws) -> list[int]:
    blocks = _num_blocks(case)
    start = draws.below(blocks)
    pools = [_experts_of_block(case, b) for b in range(blocks)]
    chosen: list[int] = []
    turn = start
    while len(chosen) < case.model.top_k:
        if pools[turn % blocks]:
            chosen.append(draws.take(pools[turn % blocks]))
        turn += 1
    return chosen


def _on_one_rank(case: Case, draws: _Draws) -> list[int]:
    blocks = _num_blocks(case)
    turn = draws.below(blocks)
    chosen: list[int] = []
    while len(chosen) < case.model.top_k:
        pool = _experts_of_block(case, turn % blocks)
        chosen += draws.take_many(pool, min(len(pool), case.model.top_k - len(chosen)))
        turn += 1
    return chosen


def _zipf(case: Case, draws: _Draws) -> list[int]:
    """Popularity of expert e is 1 / (e + 1), in fixed point."""
    unit = 1 << 16
    pool = list(range(case.model.num_experts))
    chosen: list[int] = []
    while len(chosen) < case.model.top_k:
        mark = draws.below(sum(unit // (e + 1) for e in pool))
        at = 0
        while mark >= unit // (pool[at] + 1):
            mark -= unit // (pool[at] + 1)
            at += 1
        chosen.append(pool.pop(at))
    return chosen


def wanted_experts(case: Case, token: int) -> Wanted:
    draws, top_k = _Draws(case, token), case.model.top_k
    pool = list(range(case.model.num_experts))
    match case.routing:
        case "natural":
            return Wanted(draws.take_many(pool, top_k))
        case "k_ranks":
            return Wanted(_on_different_ranks(case, draws))
        case "one_rank":
            return Wanted(_on_one_rank(case, draws))
        case "zipf":
            return Wanted(_zipf(case, draws))
        case "idle_expert":
            pool.remove(_fixed_choice(case, case.model.num_experts))
            return Wanted(draws.take_many(pool, top_k))
        case "idle_rank":
            idle = _experts_of_block(case, _fixed_choice(case, _num_blocks(case)))
            return Wanted(draws.take_many([e for e in pool if e not in idle], top_k))
        case "one_expert":
            favourite = _fixed_choice(case, case.model.num_experts)
            pool.remove(favourite)
            return Wanted([favourite, *draws.take_many(pool, top_k - 1)])
        case "ties":
            wanted = draws.take_many(pool, top_k + 1)
            return Wanted(wanted[:-1], wanted[-1])
    raise ValueError(f"routing '{case.routing}' is not known to this version of the package")
