# SPDX-License-Identifier: Apache-2.0
"""Where the gateway's own time goes: a run of its own under Python's profiler, of no other use.

The profiler makes Python's calls dearer than they are, and what C does cheaper beside them: the
shares say where to look, the table of requests what it costs. A function's own time holds what it
calls in the event loop's C: `write` is a system call.
"""

import os
import pstats
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nimbus.bench import load
from nimbus.bench.ground import Ground
from nimbus.bench.rounds import Plan
from nimbus.bench.targets import Running, nimbus

LINES = 20
WARM_UP_SECONDS = 1.0
# What is not in a function of Python: the event loop in C, and the kernel's part of its reading.
EVENT_LOOP = "the event loop, with the system calls by which it reads and waits"


def measure(ground: Ground, path: str, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """The functions with the most time of their own, as shares of all, while wrk asks."""
    output = ground.folder / "profile"
    words = [sys.executable, "-m", "nimbus.bench.profiled", str(output)]
    with nimbus(ground, words) as running:
        _load(ground, running, path, plan, WARM_UP_SECONDS)
        os.kill(running.pid, signal.SIGUSR1)
        _load(ground, running, path, plan, plan.seconds)
    found = _own_times(output)
    whole = sum(found.values())
    shares = {name: round(seconds / whole, 4) for name, seconds in found.items()}
    most = sorted(shares, key=lambda name: -shares[name])[:LINES]
    for name in most[:5]:
        say(f"{shares[name]:6.1%}  {name}")
    return {name: shares[name] for name in most}


def _load(ground: Ground, running: Running, path: str, plan: Plan, seconds: float) -> None:
    load.closed_loop(
        running.port,
        path,
        ground.keys_file,
        seconds=seconds,
        connections=plan.connections,
        tls=False,
    )


def _own_times(output: Path) -> dict[str, float]:
    """Seconds by function: `gateway/call.py admit`, or a name of C as the profiler says it."""
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]]
    stats = pstats.Stats(str(output)).stats  # type: ignore[attr-defined]
    found: dict[str, float] = {}
    for (file, _, function), (_, _, own, _, _) in stats.items():
        place = file.rpartition("/nimbus/")[2] if "/nimbus/" in file else Path(file).name
        name = function.strip("<>") if file == "~" else f"{place} {function}"
        found[name] = found.get(name, 0.0) + own
    whole = float(output.with_suffix(".seconds").read_text(encoding="ascii"))
    return {**found, EVENT_LOOP: max(0.0, whole - sum(found.values()))}
