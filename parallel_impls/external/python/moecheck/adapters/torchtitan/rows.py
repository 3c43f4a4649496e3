"""Tokens of a case as sequences of a batch. Importable without torch."""

from __future__ import annotations

from moecheck.case import Case

_SEQUENCES = 2


class Rows:
    """Tokens are fed as (B, L, D): two sequences where every rank has an even number of tokens, else one. A rank routes (B, L) flattened,
    where under tp L is made of a piece of each tp rank."""

    def __init__(self, case: Case, rank: int) -> None:
        num_tokens, pieces = case.num_tokens(rank), case.mesh.group(rank, "tp")
        is_even = all(case.num_tokens(r) % _SEQUENCES == 0 for r in range(case.mesh.world_size))
        self.batch = _SEQUENCES if is_even and num_tokens > 0 else 1
        self.length = num_tokens // self.batch
        order = [(r, b * self.length + s) for b in range(self.batch) for r in pieces for s in range(self.length)]
        self.tokens_S = [case.first_token(r) + i for r, i in order]
        """Global index of each row's token."""
        self.own = [row for row, (r, _) in enumerate(order) if r == rank]
        """The rows of the rank's own tokens, in their order."""
