# SPDX-License-Identifier: Apache-2.0
"""A process and the one that started it: no survivor, and readiness that is told."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.operations.processes import ROOT, is_alive, wait_for

PARENT = """
import os, subprocess, sys, time
words = [sys.executable, "-m", "nimbus.base.process", str(os.getpid()), *sys.argv[1:]]
with subprocess.Popen(words) as child:
    print(child.pid, flush=True)
    time.sleep(1000)
"""


def test_a_program_that_runs_beside_nimbus_dies_with_a_killed_supervisor() -> None:
    words = [sys.executable, "-c", PARENT, "sleep", "1000"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        comm = Path(f"/proc/{child}/comm")
        wait_for(lambda: comm.read_text() == "sleep\n", "it became the command")

        os.kill(parent.pid, signal.SIGKILL)

        wait_for(lambda: not is_alive(child), "it is gone")


def test_a_process_whose_supervisor_is_gone_already_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nimbus.base.process", "1", "echo", "started"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert "supervisor 1 is gone" in done.stderr


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_is_told_the_way_systemd_listens(abstract: bool, tmp_path: Path) -> None:
    name = f"nimbus-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}" if abstract else name)
        listener.settimeout(60)

        subprocess.run(
            [sys.executable, "-c", "from nimbus.base import process; process.announce_ready()"],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": f"@{name}" if abstract else name},
            check=True,
        )

        assert listener.recv(100) == b"READY=1"
