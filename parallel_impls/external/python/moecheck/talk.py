"""The rank's end of the talk with the driver: JSON objects, one a line, over a socket; or a case that is given whole, in files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

SOCKET_VARIABLE = "MOECHECK_SOCKET"
TOKEN_VARIABLE = "MOECHECK_TOKEN"
CASE_VARIABLE = "MOECHECK_CASE"
SERVER_VARIABLE = "MOECHECK_SERVER"
_TCP = "tcp:"
_SIOCGIFADDR = 0x8915


class Talk(Protocol):
    def read(self) -> dict[str, Any] | None:
        """Nothing when there is no more to do."""

    def write(self, message: Mapping[str, Any]) -> None: ...


class LineSocket:
    """address: a path, or "tcp:host:port". Errors: OSError if nobody listens there."""

    def __init__(self, address: str) -> None:
        if address.startswith(_TCP):
            host, _, port = address.removeprefix(_TCP).rpartition(":")
            self._socket = socket.create_connection((host, int(port)))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.connect(address)
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

    def interface(self) -> str:
        """The network interface that leads to the driver, on which the other ranks can be met; empty for a path."""
        if self._socket.family != socket.AF_INET:
            return ""
        own = socket.inet_aton(self._socket.getsockname()[0])
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                if fcntl.ioctl(self._socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))[20:24] == own:
                    return name
        return ""


class WholeCase:
    """Requests from the file that MOECHECK_CASE names, answers to another; nothing more after an answer that is not ok."""

    def __init__(self, file: str, rank: int) -> None:
        case = json.loads(Path(file).read_text(encoding="utf-8"))
        self._requests = iter(case["operations"])
        # Unbuffered: what was said is there, whatever happens next.
        self._answers = open(f"{case['answers']}{rank}", "ab", buffering=0)  # noqa: SIM115 - for the life of the rank
        self._has_failed = False

    def read(self) -> dict[str, Any] | None:
        return None if self._has_failed else next(self._requests, None)

    def write(self, message: Mapping[str, Any]) -> None:
        self._has_failed = self._has_failed or message.get("ok") is False
        if message.get("event") != "hello":
            self._answers.write(json.dumps(message).encode() + b"\n")


def talk_to_driver(rank: int) -> Talk:
    if CASE_VARIABLE in os.environ:
        return WholeCase(os.environ[CASE_VARIABLE], rank)
    line_socket = LineSocket(os.environ[SOCKET_VARIABLE])
    if interface := line_socket.interface():
        # Ranks on several machines meet where they reach the driver.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    return line_socket
