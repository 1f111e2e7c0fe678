# SPDX-License-Identifier: Apache-2.0
"""What is measured of the system itself, for Prometheus: the names of spec 07 as `nimbus_…`.

Counters and histograms are counted in the processes that see what they count. Where the
environment names a folder (`metrics_folder`), each process keeps them in a small file there, as
prometheus_client does for several processes, and a page has the sums over all of this machine.
Gauges are asked of the database when somebody looks: rooms register them with `gauge`.

Labels are names of the catalogue (product, route template, plan) and of the code. Never a key, a
URL, an organization: their number has no bound, and they tell whose a call was.
"""

import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import SupportsFloat

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.base.metrics_folder import FOLDER

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MICROSECONDS = 1_000_000

Samples = Iterable[tuple[Sequence[str], SupportsFloat]]
"""Label values in their order, and the value."""
Read = Callable[[AsyncSession], Awaitable[Samples]]

own = CollectorRegistry()
# Seconds. Of a query and of what the gateway adds most is below a millisecond.
SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

api_requests = Counter(
    "nimbus_http_requests",
    "Requests to the management API and the portal, by route template and status.",
    ("method", "route", "status"),
    registry=own,
)
api_seconds = Histogram(
    "nimbus_http_request_seconds",
    "How long the management API took.",
    ("method", "route"),
    buckets=LONG,
    registry=own,
)
query_seconds = Histogram(
    "nimbus_database_query_seconds",
    "How long database statements took, by the role that asked.",
    ("role",),
    buckets=SHORT,
    registry=own,
)
job_seconds = Histogram(
    "nimbus_job_seconds", "How long jobs took.", ("job",), buckets=LONG, registry=own
)
job_failures = Counter(
    "nimbus_job_failures",
    "Jobs that ended with an error; most are tried again.",
    ("job",),
    registry=own,
)
calls = Counter(
    "nimbus_devportal_api_calls",
    "Calls that an upstream was asked for, by the class of their status.",
    ("product", "route", "plan", "environment", "status"),
    registry=own,
)
rate_limit_hits = Counter(
    "nimbus_devportal_rate_limit_hits",
    "Calls that were refused because of a limit or quota.",
    ("product", "route", "plan", "code"),
    registry=own,
)
refused_calls = Counter(
    "nimbus_devportal_refused_calls", "Calls that no upstream saw.", ("code",), registry=own
)
added_seconds = Histogram(
    "nimbus_gateway_latency_added_seconds",
    "What the gateway added to calls, over the time of the upstream.",
    buckets=SHORT,
    registry=own,
)
upstream_seconds = Histogram(
    "nimbus_gateway_upstream_seconds",
    "How long upstreams took.",
    ("product",),
    buckets=LONG,
    registry=own,
)
storing_seconds = Histogram(
    "nimbus_drain_batch_seconds", "How long it took to store a batch.", buckets=LONG, registry=own
)
storing_failures = Counter(
    "nimbus_drain_failures", "Batches that could not be stored; they are tried again.", registry=own
)


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something that stands in the database or on the disk; `read` gets a system session."""

    name: str
    help: str
    labels: tuple[str, ...]
    read: Read


_gauges: dict[str, Gauge] = {}


def gauge(name: str, explanation: str, *labels: str) -> Callable[[Read], Read]:
    """Register the function that reads a gauge's samples."""

    def register(read: Read) -> Read:
        _gauges[name] = Gauge(name, explanation, labels, read)
        return read

    return register


def observe(histogram: Histogram, microseconds: Sequence[int]) -> None:
    """Add many values to a histogram of seconds at once: a batch costs what its buckets do."""
    bounds = [bound * MICROSECONDS for bound in histogram._upper_bounds]  # noqa: SLF001 - no way to add many
    for bucket, count in Tally(map(bisect_left, repeat(bounds), microseconds)).items():
        histogram._buckets[bucket].inc(count)  # noqa: SLF001
    histogram._sum.inc(sum(microseconds) / MICROSECONDS)  # noqa: SLF001


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long the block takes, also when it fails."""
    started = clock.monotonic()
    try:
        yield
    finally:
        histogram.observe(clock.monotonic() - started)


async def page(session: AsyncSession | None) -> bytes:
    """All of it as Prometheus reads it. Without a session (the database does not answer) the
    gauges are left out, but for the one that says so.
    """
    up = GaugeMetricFamily("nimbus_database_up", "Whether the database answers.")
    up.add_metric((), float(session is not None))
    families: list[Metric] = [up]
    if session is not None:
        for one in _gauges.values():
            family = GaugeMetricFamily(one.name, one.help, labels=one.labels)
            for labels, value in await one.read(session):
                family.add_metric(labels, float(value))
            families.append(family)
    counted = own
    if folder := os.environ.get(FOLDER):
        counted = CollectorRegistry()
        MultiProcessCollector(counted, folder)  # type: ignore[no-untyped-call]
    asked = CollectorRegistry()
    asked.register(_Asked(families))
    return generate_latest(counted) + generate_latest(asked)


class _Asked(Collector):
    """Families that are known already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families
