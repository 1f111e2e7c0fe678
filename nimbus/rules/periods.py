# SPDX-License-Identifier: Apache-2.0
"""Billing periods and quota windows: where they begin and end.

Period n is a function of the anchor and n alone, never of period n-1 (spec 09, I-02), so periods
tile time without gap or overlap (I-01) and an anchor on the 31st comes back after February. The
calendar is that of the anchor's time zone; instants go in and come out as aware UTC datetimes.
Periods are half-open: an event at `ends_at` belongs to the next one (U-09).
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nimbus.errors import field_error

Interval = Literal["day", "week", "month", "quarter", "year"]
QuotaPeriod = Literal["day", "week", "month", "year", "cycle"]

_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_DAYS = {"day": 1, "week": 7}
_SHORTEST_DAYS = {"day": 1, "week": 7, "month": 28, "quarter": 89, "year": 365}


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_at` up to, not including, `ends_at`; both aware, in UTC."""

    starts_at: datetime
    ends_at: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.starts_at <= instant < self.ends_at


@dataclass(frozen=True, slots=True)
class Anchor:
    """What fixes all periods of one subscription.

    `at`: the instant of the start. `time_zone`: an IANA name. `interval` × `interval_count` is one
    period. `calendar`: periods end at calendar boundaries (midnight, Monday, the 1st, the quarter,
    1 January) instead of returning to the day and time of the start; the first is then shorter.
    """

    at: datetime
    time_zone: str
    interval: Interval
    interval_count: int
    calendar: bool

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("an anchor needs a time zone aware instant")
        if self.interval_count < 1:
            raise field_error("interval_count", "too_small", "An interval counts from 1.")
        zone(self.time_zone)


def zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name such as "Europe/Amsterdam"; a 422 on `time_zone` if unknown."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as unknown:
        raise field_error("time_zone", "unknown_time_zone", "Not an IANA time zone.") from unknown


def period(anchor: Anchor, n: int) -> Period:
    """Period `n` (from 0) of the anchor.

    31 January 2026 00:00 Amsterdam, monthly: n=0 is 30 Jan 23:00Z to 27 Feb 23:00Z, n=1 runs to
    30 Mar 22:00Z: local midnight of the 28th, then of the 31st again, in summer time. With
    `calendar` and a start on 10 August, n=0 is 10 August to 1 September. A local time that a
    clock change skips moves forward by the skipped hour. A day that never was (Samoa, 30 December
    2011) is an empty period: it has no instant, holds no usage and costs nothing.
    """
    whole = nominal_period(anchor, n)
    if n == 0:
        return Period(anchor.at.astimezone(UTC), whole.ends_at)
    return whole


def nominal_period(anchor: Anchor, n: int) -> Period:
    """The undivided period that `period(anchor, n)` is part of: what a full fee pays for.

    Differs from it only for the first of a calendar anchor: start 10 August → 1 August to
    1 September, so that proration can say 22 of 31 days.
    """
    if n < 0:
        raise ValueError("periods count from 0")
    return Period(_boundary(anchor, n), _boundary(anchor, n + 1))


def period_containing(anchor: Anchor, instant: datetime) -> tuple[int, Period]:
    """The number and period in which `instant` (aware) lies; ValueError before the anchor.

    Anchor 31 January, monthly: 28 February 12:00 local lies in n=1.
    """
    if instant < anchor.at:
        raise ValueError("no period before the anchor")
    days = (instant - anchor.at) // timedelta(days=1)
    # More than enough for the shortest interval; then back to the one that holds the instant.
    n = days // (_SHORTEST_DAYS[anchor.interval] * anchor.interval_count) + 2
    while _boundary(anchor, n) > instant and n > 0:
        n -= 1
    return n, period(anchor, n)


def quota_window(kind: QuotaPeriod, anchor: Anchor, instant: datetime) -> Period:
    """The window whose counter `instant` uses: a calendar day, week (from Monday), month or year
    in the anchor's time zone, or the billing cycle itself.

    "month" at 15 May 2026 in Amsterdam → 30 Apr 22:00Z to 31 May 22:00Z. Spec 09, Q-05.
    """
    if kind == "cycle":
        return period_containing(anchor, instant)[1]
    window = Anchor(instant, anchor.time_zone, kind, 1, calendar=True)
    return nominal_period(window, 0)


@lru_cache(maxsize=4096)
def _boundary(anchor: Anchor, n: int) -> datetime:
    """Where period n begins, in UTC. One bill asks a dozen times for the same few."""
    local = anchor.at.astimezone(zone(anchor.time_zone))
    if anchor.calendar:
        local = datetime.combine(
            _calendar_start(local.date(), anchor.interval), time(0), local.tzinfo
        )
    steps = n * anchor.interval_count
    if anchor.interval in _DAYS:
        day = local.date() + timedelta(days=steps * _DAYS[anchor.interval])
    else:
        day = _add_months(local.date(), steps * _MONTHS[anchor.interval])
    return datetime.combine(day, local.timetz()).astimezone(UTC)


def _calendar_start(day: date, interval: Interval) -> date:
    if interval == "day":
        return day
    if interval == "week":
        return day - timedelta(days=day.weekday())
    if interval == "month":
        return day.replace(day=1)
    if interval == "quarter":
        return day.replace(month=day.month - (day.month - 1) % 3, day=1)
    return day.replace(month=1, day=1)


def _add_months(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
