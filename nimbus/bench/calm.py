# SPDX-License-Identifier: Apache-2.0
"""A measurement on a calm machine: where something else used it, it is made again.

Noise is what the processors did beyond this process and everything it started, as a share of one
core. A few tries are made; the calmest counts, and the record says how calm it was.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nimbus.base import clock
from nimbus.bench import machine

T = TypeVar("T")

NOISE_MAX = 0.12
TRIES = 3


@dataclass(frozen=True, slots=True)
class Calm(Generic[T]):
    """What was measured, the noise meanwhile, and how many tries there were."""

    value: T
    noise: float
    tries: int

    def __str__(self) -> str:
        again = f", try {self.tries}" if self.tries > 1 else ""
        return f"noise {self.noise:4.0%}{again}"


def calmest(measure: Callable[[], T]) -> Calm[T]:
    """Measure until a try is calm enough, three times at most; answers the calmest."""
    best = _once(measure, 1)
    while best.noise > NOISE_MAX and best.tries < TRIES:
        another = _once(measure, best.tries + 1)
        calmer = min(best, another, key=lambda one: one.noise)
        best = Calm(calmer.value, calmer.noise, another.tries)
    return best


def _once(measure: Callable[[], T], tries: int) -> Calm[T]:
    started = clock.monotonic()
    all_before, own_before = machine.machine_cpu_seconds(), machine.tree_cpu(os.getpid())
    value = measure()
    own = machine.tree_cpu(os.getpid()) - own_before
    others = machine.machine_cpu_seconds() - all_before - own.total
    return Calm(value, max(0.0, others) / (clock.monotonic() - started), tries)
