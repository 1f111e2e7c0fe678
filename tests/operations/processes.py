# SPDX-License-Identifier: Apache-2.0
"""Real processes for tests: started, watched through /proc, waited for with a deadline."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nimbus.base import config, postgres

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
NOBODY = 65534
START_SECONDS = 400  # with the demo's fourteen months, on a machine that does much else
# Root becomes `nobody`; reading is allowed, so that the interpreter may lie in root's home.
ORDINARY_USER = (
    (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
        "--securebits=+no_setuid_fixup",  # access(2) then says what open(2) would
    )
    if IS_ROOT
    else ()
)
# The wheel's server, and those of the machine when it has some.
BINDIRS = [postgres.embedded_bindir(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
ROLES = ("api", "worker", "drain", "gateway")


@dataclass(frozen=True, slots=True)
class Nimbus:
    """A running `nimbus serve`: its process, where its data and its standard output are."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    port: int
    output: Path

    def answers(self, path: str = "/readyz") -> int | None:
        """The status that the front door answers, None when nobody does."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return None

    def pids(self, role: str) -> list[int]:
        """The living processes of one role; `postgres` is the server itself, not its children."""
        if role == "postgres":
            pid_file = self.data_dir / "pg" / "postmaster.pid"
            lines = pid_file.read_text().splitlines() if pid_file.exists() else []
            return [int(lines[0])] if lines and is_alive(int(lines[0])) else []
        commands = {pid: command_of(pid)[2:4] for pid in processes_of(self.data_dir)}
        return [
            pid
            for pid, words in commands.items()
            if words == ["nimbus", role] or words[:1] == [f"nimbus.{role}"]
        ]


def wait_for(condition: Callable[[], T], what: str, seconds: float = 180) -> T:
    """The first true answer of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.01)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nimbus(*words: str, user: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command of Nimbus to its end."""
    return subprocess.run(
        [*user, sys.executable, "-m", "nimbus", *words],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@contextmanager
def serving(
    data_dir: Path, *words: str, user: Sequence[str] = (), port: int = 0, **variables: str
) -> Iterator[Nimbus]:
    """A `nimbus serve` that is ready; on leaving it is stopped, and has to have stopped well."""
    port = port or free_port()
    data_dir.mkdir(mode=0o700, exist_ok=True)
    if user:
        os.chown(data_dir, NOBODY, NOBODY)
    output = data_dir.with_name(f"{data_dir.name}.out")
    command = [*user, sys.executable, "-m", "nimbus", "serve"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, f"--port={port}", f"--data-dir={data_dir}", *words],
            cwd=ROOT,
            env={**environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    with process:
        system = Nimbus(process, data_dir, port, output)
        try:
            told = f"ready, instead of\n{output.read_text()}"
            wait_for(lambda: _is_ready(system), told, START_SECONDS)
            yield system
            stop(system)
            assert process.returncode in {0, -signal.SIGKILL}, output.read_text()
        finally:
            process.kill()


def stop(system: Nimbus, number: int = signal.SIGTERM) -> None:
    if system.process.poll() is None:
        system.process.send_signal(number)
        system.process.wait(180)


def _is_ready(system: Nimbus) -> bool:
    text = system.output.read_text()
    assert system.process.poll() is None, text
    return "Nimbus is ready" in text


def environment() -> dict[str, str]:
    """Ours, without a setting that the developer's shell may have."""
    return {name: text for name, text in os.environ.items() if not name.startswith("NIMBUS_")}


def processes_of(data_dir: Path) -> list[int]:
    """Every living process that works for this data folder: by its command, settings or folder."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _works_for(entry, data_dir)
    ]


def _works_for(entry: Path, data_dir: Path) -> bool:
    mark = str(data_dir).encode()
    try:
        words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        folder = os.fsencode((entry / "cwd").readlink())
    except OSError:
        return False  # ended, or somebody else's
    return any(word.endswith(mark) or mark + b"/" in word for word in (*words.split(b"\0"), folder))


def command_of(pid: int) -> list[str]:
    """The command line, as words; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    return bool(command_of(pid))


def run_file(data_dir: Path) -> dict[str, object]:
    return json.loads((data_dir / "run.json").read_text())


def socket_folder(data_dir: Path) -> Path:
    return config.load({"NIMBUS_DATA_DIR": str(data_dir)}).run_dir
