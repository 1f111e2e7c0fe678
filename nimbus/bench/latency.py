# SPDX-License-Identifier: Apache-2.0
"""Added latency at a constant pace: what a call takes through each target, less what it takes
straight to the upstream, in interleaved rounds of one run.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

from nimbus.bench import openloop
from nimbus.bench.calm import calmest
from nimbus.bench.ground import Ground
from nimbus.bench.processes import BenchError
from nimbus.bench.rounds import Plan
from nimbus.bench.targets import Running

PER_SECOND = 5_000
WARM_UP_SECONDS = 0.5
DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over rounds, in microseconds; `added` to the direct way's."""

    p50_us: float
    p99_us: float
    added_p50_us: float
    added_p99_us: float

    def facts(self) -> dict[str, float]:
        """For the record."""
        return {name: round(value, 1) for name, value in asdict(self).items()}


def measure(
    ground: Ground,
    targets: Mapping[str, Running],
    path: str,
    plan: Plan,
    say: Callable[[str], None],
) -> dict[str, Latency]:
    """Each target's latency by name, and the direct way's."""
    ports = {DIRECT: ground.upstream_port, **{name: one.port for name, one in targets.items()}}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ports}
    for number in range(plan.rounds):
        for name in list(ports) if number % 2 == 0 else list(ports)[::-1]:
            found = calmest(partial(_round, ports[name], path, ground, plan))
            p50, p99 = found.value
            seen[name].append(found.value)
            say(
                f"{PER_SECOND:,}/s, round {number + 1} of {plan.rounds}  {name:16}"
                f" p50 {p50:7,.0f} µs  p99 {p99:8,.0f} µs  {found}"
            )
    middle = {
        name: (median(one[0] for one in found), median(one[1] for one in found))
        for name, found in seen.items()
    }
    direct = middle[DIRECT]
    return {
        name: Latency(p50, p99, p50 - direct[0], p99 - direct[1])
        for name, (p50, p99) in middle.items()
    }


def _round(port: int, path: str, ground: Ground, plan: Plan) -> tuple[float, float]:
    asked = openloop.requests(path, port, ground.keys)
    openloop.run(port, asked, per_second=PER_SECOND, seconds=WARM_UP_SECONDS)
    gc.collect()
    gc.disable()  # the load's own pauses are nobody's latency
    try:
        served = openloop.run(port, asked, per_second=PER_SECOND, seconds=plan.seconds)
    finally:
        gc.enable()
    if served.refused:
        raise BenchError(f"{served.refused} calls were refused on port {port}")
    return served.percentile_us(0.5), served.percentile_us(0.99)
