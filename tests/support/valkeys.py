# SPDX-License-Identifier: Apache-2.0
"""Real Valkey servers for tests, and a clock of our own in the script that limits run on."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nimbus.base import valkey
from nimbus.gateway.store import SCRIPT
from nimbus.gateway.valkey import Reply, Words, encode, parse

MACHINE_CLOCK = b"local clock = redis.call('TIME')"
OUR_CLOCK = b"local clock = {0, redis.call('GET', 'simulated')}"


class Server:
    """A Valkey of a test, in a folder of its own, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "valkey.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            # Ends with the tests, however they end.
            [
                sys.executable,
                "-m",
                "nimbus.base.process",
                str(os.getpid()),
                *valkey.command(self.socket),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while not valkey.answers(self.socket):
            assert self.process.poll() is None, "Valkey has ended"

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextmanager
def valkey_server() -> Iterator[Server]:
    """A running Valkey, killed at the end; its folder's name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="nv-") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.kill()


class Client:
    """Commands one after another, each with its reply."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(server.socket))
        self._buffer = bytearray()

    def calls(self, commands: list[Words]) -> list[Reply]:
        self._socket.sendall(encode(commands))
        return [self._reply() for _ in commands]

    def call(self, *words: bytes) -> Reply:
        return self.calls([words])[0]

    def close(self) -> None:
        self._socket.close()

    def _reply(self) -> Reply:
        while (found := parse(self._buffer, 0)) is None:
            data = self._socket.recv(65536)
            assert data, "Valkey has closed the connection"
            self._buffer += data
        del self._buffer[: found[1]]
        return found[0]


def simulated_script() -> bytes:
    """The script as it is, but for the clock: the key `simulated` says what it shows."""
    assert SCRIPT.count(MACHINE_CLOCK) == 1
    return SCRIPT.replace(MACHINE_CLOCK, OUR_CLOCK)
