# SPDX-License-Identifier: Apache-2.0
"""Interleaved rounds: every target a few seconds at a time, in one run, in an order that turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

from nimbus.bench import load, machine
from nimbus.bench.calm import Calm, calmest
from nimbus.bench.ground import Ground
from nimbus.bench.load import Measured
from nimbus.bench.targets import Running

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
    """One target's round: what wrk saw, processor time of the target, and of Redis and the
    database beside it.
    """

    measured: Measured
    cpu: machine.Cpu
    beside: machine.Cpu

    @property
    def per_second(self) -> float:
        return self.measured.requests / self.measured.seconds

    def each_us(self, seconds: float) -> float:
        """Processor time as microseconds a request."""
        return seconds / self.measured.requests * 1e6


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
    done: dict[str, list[Calm[Round]]] = {name: [] for name in targets}
    for number in range(plan.rounds):
        for name in list(targets) if number % 2 == 0 else list(targets)[::-1]:
            found = calmest(partial(_round, ground, targets[name], path, plan))
            done[name].append(found)
            one = found.value
            say(
                f"round {number + 1} of {plan.rounds}  {name:16} {one.per_second:9,.0f}/s"
                f" {one.each_us(one.cpu.total):7.1f} µs  {found}"
            )
    return {name: summarize(rounds) for name, rounds in done.items()}


def summarize(rounds: Sequence[Calm[Round]]) -> Row:
    """Medians of a target's rounds."""
    values = [one.value for one in rounds]
    return Row(
        per_second=median(one.per_second for one in values),
        p50_us=median(one.measured.p50_us for one in values),
        p99_us=median(one.measured.p99_us for one in values),
        cpu_us=median(one.each_us(one.cpu.total) for one in values),
        cpu_user_us=median(one.each_us(one.cpu.user) for one in values),
        beside_us=median(one.each_us(one.beside.total) for one in values),
        megabytes_per_second=median(one.measured.bytes / one.measured.seconds for one in values)
        / 1e6,
        requests=sum(one.measured.requests for one in values),
        noise=max(one.noise for one in rounds),
        repeated=sum(one.tries - 1 for one in rounds),
    )


def _round(ground: Ground, target: Running, path: str, plan: Plan) -> Round:
    _load(ground, target, path, plan, WARM_UP_SECONDS)
    before, beside_before = machine.tree_cpu(target.pid), machine.trees_cpu(ground.beside)
    measured = _load(ground, target, path, plan, plan.seconds)
    cpu = machine.tree_cpu(target.pid) - before
    return Round(measured, cpu, machine.trees_cpu(ground.beside) - beside_before)


def _load(ground: Ground, target: Running, path: str, plan: Plan, seconds: float) -> Measured:
    return load.closed_loop(
        target.port,
        path,
        ground.keys_file,
        seconds=seconds,
        connections=plan.connections,
        tls=plan.tls,
    )
