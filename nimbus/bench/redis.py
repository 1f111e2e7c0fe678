# SPDX-License-Identifier: Apache-2.0
"""The two things the bench asks of Redis itself, spoken directly: is it there, keep this script."""

import socket
import time

from nimbus.base import clock
from nimbus.bench.processes import LOOPBACK, POLL_SECONDS, READY_SECONDS, BenchError


def wait_until_ready(port: int) -> None:
    """Wait until it answers; raises `BenchError` when it doesn't."""
    deadline = clock.monotonic() + READY_SECONDS
    while True:
        try:
            _ask(port, "PING")
        except OSError as error:
            if clock.monotonic() > deadline:
                raise BenchError(f"redis-server did not start: {error}") from None
            time.sleep(POLL_SECONDS)
        else:
            return


def load_script(port: int, script: str) -> str:
    """Keep a script; answers its SHA-1 as hex."""
    return _ask(port, "SCRIPT", "LOAD", script).splitlines()[1]


def _ask(port: int, *words: str) -> str:
    parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
    with socket.create_connection((LOOPBACK, port), 5) as connection:
        connection.sendall("".join(parts).encode("ascii"))
        answer = connection.recv(1000).decode("ascii")
    if answer.startswith("-"):
        raise BenchError(f"redis-server: {answer.strip()}")
    return answer
