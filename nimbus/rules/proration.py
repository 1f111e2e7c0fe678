# SPDX-License-Identifier: Apache-2.0
"""What part of a period's price a part of the period costs, as an exact fraction.

By the second, by the day of the subscription's zone, or not at all, as the plan says (spec 04).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from nimbus.rules.money import Money, round_half_up
from nimbus.rules.periods import Period, zone

Basis = Literal["second", "day", "none"]

WHOLE = Fraction(1)


def fraction(whole: Period, part: Period, basis: Basis, time_zone: str) -> Fraction:
    """The share of `whole` that `part`, which lies within it, stands for.

    "day" counts local dates from the part's first day up to, not including, the day it ends on:
    10 August to 1 September of an August → 22/31. "second" compares lengths: 1 to 16 February 2024
    00:00 → 15/29 (exact to the microsecond). "none" does not divide: 1.
    """
    if part.starts_at < whole.starts_at or part.ends_at > whole.ends_at:
        raise ValueError("the part reaches outside the period")
    if basis == "none" or part == whole:
        return WHOLE
    if basis == "second":
        return Fraction(_microseconds(part), _microseconds(whole))
    return Fraction(_days(part, time_zone), _days(whole, time_zone))


def split_price(
    price: Money, whole: Period, cuts: Sequence[datetime], basis: Basis, time_zone: str
) -> tuple[Money, ...]:
    """Divide the price of `whole` over the parts between the rising instants `cuts`.

    The parts add up to the price (spec 09, I-08), each within a minor unit of its exact share,
    and a later cut leaves the parts before it as they were: each part is the difference of the
    rounded prices up to its two ends. 100.00 for January, cut on the 15th, by the day → 45.16 and
    54.84. With "none" the first part carries all.
    """
    ends = (*cuts, whole.ends_at)
    reached = [
        round_half_up(
            price.amount_minor * fraction(whole, Period(whole.starts_at, end), basis, time_zone)
        )
        for end in ends
    ]
    return tuple(Money(b - a, price.currency) for a, b in pairwise((0, *reached)))


def _days(span: Period, time_zone: str) -> int:
    local = zone(time_zone)
    return (span.ends_at.astimezone(local).date() - span.starts_at.astimezone(local).date()).days


def _microseconds(span: Period) -> int:
    return (span.ends_at - span.starts_at) // timedelta(microseconds=1)
