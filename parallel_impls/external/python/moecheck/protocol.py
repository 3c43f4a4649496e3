"""The rank's end of the protocol (harness/subject/protocol.h): requests, answers and failures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from moecheck.case import Unsupported
from moecheck.process import end_with_parent, leave, open_standard_streams
from moecheck.rank_place import machine_name, rank_place
from moecheck.registry import PROTOCOL, describe
from moecheck.safetensors_file import FileFailure
from moecheck.talk import CASE_VARIABLE, SERVER_VARIABLE, SOCKET_VARIABLE, TOKEN_VARIABLE, talk_to_driver

_USAGE_EXIT = 4
_FRAMEWORKS = ("torch", "transformers", "torchtitan", "vllm")


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


def _hello() -> dict[str, Any]:
    return {"event": "hello", "protocol": PROTOCOL, "pid": os.getpid()}


def _serve_rank() -> None:
    from moecheck.session import Session

    place = rank_place()
    talk = talk_to_driver(place.rank)
    session = Session(place.rank, place.local_rank, place.world_size, talk.write)
    token = {"token": os.environ[TOKEN_VARIABLE]} if TOKEN_VARIABLE in os.environ else {}
    talk.write({**_hello(), "rank": place.rank, "world_size": place.world_size, "machine": machine_name(), **token})
    while (request := talk.read()) is not None:
        talk.write({**reply_to(request, session.answer), "id": request.get("id", 0)})


def _serve() -> None:
    from moecheck.fork_server import serve_forks
    from moecheck.warm import prepare, renew_after_fork

    def serve_forked_rank() -> None:
        renew_after_fork()
        _serve_rank()

    if SERVER_VARIABLE in os.environ:
        prepare()
        serve_forks(os.environ[SERVER_VARIABLE], _hello(), serve_forked_rank)
        return
    end_with_parent()
    prepare()
    _serve_rank()


def subject_version() -> str:
    """Of this package, and of the frameworks that the program or its adapter uses: what a record has to name."""
    from moecheck import __version__

    # Adapters import theirs late, and torch with it.
    late = {"torch"} if any(name.startswith("moecheck.adapters.") for name in sys.modules) else set()
    late |= {name for name in _FRAMEWORKS if f"moecheck.adapters.{name}" in sys.modules}
    used = []
    for name in _FRAMEWORKS:
        if name not in sys.modules and name not in late:
            continue
        version = getattr(sys.modules.get(name), "__version__", None) or _installed_version(name)
        if version:
            used.append(f"{name} {version}")
    return " with ".join([__version__, ", ".join(used)]) if used else __version__


def _installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main(arguments: list[str] | None = None) -> None:
    """A subject's main program: says what it offers if asked with --moecheck-describe, else serves the driver that started it.
    Does not return."""
    open_standard_streams()
    program = os.path.basename(sys.argv[0])
    if "--moecheck-describe" in (sys.argv[1:] if arguments is None else arguments):
        print(json.dumps(describe(program, subject_version()), indent=1))
        sys.exit(0)
    if not {SOCKET_VARIABLE, CASE_VARIABLE, SERVER_VARIABLE} & os.environ.keys():
        print(f"{program}: {SOCKET_VARIABLE} is not set; this program is started by moecheck: "
              f'moecheck run --subject "python {sys.argv[0]}", or ask it for --moecheck-describe', file=sys.stderr)
        sys.exit(_USAGE_EXIT)
    _serve()
    leave(0)
