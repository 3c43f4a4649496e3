"""What a rank does once, before its first case. Imports torch."""

from __future__ import annotations

import gc
import warnings

import torch
import torch.utils.deterministic


def prepare() -> None:
    torch.set_num_threads(1)
    # Poison: every allocation is filled with NaN, so that what nobody wrote cannot pass for a number.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    # What was imported stays: no collection need look at it again.
    gc.collect()
    gc.freeze()


def renew_after_fork() -> None:
    """In a forked rank, before its first thread. torch replaces the thread pool that it inherited at the first call that wants it, and two threads
    at once, as those of the first backward, may find none: "Invalid thread pool!"."""
    torch.set_num_threads(torch.get_num_threads())
