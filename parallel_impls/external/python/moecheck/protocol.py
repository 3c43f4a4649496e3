"""The rank's end of the protocol (harness/subject/protocol.h): JSON lines over a UNIX socket, until the driver closes it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from moecheck.case import Unsupported
from moecheck.registry import PROTOCOL, describe
from moecheck.safetensors_file import FileFailure

SOCKET_VARIABLE = "MOECHECK_SOCKET"
_USAGE_EXIT = 4


class LineSocket:
    """Errors: OSError if nobody listens at `path`."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8", newline="\n")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def read(self) -> dict[str, Any] | None:
        """Nothing when the driver closed it."""
        try:
            line = self._lines.readline()
        except ConnectionError:
            return None
        return json.loads(line) if line else None

    def write(self, message: Mapping[str, Any]) -> None:
        # If the driver is gone, the next read says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")


def _failure(code: str, error: BaseException) -> dict[str, Any]:
    message = str(error) or type(error).__name__
    if code == "error" and not isinstance(error, RuntimeError):
        message = f"{type(error).__name__}: {message}"
    return {"ok": False, "code": code, "message": message, "traceback": "".join(traceback.format_exception(error))}


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def reply_to(request: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The one place where exceptions end; SystemExit too, for a rank that leaves without a word is a crash."""
    try:
        return answer(request)
    except Unsupported as error:
        return {"ok": False, "code": "unsupported", "message": str(error), "traceback": ""}
    except FileFailure as error:
        return _failure("io", error)
    except (Exception, SystemExit) as error:
        return _failure("oom" if _is_out_of_memory(error) else "error", error)


def _serve() -> None:
    from moecheck.session import Session
    from moecheck.warm import prepare

    rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    line_socket = LineSocket(os.environ[SOCKET_VARIABLE])
    prepare()
    session = Session(rank, local_rank, world_size, line_socket.write)
    line_socket.write({"event": "hello", "protocol": PROTOCOL, "rank": rank, "pid": os.getpid()})
    while (request := line_socket.read()) is not None:
        line_socket.write({**reply_to(request, session.answer), "id": request.get("id", 0)})


def _version() -> str:
    from moecheck import __version__

    torch = sys.modules.get("torch")
    return __version__ if torch is None else f"{__version__} with torch {torch.__version__}"


def main(arguments: list[str] | None = None) -> None:
    """A subject's main program: says what it offers if asked with --moecheck-describe, else serves the driver that started it.
    Does not return."""
    program = os.path.basename(sys.argv[0])
    if "--moecheck-describe" in (sys.argv[1:] if arguments is None else arguments):
        print(json.dumps(describe(program, _version()), indent=1))
        sys.exit(0)
    if SOCKET_VARIABLE not in os.environ:
        print(f"{program}: {SOCKET_VARIABLE} is not set; this program is started by moecheck: "
              f'moecheck run --subject "python {sys.argv[0]}", or ask it for --moecheck-describe', file=sys.stderr)
        sys.exit(_USAGE_EXIT)
    _serve()
    # Threads of process groups may still be in a collective that lost its peers: no destructors, no waiting.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
