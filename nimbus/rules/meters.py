# SPDX-License-Identifier: Apache-2.0
"""Meters of every kind: what a period's readings come to, which events a meter counts, and where
in an upstream's answer its units stand.

    count          how many events; of `api_calls` the sum of their units
    sum            their quantities added up
    max            the largest quantity
    last           the latest quantity; of two at one instant that of the greater event id
    unique         how many different values the meter's property has
    time_weighted  the level, weighted by how long it stood: unit × months

A time-weighted meter is fed with levels (gauges). A level stands from its instant until the next
one; the one that stood at the period's beginning is carried into it, however old it is. The unit
of time is a month of the subscription, which begins with its anchor in its time zone: on its day
and time of every month, or on the first where the plan bills by the calendar. So 100 GB that stand
for a whole billing month are 100 GB-months, in February as in May; for half of it they are 50, and
for a billing year 1,200. Each month's share is rounded to 12 decimals, half up; the shares are
added up exactly. So two halves of a period add up to the whole, to one unit of the twelfth decimal
for each month that is cut. Sources: spec 02 "Meter", spec 11 §9; the law in SQL: `usage_period`.
"""

import json
import re
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any, Final, Literal
from uuid import UUID

from nimbus.rules.money import EXACT
from nimbus.rules.periods import Period

Aggregation = Literal["count", "sum", "max", "last", "unique", "time_weighted"]
Mode = Literal["delta", "gauge"]
Filters = Mapping[str, Sequence[str]]
Path = tuple[str | int, ...]

FED_BY_CALLS = frozenset(("count", "sum", "max", "last"))
"""The aggregations of meters whose units a call can hold and use up."""
MODES: Final[Mapping[str, tuple[Mode, ...]]] = {
    "count": ("delta",),
    "sum": ("delta",),
    "max": ("delta", "gauge"),
    "last": ("gauge",),
    "unique": ("delta",),
    "time_weighted": ("gauge",),
}
"""The ways in which a meter's events may be meant, the first being what is meant by default."""

CALENDAR: Final = datetime(2000, 1, 1, tzinfo=UTC)
DECIMALS: Final = 12
MAX_PATH: Final = 200
MAX_PARTS: Final = 10
_TICK = Decimal(1).scaleb(-DECIMALS)
_MICROSECOND = timedelta(microseconds=1)
_PART = re.compile(r"([A-Za-z_][A-Za-z0-9_-]{0,63})((?:\[[0-9]{1,4}\])*)")
_QUANTITY = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,12}0*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reading:
    """One event of a meter: `member` is its value of the meter's property."""

    at: datetime
    event_id: UUID
    quantity: Decimal
    member: str | None = None


def period_value(
    aggregation: Aggregation,
    readings: Iterable[Reading],
    period: Period,
    anchor: datetime = CALENDAR,
) -> Decimal:
    """What all readings that a meter ever had come to in a half-open period: by brute force, the
    law that the database's sum is held against. Months are counted from `anchor`, in its zone.

    time_weighted, 100 from 1 May and 200 from 16 May 12:00, in May: 50 + 100 = 150.
    """
    known = sorted(readings, key=lambda one: (one.at, one.event_id))
    if aggregation == "time_weighted":
        return _weighted(known, period, anchor)
    inside = [one for one in known if one.at in period]
    if not inside:
        return Decimal(0)
    if aggregation == "count":
        return Decimal(len(inside))
    if aggregation == "sum":
        return reduce(EXACT.add, (one.quantity for one in inside))
    if aggregation == "max":
        return max(one.quantity for one in inside)
    if aggregation == "last":
        return inside[-1].quantity
    return Decimal(len({one.member for one in inside if one.member is not None}))


def matches(filters: Filters, properties: Mapping[str, Any] | None) -> bool:
    """Whether an event with these properties is one that the meter counts: each property that is
    filtered has one of the values. Values are compared as text: 3 is "3", true is "true".

    {"region": ["eu", "us"]}: yes to {"region": "eu", "size": 3}, no to {"region": "asia"} and {}.
    """
    return all(
        (value := property_text((properties or {}).get(name))) is not None and value in allowed
        for name, allowed in filters.items()
    )


