# SPDX-License-Identifier: Apache-2.0
"""The load: wrk, as fast as it is answered, on this process' own core."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nimbus.bench.processes import LOOPBACK, BenchError

CONFIGS = Path(__file__).with_name("configs")
GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of wrk saw; `refused` are statuses of 400 and more."""

    requests: int
    seconds: float
    p50_us: int
    p99_us: int
    bytes: int
    refused: int
    broken: int


def closed_loop(
    port: int, path: str, keys: Path, *, seconds: float, connections: int, tls: bool
) -> Measured:
    """Ask over so many connections, each again as soon as it is answered, the keys in rotation.

    Raises `BenchError` when anything but 2xx came back: a refusal is cheaper than an answer.
    """
    scheme = "https" if tls else "http"
    command = [
        *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
        *("-s", str(CONFIGS / "load.lua"), f"{scheme}://{LOOPBACK}:{port}{path}"),
        *("--", str(keys), path),
    ]
    run = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode or not lines:
        raise BenchError(f"wrk ended with {run.returncode}: {run.stdout}{run.stderr}")
    measured = Measured(**json.loads(lines[-1]))
    if measured.refused or measured.broken or not measured.requests:
        raise BenchError(f"not every call was served on port {port}: {measured}")
    return measured
