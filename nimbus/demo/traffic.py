# SPDX-License-Identifier: Apache-2.0
"""How a customer's programs call an API: by the hour of the day and the day of the week, with the
errors and refusals of real life. The same seed gives the same calls.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv4Address
from itertools import accumulate
from typing import Literal
from zoneinfo import ZoneInfo

from nimbus.rules.periods import Period

Rhythm = Literal["office", "visitors", "night"]

# Weights of the hours of a day in the customer's time zone, and of the days from Monday on.
HOURS: dict[Rhythm, tuple[int, ...]] = {
    "office": (0, 0, 0, 0, 0, 0, 3, 18, 40, 55, 58, 52, 38, 48, 56, 54, 46, 28, 8, 0, 0, 0, 0, 0),
    "visitors": (
        *(0, 0, 0, 0, 0, 0, 6, 18, 24, 28, 30, 34),
        *(38, 36, 32, 30, 32, 38, 46, 52, 54, 40, 16, 0),
    ),
    "night": (0, 60, 90, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
}
DAYS: dict[Rhythm, tuple[int, ...]] = {
    "office": (100, 106, 108, 104, 88, 12, 8),
    "visitors": (80, 82, 86, 92, 110, 130, 120),
    "night": (100, 100, 100, 100, 100, 90, 90),
}
# Route → weight among a program's reads, median of the upstream's time in ms, bytes of an answer.
READS = {
    "/farms": (12, 9, 2_400),
    "/turbines": (30, 14, 5_200),
    "/turbines/{turbine_id}": (34, 6, 900),
    "/turbines/{turbine_id}/measurements": (16, 38, 14_000),
    "/alerts": (22, 8, 1_300),
    "/reports": (5, 12, 1_800),
}
WRITES_MS = {"/turbines": 22, "/reports": 640}
NOT_FOUND_ONE_IN, INVALID_ONE_IN = 60, 140
# Besides the billable calls, one of so many: failed at the upstream; refused.
FAILED_ONE_IN, REFUSED_ONE_IN = 300, 250
# Every few weeks the upstream has some bad hours, in which one call of so many fails.
INCIDENT_DAYS, INCIDENT_HOURS, INCIDENT_ONE_IN = 38, 3, 5
REFUSALS = {
    ("rate_limited", 429): 6,
    ("insufficient_scope", 403): 2,
    ("route_not_found", 404): 1,
}
CALLS_WITH_A_DEAD_KEY = 40
ADDED_US = (180, 900)  # what the gateway adds
SPREAD = 0.45  # of the upstream's times: how far they lie apart

Instant = Callable[[int], datetime]
"""When a program makes its next call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One of a customer's programs, with a key of its own for a part of its past.

    `share` of the calls against the shares of the others; `reads` the paths that it mostly calls;
    `months` of the past, the first and the one behind the last in which it calls (None: it still
    does). What has ended was revoked.
    """

    name: str
    share: int
    reads: tuple[str, ...]
    rhythm: Rhythm = "office"
    months: tuple[int, int | None] = (0, None)
    address: str = "203.0.113.24"  # an address for documents (RFC 5737)
    rate_per_minute: int | None = None

    def calls_in(self, month: int) -> bool:
        """Whether it has a key in this month, counted from 0."""
        first, end = self.months
        return first <= month and (end is None or month < end)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the past; `refusal` is empty where it was served. Times in microseconds."""

    at: datetime
    program: int
    method: str
    path: str
    status: int
    upstream_us: int
    added_us: int
    bytes_out: int
    ip: IPv4Address
    meters: tuple[tuple[str, Decimal], ...] = ()
    refusal: str = ""

    @property
    def billable(self) -> bool:
        """Whether it counts: it was served, and the upstream did not fail."""
        return self.status < 500 and not self.refusal


