# SPDX-License-Identifier: Apache-2.0
"""Interleaved rounds: every target a few seconds at a time, in one run, in an order that turns.

A round in which something else used the machine is made again, a few times; the calmest counts.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

from nimbus.base import clock
from nimbus.bench import load, machine
from nimbus.bench.ground import Ground
from nimbus.bench.load import Measured
from nimbus.bench.targets import Running

NOISE_MAX = 0.12  # of a core
TRIES = 3
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    connections: int = 64
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One target's round: what wrk saw, processor time of the target, of Redis and the database
    beside it, and what else was going on, as a share of a core.
    """

    measured: Measured
    cpu: machine.Cpu
    beside: machine.Cpu
    noise: float
    tries: int


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over a target's rounds; `noise` is the worst round's, as a share of a core."""

    per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float
    cpu_user_us: float
    beside_us: float
    megabytes_per_second: float
    requests: int
    noise: float
    repeated: int

    def facts(self) -> dict[str, float]:
        """For the record."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def interleave(
    ground: Ground,
    targets: Mapping[str, Running],
    path: str,
    plan: Plan,
    say: Callable[[str], None],
) -> dict[str, Row]:
    """Measure all targets; answers a row each, by name."""
    done: dict[str, list[Round]] = {name: [] for name in targets}
    for number in range(plan.rounds):
        order = list(targets) if number % 2 == 0 else list(targets)[::-1]
        for name in order:
            one = _calm_round(ground, targets[name], path, plan)
            done[name].append(one)
            say(
                f"round {number + 1} of {plan.rounds}  {name:16}"
                f" {one.measured.requests / one.measured.seconds:9,.0f}/s"
                f" {one.cpu.total / one.measured.requests * 1e6:7.1f} µs"
                f"  noise {one.noise:4.0%}{f', try {one.tries}' if one.tries > 1 else ''}"
            )
    return {name: summarize(rounds) for name, rounds in done.items()}


def summarize(rounds: Sequence[Round]) -> Row:
    """Medians of a target's rounds."""
    return Row(
        per_second=median(one.measured.requests / one.measured.seconds for one in rounds),
        p50_us=median(one.measured.p50_us for one in rounds),
        p99_us=median(one.measured.p99_us for one in rounds),
        cpu_us=median(one.cpu.total / one.measured.requests * 1e6 for one in rounds),
        cpu_user_us=median(one.cpu.user / one.measured.requests * 1e6 for one in rounds),
        beside_us=median(one.beside.total / one.measured.requests * 1e6 for one in rounds),
        megabytes_per_second=median(
            one.measured.bytes / one.measured.seconds / 1e6 for one in rounds
        ),
        requests=sum(one.measured.requests for one in rounds),
        noise=max(one.noise for one in rounds),
        repeated=sum(one.tries - 1 for one in rounds),
    )


def _calm_round(ground: Ground, target: Running, path: str, plan: Plan) -> Round:
    best: Round | None = None
    for number in range(1, TRIES + 1):
        _load(ground, target, path, plan, WARM_UP_SECONDS)
        one = _round(ground, target, path, plan, number)
        if best is None or one.noise < best.noise:
            best = one
        if best.noise <= NOISE_MAX:
            break
    assert best is not None
    return replace(best, tries=number)


def _round(ground: Ground, target: Running, path: str, plan: Plan, number: int) -> Round:
    """Noise is what the machine used beyond this process and everything it started."""
    started = clock.monotonic()
    machine_before, own_before = machine.machine_cpu_seconds(), machine.tree_cpu(os.getpid())
    before, beside_before = machine.tree_cpu(target.pid), machine.trees_cpu(ground.beside)
    measured = _load(ground, target, path, plan, plan.seconds)
    cpu = machine.tree_cpu(target.pid) - before
    beside = machine.trees_cpu(ground.beside) - beside_before
    own = machine.tree_cpu(os.getpid()) - own_before
    others = machine.machine_cpu_seconds() - machine_before - own.total
    noise = max(0.0, others) / (clock.monotonic() - started)
    return Round(measured, cpu, beside, noise, number)


def _load(ground: Ground, target: Running, path: str, plan: Plan, seconds: float) -> Measured:
    return load.closed_loop(
        target.port,
        path,
        ground.keys_file,
        ground.cores.load,
        seconds=seconds,
        connections=plan.connections,
        tls=plan.tls,
    )
