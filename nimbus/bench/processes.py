# SPDX-License-Identifier: Apache-2.0
"""Programs of a bench: pinned to a core, ended with the block that started them, loopback only."""

import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from nimbus.base import clock
from nimbus.bench import machine

LOOPBACK = "127.0.0.1"
READY_SECONDS = 180.0  # a gateway with 100,000 grants on a busy machine takes its time
POLL_SECONDS = 0.05
STOP_SECONDS = 15.0
LOG_LINES = 20


class BenchError(Exception):
    """A bench can't go on; the message says why."""


@contextmanager
def program(
    words: Sequence[str], core: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program on one core for as long as the block runs; it dies with this process too."""
    launcher = [sys.executable, "-m", "nimbus.base.process", str(os.getpid())]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*launcher, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if environment is None else {**os.environ, **environment},
        )
    try:
        # It is the launcher still, so all that the program starts stays on this core too.
        os.sched_setaffinity(process.pid, {core})
        yield process
    finally:
        _end(process)


def wait_until_answers(
    process: "subprocess.Popen[bytes]",
    log: Path,
    port: int,
    path: str,
    headers: Mapping[str, str],
    *,
    tls: bool = False,
) -> None:
    """Wait until GET `path` answers 200; raises `BenchError` with the end of the log."""
    deadline = clock.monotonic() + READY_SECONDS
    said = "nothing"
    while clock.monotonic() < deadline and process.poll() is None:
        try:
            with closing(_connection(port, tls=tls)) as connection:
                connection.request("GET", path, headers=dict(headers))
                answer = connection.getresponse()
                said = f"{answer.status} {answer.read(300)!r}"
                if answer.status == 200:
                    return
        except (OSError, http.client.HTTPException) as error:
            said = repr(error)
        time.sleep(POLL_SECONDS)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
    raise BenchError(f"{path} on port {port} said {said}; the end of {log.name}:\n{tail}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _connection(port: int, *, tls: bool) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    # The certificate is the bench's own, made a moment ago.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001
    return http.client.HTTPSConnection(LOOPBACK, port, timeout=5, context=context)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to stop; what is left of its tree after a while is killed, by number."""
    family = machine.tree(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    for pid in family[1:]:
        # A child that outlived its parent has been given to another process: still ours.
        with suppress(ProcessLookupError, PermissionError):
            if not _is_gone(pid):
                os.kill(pid, 9)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2][1] == "Z"
    except OSError:
        return True