class Traffic:
    """The calls of one customer's programs, period by period."""

    def __init__(self, programs: Sequence[Program], time_zone: str, seed: str) -> None:
        self._programs = programs
        self._zone = ZoneInfo(time_zone)
        self._chance = random.Random(seed)  # noqa: S311 - the same data every time is the point
        self._weights = [list(accumulate(READS[path][0] for path in one.reads)) for one in programs]

    def of_period(
        self, period: Period, month: int, *, calls: int, assets: range, reports: int
    ) -> list[Call]:
        """All calls of a whole period in their order, `calls` of them billable.

        `assets` are the numbers that the customer's assets grow through in it.
        """
        chance = self._chance
        running = [n for n, one in enumerate(self._programs) if one.calls_in(month)]
        shares = [self._programs[n].share for n in running]
        clocks = {one: self._hours(one.rhythm, period) for one in self._programs}

        def instant(program: int) -> datetime:
            hours, weights = clocks[self._programs[program]]
            [hour] = chance.choices(hours, cum_weights=weights)
            return hour + timedelta(seconds=3600 * chance.random())

        made = [
            self._read(instant(program), program)
            for program in chance.choices(running, shares, k=calls - len(assets) - reports)
        ]
        built = sorted(instant(running[0]) for _ in assets)
        for at, number in zip(built, assets, strict=True):
            meters = (("assets", Decimal(number)),)
            made.append(self._write(at, running[0], "/turbines", meters))
        for _ in range(reports):
            meters = (("reports", Decimal(1)),)
            made.append(self._write(instant(running[-1]), running[-1], "/reports", meters))
        bad = self._incident(period)
        besides = [
            *self._failures(made, running, bad, instant),
            *self._refusals(len(made), running, instant),
            *self._with_dead_keys(month, period),
        ]
        made += [call for call in besides if call.at in period]
        return sorted(made, key=lambda call: call.at)

    def _failures(
        self, made: list[Call], running: list[int], bad: Period, instant: Instant
    ) -> Iterator[Call]:
        """What the upstream failed to answer: now and then, and in its bad hours."""
        chance = self._chance
        for _ in range(len(made) // FAILED_ONE_IN):
            program = chance.choice(running)
            yield self._failed(instant(program), program)
        for call in made:
            if call.at in bad and not chance.randrange(INCIDENT_ONE_IN):
                yield self._failed(call.at + timedelta(milliseconds=40), call.program)

    def _refusals(self, calls: int, running: list[int], instant: Instant) -> Iterator[Call]:
        """What was refused; what is too fast is so for a few calls within a second."""
        chance = self._chance
        for _ in range(calls // REFUSED_ONE_IN):
            program = chance.choice(running)
            at = instant(program)
            [(code, status)] = chance.choices(list(REFUSALS), list(REFUSALS.values()))
            for number in range(chance.randint(2, 6) if code == "rate_limited" else 1):
                later = at + number * timedelta(milliseconds=90)
                yield self._refused(later, program, code, status)

    def _with_dead_keys(self, month: int, period: Period) -> Iterator[Call]:
        """A program whose key was revoked goes on for some days before somebody notices."""
        for program, one in enumerate(self._programs):
            if one.months[1] == month:
                for _ in range(CALLS_WITH_A_DEAD_KEY):
                    later = timedelta(days=3 * self._chance.random())
                    at = period.starts_at + later
                    yield self._refused(at, program, "api_key_revoked", 401)

    def _read(self, at: datetime, program: int) -> Call:
        chance = self._chance
        paths = self._programs[program].reads
        [path] = chance.choices(paths, cum_weights=self._weights[program])
        _, median, size = READS[path]
        status = 200
        if path == "/turbines/{turbine_id}" and not chance.randrange(NOT_FOUND_ONE_IN):
            status, size = 404, 180
        elif not chance.randrange(INVALID_ONE_IN):
            status, size = 422, 310
        return self._call(at, program, ("GET", path), status=status, median_ms=median, size=size)

    def _write(
        self, at: datetime, program: int, path: str, meters: tuple[tuple[str, Decimal], ...]
    ) -> Call:
        made = self._call(
            at, program, ("POST", path), status=201, median_ms=WRITES_MS[path], size=420
        )
        return replace(made, meters=meters)

    def _failed(self, at: datetime, program: int) -> Call:
        status = self._chance.choice((502, 503, 504))
        median = 10_000 if status == 504 else 900
        return self._call(
            at, program, ("GET", "/alerts"), status=status, median_ms=median, size=120
        )

    def _refused(self, at: datetime, program: int, code: str, status: int) -> Call:
        call = self._call(at, program, ("GET", "/turbines"), status=status, median_ms=0, size=260)
        return replace(call, refusal=code, upstream_us=0)

    def _call(
        self,
        at: datetime,
        program: int,
        route: tuple[str, str],
        *,
        status: int,
        median_ms: int,
        size: int,
    ) -> Call:
        chance = self._chance
        return Call(
            at=at,
            program=program,
            method=route[0],
            path=route[1],
            status=status,
            upstream_us=int(median_ms * 1000 * chance.lognormvariate(0, SPREAD)),
            added_us=chance.randint(*ADDED_US),
            bytes_out=int(size * (1 + chance.random())),
            ip=_address(self._programs[program].address),
        )

    def _hours(self, rhythm: Rhythm, period: Period) -> tuple[list[datetime], list[int]]:
        """The hours of a period, and their weights added up."""
        hours, weights = [], []
        at = period.starts_at
        while at < period.ends_at:
            local = at.astimezone(self._zone)
            hours.append(at)
            weights.append(HOURS[rhythm][local.hour] * DAYS[rhythm][local.weekday()])
            at += timedelta(hours=1)
        return hours, list(accumulate(weights))

    def _incident(self, period: Period) -> Period:
        """The bad hours of the period; of some periods there are none."""
        begins = period.starts_at + timedelta(days=self._chance.random() * INCIDENT_DAYS)
        return Period(begins, begins + timedelta(hours=INCIDENT_HOURS))


@lru_cache
def _address(text: str) -> IPv4Address:
    return IPv4Address(text)
