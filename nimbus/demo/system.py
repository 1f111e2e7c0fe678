# SPDX-License-Identifier: Apache-2.0
"""A throw-away system for the story: the product's own command in a folder that goes away."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nimbus.demo.http import DemoError

ADMIN = "admin@nimbus.example"
READY = "Nimbus is ready: "
STOP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class System:
    """A running system: its address, its folder, and an admin who can sign in."""

    url: str
    data_dir: Path
    admin_email: str
    admin_password: str


@contextmanager
def throw_away(instant: str, gateways: int) -> Iterator[System]:
    """Run `nimbus serve` on a test clock at `instant` until the block ends; then all is gone."""
    with tempfile.TemporaryDirectory(prefix="nimbus-story-") as folder:
        data_dir = Path(folder)
        words = ["--test-clock", instant, "--gateways", str(gateways)]
        with running(data_dir, free_port(), *words) as url:
            yield System(url, data_dir, ADMIN, make_admin(data_dir))


@contextmanager
def running(data_dir: Path, port: int, *words: str) -> Iterator[str]:
    """`nimbus serve` on this folder and port while the block runs; gives its address."""
    command = ["serve", "--port", str(port), "--data-dir", str(data_dir), *words]
    with (
        (data_dir / "serve.log").open("ab") as log,
        subprocess.Popen(
            nimbus(*command), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            yield _ready(process, data_dir)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


@contextmanager
def wind_api() -> Iterator[str]:
    """The example server on a free port while the block runs; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "examples.wind_api", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise DemoError("the example server did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def make_admin(data_dir: Path) -> str:
    """Make the admin by the operator's command; answers the password."""
    command = nimbus("user", "create", ADMIN, "--admin", "--data-dir", str(data_dir))
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return printed.split()[-1]


def nimbus(*words: str) -> list[str]:
    """The command `nimbus` of this very package."""
    return [sys.executable, "-m", "nimbus", *words]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(process: "subprocess.Popen[str]", data_dir: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).strip()
    tail = (data_dir / "serve.log").read_text(encoding="utf-8")[-2000:]
    raise DemoError(f"nimbus serve ended with status {process.wait()}: {tail}")
