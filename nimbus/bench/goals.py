# SPDX-License-Identifier: Apache-2.0
"""What is asked of the gateway: goals, floors, and how a run stands to them.

Ratios are of one run on one machine; the gateway has all of its policy and its journal on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that is asked for: at least (`more`), or at most, `goal`; never beyond `floor`."""

    what: str
    value: float
    goal: float
    floor: float
    more: bool
    unit: str

    @property
    def verdict(self) -> str:
        """`met`, `above the floor`, or `below the floor`."""
        if self._holds(self.goal):
            return "met"
        return "above the floor" if self._holds(self.floor) else "below the floor"

    @property
    def is_above_floor(self) -> bool:
        return self._holds(self.floor)

    def shown(self, number: float) -> str:
        """A number of this goal in its unit."""
        if self.unit == "%":
            return f"{number:.0%}"
        return f"{number:,.2f} ×" if self.unit == "×" else f"{number:,.0f} {self.unit}"

    def _holds(self, bound: float) -> bool:
        return self.value >= bound if self.more else self.value <= bound


# Requests a second against another's: name of the target, goal, floor.
TIMES = (
    ("nginx-lua-redis", 1.3, 1.1),
    ("envoy", 1.3, 1.1),
    ("traefik-redis", 3.0, 2.5),
    ("asgi-aiohttp", 4.0, 3.5),
)


def judge(record: Facts) -> list[Goal]:
    """The goals that a run's record can speak about."""
    return [*_speed(record.get("speed", {})), *_latency(record), *_memory(record.get("memory"))]


def _speed(rows: Facts) -> list[Goal]:
    own = rows.get("nimbus")
    if own is None:
        return []
    goals = []
    if plain := rows.get("nginx"):
        share = own["per_second"] / plain["per_second"]
        goals.append(Goal("requests/s against nginx", share, 0.6, 0.5, more=True, unit="%"))
        share = own["cpu_us"] / plain["cpu_us"]
        goals.append(Goal("CPU per request against nginx", share, 1.7, 2.0, more=False, unit="%"))
    for name, goal, floor in TIMES:
        if other := rows.get(name):
            ratio = own["per_second"] / other["per_second"]
            goals.append(Goal(f"requests/s against {name}", ratio, goal, floor, True, "×"))
    return goals


def _latency(record: Facts) -> list[Goal]:
    own = record.get("latency", {}).get("nimbus")
    if own is None:
        return []
    return [
        Goal("added latency at 5,000/s, p50", own["added_p50_us"], 400, 1_000, False, "µs"),
        Goal("added latency at 5,000/s, p99", own["added_p99_us"], 2_000, 5_000, False, "µs"),
    ]


def _memory(found: Facts | None) -> list[Goal]:
    if found is None:
        return []
    stalled = max(found["stalled_reading_kib"], found["stalled_sending_kib"])
    return [
        Goal(
            f"memory at rest, {found['grants']:,.0f} grants",
            found["rest_kib"] * 1024 / 1e6,
            60,
            90,
            more=False,
            unit="MB",
        ),
        Goal("memory of a stalled connection", stalled, 256, 256, more=False, unit="KiB"),
    ]
