# SPDX-License-Identifier: Apache-2.0
"""Proration: a price cut at any instants still adds up to the price."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.money import Money
from nimbus.rules.periods import Anchor, Period, period
from nimbus.rules.proration import fraction, split_price

JANUARY = period(Anchor(datetime(2026, 1, 1, tzinfo=UTC), "UTC", "month", 1, calendar=False), 0)


def utc(year, month, day, hour=0):
    return datetime(year, month, day, hour, tzinfo=UTC)


def test_days_count_from_the_first_one_and_exclude_the_day_it_ends_on():
    august = Period(utc(2022, 8, 1), utc(2022, 9, 1))
    part = Period(utc(2022, 8, 10, 15), utc(2022, 9, 1))
    assert fraction(august, part, "day", "UTC") == Fraction(22, 31)


def test_days_are_those_of_the_zone():
    # Midnight in Amsterdam is 22:00 or 23:00 the day before in UTC.
    march = Period(utc(2026, 2, 28, 23), utc(2026, 3, 31, 22))
    part = Period(utc(2026, 3, 29, 22), march.ends_at)
    assert fraction(march, part, "day", "Europe/Amsterdam") == Fraction(2, 31)


def test_seconds_compare_lengths_exactly():
    february = Period(utc(2024, 2, 1), utc(2024, 3, 1))
    part = Period(utc(2024, 2, 1), utc(2024, 2, 16))
    assert fraction(february, part, "second", "UTC") == Fraction(15, 29)


def test_without_proration_a_part_costs_the_whole():
    part = Period(utc(2026, 1, 20), utc(2026, 2, 1))
    assert fraction(JANUARY, part, "none", "UTC") == 1


def test_a_part_outside_its_period_is_a_fault():
    with pytest.raises(ValueError, match="outside"):
        fraction(JANUARY, Period(utc(2025, 12, 31), utc(2026, 2, 1)), "day", "UTC")


def test_a_price_cut_by_the_day():
    parts = split_price(Money(10_000, "EUR"), JANUARY, (utc(2026, 1, 15),), "day", "UTC")
    assert [part.amount_minor for part in parts] == [4_516, 5_484]


def test_a_price_that_is_not_divided_goes_to_the_first_part():
    parts = split_price(Money(10_000, "EUR"), JANUARY, (utc(2026, 1, 15),), "none", "UTC")
    assert [part.amount_minor for part in parts] == [10_000, 0]


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.integers(0, 31 * 86_400 * 10**6), max_size=8),
    st.sampled_from(["second", "day", "none"]),
)
def test_any_cuts_add_up_to_the_undivided_price(price, offsets, basis):
    cuts = sorted(utc(2026, 1, 1) + timedelta(microseconds=offset) for offset in offsets)
    parts = split_price(Money(price, "EUR"), JANUARY, cuts, basis, "UTC")

    assert sum(part.amount_minor for part in parts) == price
    if basis != "none":
        ends = (JANUARY.starts_at, *cuts, JANUARY.ends_at)
        for part, a, b in zip(parts, ends, ends[1:], strict=False):
            share = fraction(JANUARY, Period(a, b), basis, "UTC")
            assert abs(part.amount_minor - share * price) <= 1
