# SPDX-License-Identifier: Apache-2.0
"""Coupons: what they take off which line.

First those of some meters, then those of some plans, then those of the whole invoice; within one
kind in the order given (spec 04 "line coupons, invoice coupons"). Each takes from what the ones
before it left, in proportion over the lines in its scope, to the minor unit. How often a coupon
counts is decided before: only those that count on this invoice come here.
Source: https://getlago.com/docs/guide/coupons, the cases of tests/cases/billing_examples.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from nimbus.errors import field_error
from nimbus.rules.invoicing import LineDraft
from nimbus.rules.money import Money, check_price, round_half_up, split


@dataclass(frozen=True, slots=True)
class Coupon:
    """`percent` off, or `amount_minor` off: one of the two.

    `meters`: only lines of these; `sources`: only lines of these plans and add-ons.
    """

    key: str
    percent: Decimal | None = None
    amount_minor: int | None = None
    meters: frozenset[str] | None = None
    sources: frozenset[UUID] | None = None


@dataclass(frozen=True, slots=True)
class Discount:
    """Coupon `coupon` takes `amount_minor` (above zero) off the line at place `line` (from 0)."""

    coupon: str
    line: int
    amount_minor: int


def discounts(
    lines: Sequence[LineDraft], coupons: Sequence[Coupon], currency: str
) -> tuple[Discount, ...]:
    """What the coupons take off, by line; all amounts in minor units of `currency`.

    100.00, 50.00, 30.00, 20.00 and a coupon of 10.00 → 5.00, 2.50, 1.50, 1.00. Coupons of 10.00
    and 110.00 on 100.00 → 10.00 and 90.00: nothing goes below zero. 20 % and then 10 % → 28 %.
    Lines of a correction (below zero) lower what a coupon is counted on, and get none.
    """
    left = [line.amount_minor for line in lines]
    found: list[Discount] = []
    for coupon in sorted(coupons, key=_order):
        within = [place for place, line in enumerate(lines) if _concerns(coupon, line)]
        base = sum(left[place] for place in within)
        off = _off(coupon, base)
        weights = [max(0, left[place]) for place in within]
        if off <= 0:
            continue
        shares = split(Money(off, currency), weights)
        for place, share in zip(within, shares, strict=True):
            if share.amount_minor:
                found.append(Discount(coupon.key, place, share.amount_minor))
                left[place] -= share.amount_minor
    return tuple(found)


def validate(coupon: Coupon, path: str = "coupon") -> None:
    """Refuse, with a 422 on the field, a coupon that takes nothing, twice, or more than all."""
    if (coupon.percent is None) == (coupon.amount_minor is None):
        raise field_error(path, "one_of", "A coupon has a percentage or an amount.")
    if coupon.percent is not None:
        check_price(coupon.percent, f"{path}.percent")
        if coupon.percent > 100:
            raise field_error(f"{path}.percent", "too_large", "At most 100 percent.")
    elif coupon.amount_minor is not None and coupon.amount_minor < 0:
        raise field_error(f"{path}.amount", "negative", "A coupon's amount is never negative.")


def _order(coupon: Coupon) -> int:
    if coupon.meters is not None:
        return 0
    return 1 if coupon.sources is not None else 2


def _concerns(coupon: Coupon, line: LineDraft) -> bool:
    meter = coupon.meters is None or line.meter_key in coupon.meters
    return meter and (coupon.sources is None or line.source in coupon.sources)


def _off(coupon: Coupon, base: int) -> int:
    if coupon.percent is not None:
        return round_half_up(Fraction(coupon.percent) * base / 100)
    return min(coupon.amount_minor or 0, base)
