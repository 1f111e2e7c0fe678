# SPDX-License-Identifier: Apache-2.0
"""The law of quotas: changes of plan, roll-over, ends, thresholds."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.quotas import (
    Quota,
    added,
    best_of,
    ceiling,
    crossed,
    limit,
    own_units,
    roll_over,
    whole,
)

UNITS = st.integers(0, 1000)
DENY = Quota(amount=100, policy="deny")


def deny(amount: int | None, *, cap: int = 0, windows: int = 1) -> Quota:
    """A quota that ends at its amount, and hands on at most `cap` units."""
    return Quota(amount=amount, policy="deny", roll_over=cap, roll_over_windows=windows)


@pytest.mark.parametrize(
    ("amount", "best", "before", "own"),
    [
        (100, 100, "0", 100),
        (250, 250, "80", 170),
        (100, 100, "100", 0),
        (50, 100, "30", 50),
        (50, 100, "70.5", 29),
        (100, None, "400", 100),
    ],
)
def test_a_count_that_begins_anew_allows_what_the_best_plan_leaves(
    amount: int, best: int | None, before: str, own: int
) -> None:
    assert own_units(deny(amount), best, Decimal(before)) == own


def test_what_is_not_refused_over_the_limit_keeps_its_amount() -> None:
    for policy in ("warn", "allow", "overage"):
        quota = Quota(amount=100, policy=policy)  # type: ignore[arg-type]
        assert own_units(quota, 100, Decimal(100)) == 100
    capped = Quota(amount=100, policy="overage", overage_cap=20)
    assert own_units(capped, 100, Decimal(100)) == 0


@given(st.lists(st.tuples(UNITS, UNITS), min_size=1, max_size=20))
def test_no_sequence_of_counts_allows_more_than_the_best_plan(steps: list[tuple[int, int]]) -> None:
    """Each change counts anew; whatever is wanted under each plan, the best plan bounds the sum."""
    best: int | None = 0
    before = Decimal(0)
    for amount, wanted in steps:
        best = best_of(best, amount)
        own = own_units(deny(amount), best, before)
        assert own is not None
        before += min(wanted, own)
    assert before <= max(amount for amount, _ in steps)


@pytest.mark.parametrize(
    ("quota", "rolled", "used", "handed"),
    [
        (deny(100, cap=80, windows=2), [30], "50", [80, 0]),
        (deny(100, cap=80, windows=2), [30], "20", [80, 0]),
        (deny(100, cap=200, windows=2), [30], "20", [100, 10]),
        (deny(100, cap=200), [30], "20", [100]),
        (deny(100, cap=200), [30], "129.5", [0]),
        (deny(100), [], "0", []),
    ],
)
def test_the_oldest_units_are_used_first_and_the_rest_rolls_over_up_to_the_bound(
    quota: Quota, rolled: list[int], used: str, handed: list[int]
) -> None:
    assert roll_over(quota, quota.amount, rolled, Decimal(used)) == handed


@given(UNITS, UNITS, st.integers(1, 4), st.lists(UNITS, min_size=1, max_size=24))
def test_what_rolls_over_is_bounded_and_no_unit_is_used_twice(
    amount: int, cap: int, windows: int, wanted: list[int]
) -> None:
    quota = deny(amount, cap=cap, windows=windows)
    rolled: list[int] = []
    used_in_all = 0
    for number, want in enumerate(wanted, 1):
        allowed = limit(quota, amount, rolled, 0)
        assert allowed is not None
        assert allowed <= amount + min(cap, windows * amount)
        used = min(want, allowed)
        used_in_all += used
        rolled = roll_over(quota, amount, rolled, Decimal(used))
        assert sum(rolled) <= cap
        assert used_in_all <= number * amount


def test_a_plan_that_keeps_less_uses_and_hands_on_less_of_what_rolled_over() -> None:
    smaller = deny(100, cap=10)

    assert limit(smaller, 100, [50], 0) == 110
    assert roll_over(deny(100, cap=10, windows=2), 100, [50], Decimal(100)) == [10, 0]


@pytest.mark.parametrize(
    ("policy", "cap", "end"),
    [
        ("deny", None, 100),
        ("overage", 20, 120),
        ("overage", 0, 100),
        ("overage", None, None),
        ("warn", None, None),
        ("allow", None, None),
    ],
)
def test_deny_ends_at_the_limit_and_overage_at_its_cap(
    policy: str, cap: int | None, end: int | None
) -> None:
    assert ceiling(100, policy, cap) == end
    assert ceiling(None, policy, cap) is None


@pytest.mark.parametrize(
    ("used", "of", "told", "reached"),
    [
        ("49.9", 100, 0, []),
        ("50", 100, 0, [50]),
        ("79", 100, 50, []),
        ("80", 100, 50, [80]),
        ("100", 100, 0, [50, 80, 100]),
        ("300", 100, 100, []),
        ("0", 0, 0, []),
        ("1", 0, 0, [50, 80, 100]),
        ("5", None, 0, []),
    ],
)
def test_each_threshold_is_told_once_where_it_is_reached(
    used: str, of: int | None, told: int, reached: list[int]
) -> None:
    assert crossed(Decimal(used), of, told) == reached


def test_add_ons_raise_an_amount_and_unlimited_stays_so() -> None:
    assert added(100, 50, 2) == 200
    assert added(None, 50, 2) is None
    assert added(100, None, 1) is None
    assert limit(DENY, 100, [], 7) == 107
    assert whole(Decimal("9.2")) == 10
