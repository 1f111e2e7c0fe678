# SPDX-License-Identifier: Apache-2.0
"""Meters: worked numbers, and what holds for all readings."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.meters import (
    CALENDAR,
    Reading,
    matches,
    period_value,
    quantity_at,
    read_path,
    read_quantity,
)
from nimbus.rules.periods import Period

MAY = Period(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
HALF = datetime(2026, 5, 16, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ZONES = ("UTC", "Europe/Amsterdam", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")


def level(at: datetime, value: str, number: int = 1) -> Reading:
    return Reading(at, UUID(int=number), Decimal(value))


def weighted(readings: list[Reading], period: Period, zone: str = "UTC") -> Decimal:
    """By the months of the calendar in a time zone."""
    return from_anchor(readings, period, CALENDAR.replace(tzinfo=ZoneInfo(zone)))


def from_anchor(readings: list[Reading], period: Period, anchor: datetime) -> Decimal:
    return period_value("time_weighted", readings, period, anchor)


def test_a_level_that_stands_for_the_whole_month_is_its_value_in_every_month() -> None:
    since = level(datetime(2024, 1, 1, tzinfo=UTC), "100")
    for year, month in ((2026, 2), (2026, 5), (2028, 2), (2026, 12)):
        ends = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        period = Period(datetime(year, month, 1, tzinfo=UTC), ends)
        assert weighted([since], period) == 100
    year = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert weighted([since], year) == 1200


def test_levels_are_weighted_by_how_long_they_stood() -> None:
    assert weighted([level(MAY.starts_at, "100"), level(HALF, "200", 2)], MAY) == 150
    assert weighted([level(HALF, "200")], MAY) == 100
    assert weighted([level(HALF, "200"), level(HALF, "0", 2)], MAY) == 0
    assert weighted([level(MAY.ends_at, "200")], MAY) == 0


@pytest.mark.parametrize(
    ("anchor", "starts", "ends"),
    [
        ("2026-01-31T10:00:00", "2026-02-28T10:00:00", "2026-03-31T10:00:00"),
        ("2026-01-31T10:00:00", "2028-01-31T10:00:00", "2028-02-29T10:00:00"),
        ("2026-05-10T12:34:56", "2026-03-10T12:34:56", "2026-04-10T12:34:56"),
        ("2026-05-25T02:30:00", "2026-09-25T02:30:00", "2026-10-25T02:30:00"),
    ],
)
def test_a_billing_month_is_a_month(anchor: str, starts: str, ends: str) -> None:
    zone = ZoneInfo("Europe/Amsterdam")
    first, begins, passes = (
        datetime.fromisoformat(text).replace(tzinfo=zone, fold=1) for text in (anchor, starts, ends)
    )
    since = level(datetime(2024, 1, 1, tzinfo=UTC), "100")
    assert (
        from_anchor([since], Period(begins.astimezone(UTC), passes.astimezone(UTC)), first) == 100
    )


def test_a_month_is_one_of_the_subscription_s_time_zone() -> None:
    amsterdam = Period(datetime(2026, 4, 30, 22, tzinfo=UTC), datetime(2026, 5, 31, 22, tzinfo=UTC))
    since = level(datetime(2024, 1, 1, tzinfo=UTC), "100")
    assert weighted([since], amsterdam, "Europe/Amsterdam") == 100
    assert weighted([since], amsterdam) != 100
    march = Period(datetime(2026, 2, 28, 23, tzinfo=UTC), datetime(2026, 3, 31, 22, tzinfo=UTC))
    assert weighted([since], march, "Europe/Amsterdam") == 100  # an hour shorter


LEVELS = st.lists(
    st.tuples(
        st.integers(-(40 * 86_400_000_000), 70 * 86_400_000_000),
        st.decimals(0, 10**9, places=6),
    ),
    max_size=12,
)


@given(LEVELS, st.integers(0, 31 * 86_400_000_000), st.sampled_from(ZONES), st.randoms())
def test_the_parts_of_a_period_add_up_to_the_whole(
    levels: list[tuple[int, Decimal]], cut: int, zone: str, chance: random.Random
) -> None:
    readings = [
        Reading(MAY.starts_at + timedelta(microseconds=at), UUID(int=number), value)
        for number, (at, value) in enumerate(levels)
    ]
    whole = weighted(readings, MAY, zone)
    middle = MAY.starts_at + timedelta(microseconds=cut)
    parts = Period(MAY.starts_at, middle), Period(middle, MAY.ends_at)
    chance.shuffle(readings)
    assert weighted(readings, MAY, zone) == whole
    assert abs(sum(weighted(readings, part, zone) for part in parts) - whole) <= Decimal("2e-12")
    if readings:
        assert 0 <= whole <= max(one.quantity for one in readings) * 2


def test_the_other_kinds_look_at_the_period_alone() -> None:
    readings = [
        level(MAY.starts_at - DAY, "9"),
        Reading(MAY.starts_at, UUID(int=1), Decimal("2.5"), "ada"),
        Reading(HALF, UUID(int=3), Decimal(1), "bob"),
        Reading(HALF, UUID(int=2), Decimal(4), "ada"),
        level(MAY.ends_at, "9"),
    ]
    found = {
        kind: period_value(kind, readings, MAY)  # type: ignore[arg-type]  # they are such
        for kind in ("count", "sum", "max", "last", "unique")
    }
    assert found == {"count": 3, "sum": Decimal("7.5"), "max": 4, "last": 1, "unique": 2}
    assert period_value("max", [], MAY) == 0


@pytest.mark.parametrize(
    ("filters", "properties", "expected"),
    [
        ({}, None, True),
        ({"region": ["eu"]}, None, False),
        ({"region": ["eu"]}, {"region": "eu", "size": 3}, True),
        ({"region": ["eu"]}, {"region": "us"}, False),
        ({"size": ["3"]}, {"size": 3}, True),
        ({"big": ["true"]}, {"big": True}, True),
        ({"big": ["1"]}, {"big": True}, False),
        ({"region": ["eu"], "size": ["3"]}, {"region": "eu", "size": 4}, False),
        ({"region": ["null", ""]}, {"region": None}, False),
    ],
)
def test_filters_let_through_what_has_one_of_the_values(
    filters: dict[str, list[str]], properties: dict[str, object] | None, expected: bool
) -> None:
    assert matches(filters, properties) is expected


def test_a_path_leads_to_a_quantity() -> None:
    document = {"usage": {"total-tokens": 532}, "data": [[1, {"size": Decimal("0.5")}]]}
    assert quantity_at(document, read_path("usage.total-tokens")) == 532
    assert quantity_at(document, read_path("$.data[0][1].size")) == Decimal("0.5")
    assert quantity_at(document, read_path("data[1].size")) is None
    assert quantity_at(document, read_path("usage.total-tokens.x")) is None


@pytest.mark.parametrize(
    "text", ["", ".", "$", "a..b", "a[", "a[x]", "a[-1]", "a b", "[0]", "a" * 201, "a.é", "a\n"]
)
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a path such as|at most"):
        read_path(text)


@given(st.decimals(0, 999_999_999_999_999, places=12))
def test_every_quantity_reads_as_what_it_is(value: Decimal) -> None:
    assert read_quantity(format(value, "f")) == value


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e3", "1.", ".5", "1,5", " 1", "NaN", "1" * 16])
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert read_quantity(text) is None