def property_text(value: Any) -> str | None:
    """A property's value as it is compared and told apart: "a" → "a", 3 → "3", true → "true". None
    for what is missing, null, empty, a list or an object.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return None


def read_path(text: str) -> Path:
    """The steps of a path into a JSON document: `usage.total_tokens` → ("usage", "total_tokens"),
    `data[0].size` → ("data", 0, "size"); `$.` may stand before it. ValueError for any other text,
    and beyond MAX_PATH characters or MAX_PARTS steps.
    """
    steps: list[str | int] = []
    for part in text.removeprefix("$.").split("."):
        match = _PART.fullmatch(part)
        if match is None or len(text) > MAX_PATH:
            raise ValueError("a path such as usage.total_tokens or data[0].size")
        steps.append(match[1])
        steps += [int(number) for number in re.findall(r"[0-9]+", match[2])]
    if len(steps) > MAX_PARTS:
        raise ValueError(f"at most {MAX_PARTS} steps")
    return tuple(steps)


def quantity_at(document: Any, path: Path) -> Decimal | None:
    """The quantity at a path of a JSON document that was read with `parse_float=Decimal`; None
    when there is none, or none that can be counted: 532 and 0.5 can, -1, true and "532" can't.
    """
    for step in path:
        if isinstance(step, str):
            document = document.get(step) if isinstance(document, dict) else None
        else:
            known = isinstance(document, list) and step < len(document)
            document = document[step] if known else None
    if isinstance(document, bool) or not isinstance(document, int | Decimal):
        return None
    return read_quantity(format(Decimal(document), "f"))


def read_quantity(text: str) -> Decimal | None:
    """A quantity as events report it: not negative, at most 15 digits and 12 decimals; trailing
    zeros don't matter. None for any other text.
    """
    if not _QUANTITY.fullmatch(text):
        return None
    return Decimal(text.rstrip("0").rstrip(".") if "." in text else text)


def _weighted(known: list[Reading], period: Period, anchor: datetime) -> Decimal:
    """Unit × microseconds of each month, divided by the length of the whole month."""
    total = Decimal(0)
    for month in _months(period, anchor):
        inside = _common(month, period)
        weight = Decimal(0)
        for number, one in enumerate(known):
            until = known[number + 1].at if number + 1 < len(known) else period.ends_at
            stood = _overlap(one.at, until, inside)
            weight = EXACT.add(weight, EXACT.multiply(one.quantity, Decimal(stood)))
        length = (month.ends_at - month.starts_at) // _MICROSECOND
        total = EXACT.add(total, _divided(weight, length))
    return total


def _months(period: Period, anchor: datetime) -> Iterator[Period]:
    """The months from `anchor`, in its time zone, that a period touches; in UTC."""
    first, last = (at.astimezone(anchor.tzinfo) for at in (period.starts_at, period.ends_at))
    begins = 12 * (first.year - anchor.year) + first.month - anchor.month - 1
    passes = 12 * (last.year - anchor.year) + last.month - anchor.month
    for number in range(begins, passes + 1):
        yield Period(_after(anchor, number), _after(anchor, number + 1))


def _after(anchor: datetime, months: int) -> datetime:
    """The same day and time some months on, or the month's last day; of an hour that comes twice
    the second, and in one that is left out as if it were there.
    """
    year, month = divmod(12 * anchor.year + anchor.month - 1 + months, 12)
    day = min(anchor.day, monthrange(year, month + 1)[1])
    first = anchor.replace(year=year, month=month + 1, day=day, fold=0)
    second = first.replace(fold=1)
    return max(first.astimezone(UTC), second.astimezone(UTC))


def _common(one: Period, other: Period) -> Period:
    return Period(max(one.starts_at, other.starts_at), min(one.ends_at, other.ends_at))


def _overlap(since: datetime, until: datetime, inside: Period) -> int:
    """Microseconds from one instant to another that lie in a period."""
    stood = min(until, inside.ends_at) - max(since, inside.starts_at)
    return max(stood // _MICROSECOND, 0)


def _divided(weight: Decimal, length: int) -> Decimal:
    """Rounded half up to 12 decimals, from integers alone."""
    scaled = int(EXACT.scaleb(weight, DECIMALS))
    return EXACT.multiply(Decimal((2 * scaled + length) // (2 * length)), _TICK)
