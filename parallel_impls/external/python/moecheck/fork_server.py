"""A process that imported a subject's framework once and forks the ranks of each case: a rank is there in milliseconds, and what one case
leaves behind in a framework's globals does not reach the next."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from moecheck.process import end_with_parent, leave, redirect_output
from moecheck.talk import SERVER_VARIABLE, LineSocket

_LOOK_S = 0.0005


def serve_forks(address: str, hello: Mapping[str, Any], serve_rank: Callable[[], None]) -> None:
    """Until the driver closes the socket. serve_rank: what a rank does, with its environment in place."""
    server = LineSocket(address)
    server.write(hello)
    while (request := server.read()) is not None:
        server.write({"id": request.get("id", 0), "ok": True, "pid": _fork_twice(request, server, serve_rank)})


def _fork_twice(request: Mapping[str, Any], server: LineSocket, serve_rank: Callable[[], None]) -> int:
    """The rank's process id. Its parent ends at once, so that the driver, who adopts orphans below it, becomes its parent."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        os.close(reading)
        # Asked before the fork: the child may look only when this process is gone already.
        parent = os.getpid()
        own = os.fork()
        if own != 0:
            os.write(writing, str(own).encode())
            os._exit(0)
        os.close(writing)
        _become_rank(request, server, parent, serve_rank)
    os.close(writing)
    os.waitpid(between, 0)
    with os.fdopen(reading, "rb") as pipe:
        return int(pipe.read())


def _become_rank(request: Mapping[str, Any], server: LineSocket, parent: int, serve_rank: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        end_with_parent()
        os.setsid()
        server.close()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        redirect_output(request["output"])
        os.environ.update(request["environment"])
        os.environ.pop(SERVER_VARIABLE, None)
        serve_rank()
        status = 0
    except BaseException:  # noqa: BLE001 - the server's own stack lies below, which is not this process's to unwind
        traceback.print_exc()
    leave(status)
