# SPDX-License-Identifier: Apache-2.0
"""Periods tile time in every zone, and the anchor's day comes back after a short month."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import Refusal
from nimbus.rules.periods import (
    Anchor,
    Period,
    nominal_period,
    period,
    period_containing,
    quota_window,
)

ZONES = (
    "UTC",
    "Europe/Amsterdam",
    "Europe/London",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Antarctica/Troll",
)
LENGTHS = (("day", 1), ("week", 1), ("month", 1), ("quarter", 1), ("month", 6), ("year", 1))
A_YEAR = {"day": 366, "week": 53, "month": 12, "quarter": 4, "year": 1}
START, END = datetime(2009, 1, 1), datetime(2035, 1, 1)  # noqa: DTZ001 - hypothesis adds UTC
INSTANTS = st.datetimes(START, END, timezones=st.just(UTC))
ANCHORS = st.builds(
    lambda at, zone, length, calendar: Anchor(at, zone, *length, calendar),
    INSTANTS,
    st.sampled_from(ZONES),
    st.sampled_from((*LENGTHS, ("day", 10), ("week", 2), ("year", 3))),
    st.booleans(),
)


def local_days(anchor, count):
    zone = ZoneInfo(anchor.time_zone)
    return [period(anchor, n).starts_at.astimezone(zone).date().isoformat() for n in range(count)]


def at_local(zone, day, hour=0):
    return datetime.combine(date.fromisoformat(day), time(hour), ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: f"{length[1]}-{length[0]}")
def test_ten_years_of_periods_tile_time_without_gap_or_overlap(zone, length, soak):
    # Every start day of a leap year, at an hour that clock changes hit; else some, and month ends.
    every = 1 if soak.full else 41
    days = {date(2024, 1, 1) + timedelta(days=step) for step in range(0, 366, every)}
    days |= {date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 31), date(2024, 10, 27)}
    ten_years = 10 * A_YEAR[length[0]] // length[1]
    many = ten_years if soak.full else min(40, ten_years)
    for day in sorted(days):
        at = datetime.combine(day, time(2, 30), ZoneInfo(zone)).astimezone(UTC)
        for calendar in (False, True):
            anchor = Anchor(at, zone, *length, calendar)
            before = period(anchor, 0)
            assert before.starts_at == at
            for n in range(1, many + 1):
                this = period(anchor, n)
                assert before.ends_at == this.starts_at < this.ends_at
                before = this


@given(ANCHORS, st.integers(0, 200))
def test_period_n_follows_from_the_anchor_and_n_alone(anchor, n):
    this, after = period(anchor, n), period(anchor, n + 1)

    assert this.ends_at == after.starts_at
    # Only a local day that never was, on Samoa in 2011, is an empty period.
    assert this.starts_at < this.ends_at or (
        anchor.time_zone == "Pacific/Apia" and this.starts_at.year == 2011
    )
    assert period(anchor, n) == this


@given(ANCHORS, st.integers(0, 10 * 366 * 86_400))
def test_every_instant_lies_in_exactly_the_period_that_is_found(anchor, seconds):
    instant = anchor.at + timedelta(seconds=seconds)
    n, found = period_containing(anchor, instant)

    assert instant in found
    assert found == period(anchor, n)


@given(ANCHORS, st.integers(0, 60))
def test_the_last_microsecond_belongs_to_the_period_and_its_end_to_the_next(anchor, n):
    this, after = period(anchor, n), period(anchor, n + 1)
    if this.starts_at < this.ends_at < after.ends_at:
        last = this.ends_at - timedelta(microseconds=1)
        assert period_containing(anchor, last)[0] == n
        assert period_containing(anchor, this.ends_at)[0] == n + 1


def test_an_anchor_on_the_31st_survives_february():
    anchor = Anchor(at_local("UTC", "2023-01-31"), "UTC", "month", 1, calendar=False)
    assert local_days(anchor, 15) == [
        "2023-01-31",
        "2023-02-28",
        "2023-03-31",
        "2023-04-30",
        "2023-05-31",
        "2023-06-30",
        "2023-07-31",
        "2023-08-31",
        "2023-09-30",
        "2023-10-31",
        "2023-11-30",
        "2023-12-31",
        "2024-01-31",
        "2024-02-29",
        "2024-03-31",
    ]


def test_the_28th_of_february_is_a_28th_and_not_a_last_day():
    anchor = Anchor(at_local("UTC", "2023-02-28"), "UTC", "month", 1, calendar=False)
    assert {day[-2:] for day in local_days(anchor, 24)} == {"28"}


def test_a_year_from_the_leap_day_ends_on_the_28th_and_finds_the_29th_again():
    anchor = Anchor(at_local("UTC", "2020-02-29"), "UTC", "year", 1, calendar=False)
    assert local_days(anchor, 5)[1:] == ["2021-02-28", "2022-02-28", "2023-02-28", "2024-02-29"]
    century = Anchor(at_local("UTC", "2096-02-29"), "UTC", "year", 4, calendar=False)
    assert local_days(century, 2) == ["2096-02-29", "2100-02-28"]


def test_local_midnight_stays_midnight_when_the_clock_changes():
    zone = "Europe/Amsterdam"
    anchor = Anchor(at_local(zone, "2026-01-31"), zone, "month", 1, calendar=False)
    assert period(anchor, 1) == Period(
        datetime(2026, 2, 27, 23, tzinfo=UTC), datetime(2026, 3, 30, 22, tzinfo=UTC)
    )


def test_an_hour_that_the_clock_skips_moves_forward():
    zone = "Europe/Amsterdam"
    anchor = Anchor(at_local(zone, "2026-03-28", 2), zone, "day", 1, calendar=False)
    assert period(anchor, 1).starts_at == datetime(2026, 3, 29, 1, tzinfo=UTC)  # 03:00 local
    assert period(anchor, 2).starts_at == datetime(2026, 3, 30, 0, tzinfo=UTC)  # 02:00 again


def test_the_second_of_two_equal_hours_stays_the_start():
    second = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # 02:30 in Amsterdam, for the second time
    anchor = Anchor(second, "Europe/Amsterdam", "year", 1, calendar=False)
    assert period(anchor, 0).starts_at == second


def test_the_day_that_samoa_skipped_is_empty_and_holds_no_instant():
    zone = "Pacific/Apia"
    anchor = Anchor(at_local(zone, "2011-12-29", 10), zone, "day", 1, calendar=False)
    skipped = period(anchor, 1)
    assert skipped.starts_at == skipped.ends_at
    assert period_containing(anchor, skipped.starts_at)[0] == 2


def test_a_calendar_anchor_starts_with_a_part_of_its_first_period():
    zone = "Europe/Amsterdam"
    anchor = Anchor(at_local(zone, "2026-08-10", 15), zone, "month", 1, calendar=True)
    assert period(anchor, 0) == Period(anchor.at, at_local(zone, "2026-09-01"))
    assert nominal_period(anchor, 0).starts_at == at_local(zone, "2026-08-01")
    assert period(anchor, 1) == nominal_period(anchor, 1)


@pytest.mark.parametrize(
    ("interval", "first_end"),
    [
        ("day", "2026-08-13"),
        ("week", "2026-08-17"),  # a Monday
        ("month", "2026-09-01"),
        ("quarter", "2026-10-01"),
        ("year", "2027-01-01"),
    ],
)
def test_calendar_periods_end_where_the_calendar_does(interval, first_end):
    zone = "America/New_York"
    anchor = Anchor(at_local(zone, "2026-08-12", 15), zone, interval, 1, calendar=True)
    assert period(anchor, 0).ends_at == at_local(zone, first_end)


@pytest.mark.parametrize(
    ("zone", "instant", "begun"),
    [
        ("Asia/Kolkata", datetime(2026, 2, 28, 18, tzinfo=UTC), False),
        ("Asia/Kolkata", datetime(2026, 2, 28, 19, tzinfo=UTC), True),
        ("America/Bogota", datetime(2026, 3, 1, 0, tzinfo=UTC), False),
        ("America/Bogota", datetime(2026, 3, 1, 5, tzinfo=UTC), True),
    ],
)
def test_a_month_begins_at_local_midnight(zone, instant, begun):
    anchor = Anchor(datetime(2026, 2, 10, tzinfo=UTC), zone, "month", 1, calendar=True)
    assert (period_containing(anchor, instant)[0] == 1) is begun


def test_quota_windows_are_local_calendar_windows_or_the_cycle():
    zone = "Europe/Amsterdam"
    anchor = Anchor(at_local(zone, "2026-01-20", 9), zone, "month", 1, calendar=False)
    instant = at_local(zone, "2026-05-15", 12)
    windows = {kind: quota_window(kind, anchor, instant) for kind in ("day", "week", "month")}

    assert windows["day"] == Period(at_local(zone, "2026-05-15"), at_local(zone, "2026-05-16"))
    assert windows["week"] == Period(at_local(zone, "2026-05-11"), at_local(zone, "2026-05-18"))
    assert windows["month"] == Period(at_local(zone, "2026-05-01"), at_local(zone, "2026-06-01"))
    assert quota_window("year", anchor, instant).ends_at == at_local(zone, "2027-01-01")
    assert quota_window("cycle", anchor, instant) == period(anchor, 3)


@given(ANCHORS, st.sampled_from(["day", "week", "month", "year", "cycle"]), st.integers(0, 10**8))
def test_a_quota_window_holds_the_instant_it_is_asked_for(anchor, kind, seconds):
    instant = anchor.at + timedelta(seconds=seconds)
    window = quota_window(kind, anchor, instant)

    assert instant in window
    assert quota_window(kind, anchor, window.ends_at).starts_at == window.ends_at


def test_an_anchor_that_cannot_be_is_refused():
    start = datetime(2026, 5, 1, tzinfo=UTC)
    for zone, count, field in (("Mars/Olympus", 1, "time_zone"), ("UTC", 0, "interval_count")):
        with pytest.raises(Refusal) as refused:
            Anchor(start, zone, "month", count, calendar=False)
        assert refused.value.fields[0].field == field
    with pytest.raises(ValueError, match="aware"):
        Anchor(start.replace(tzinfo=None), "UTC", "month", 1, calendar=False)
    anchor = Anchor(start, "UTC", "month", 1, calendar=False)
    with pytest.raises(ValueError, match="from 0"):
        period(anchor, -1)
    with pytest.raises(ValueError, match="before the anchor"):
        period_containing(anchor, start - timedelta(microseconds=1))
