"""What a subject's process does about itself: its standard streams, its parent, and its end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_STANDARD = (0, 1, 2)


def end_with_parent() -> None:
    """Whoever started this process, driver or launcher, takes it along."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def open_standard_streams() -> None:
    """Where they were closed they lead nowhere: else the next socket would be taken for one of them, and printing would raise."""
    for stream in _STANDARD:
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)   # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the life of the process


def redirect_output(path: str) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def leave(status: int) -> NoReturn:
    """Threads of process groups may still be in a collective that lost its peers: no destructors, no waiting."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
