# SPDX-License-Identifier: Apache-2.0
"""Coupons take off what they say, from the lines in their scope, and never below zero."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import Refusal
from nimbus.rules.bill import add_up
from nimbus.rules.coupons import Coupon, discounts, validate
from nimbus.rules.invoicing import LineDraft
from nimbus.rules.periods import Period
from nimbus.rules.tax import TaxTreatment

MAY = Period(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
DUTCH = TaxTreatment("S", Decimal(21), "NL", None)
METERS = ("calls", "assets", "reports")


def line(amount_minor, meter=None, source=None):
    price = Decimal(amount_minor).scaleb(-2)
    return LineDraft("Other", meter, "usage", Decimal(1), price, amount_minor, MAY, source)


LINES = st.lists(
    st.builds(line, st.integers(-(10**6), 10**7), st.sampled_from((None, *METERS))), max_size=8
)
COUPONS = st.lists(
    st.one_of(
        st.builds(
            lambda percent, meters: Coupon("p", percent=percent, meters=meters),
            st.decimals(0, 100, places=3),
            st.none() | st.frozensets(st.sampled_from(METERS), min_size=1),
        ),
        st.builds(
            lambda minor, meters: Coupon("a", amount_minor=minor, meters=meters),
            st.integers(0, 10**7),
            st.none() | st.frozensets(st.sampled_from(METERS), min_size=1),
        ),
    ),
    max_size=4,
)


@given(LINES, COUPONS)
def test_no_line_goes_below_zero_and_no_coupon_takes_from_others_than_its_own(lines, coupons):
    left = [one.amount_minor for one in lines]
    for off in discounts(lines, coupons, "EUR"):
        left[off.line] -= off.amount_minor
        assert off.amount_minor > 0
        assert left[off.line] >= 0


@given(LINES, COUPONS)
def test_the_bill_adds_up_whatever_the_coupons(lines, coupons):
    bill = add_up(
        lines, "EUR", coupons=coupons, treatment=DUTCH, credit_minor=700, wallet_minor=900
    )
    off = sum(one.amount_minor for one in bill.discounts)
    assert bill.totals.subtotal_minor == sum(one.amount_minor for one in lines) - off
    paid = bill.credit_used_minor + bill.wallet_used_minor + bill.due_minor
    assert paid - bill.surplus_minor == bill.totals.total_minor
    assert min(paid, bill.surplus_minor) == 0
    assert min(bill.credit_used_minor, bill.wallet_used_minor, bill.due_minor) >= 0


@given(st.integers(1, 10**7), st.integers(0, 10**7))
def test_an_amount_is_taken_whole_or_all_there_is(price, off):
    taken = discounts([line(price)], [Coupon("c", amount_minor=off)], "EUR")
    assert sum(one.amount_minor for one in taken) == min(price, off)


def test_percentages_follow_one_another():
    twenty, ten = (Coupon(str(percent), percent=Decimal(percent)) for percent in (20, 10))
    taken = discounts([line(10_000)], [twenty, ten], "EUR")
    assert [one.amount_minor for one in taken] == [2_000, 800]


def test_coupons_of_meters_go_first_then_those_of_plans_then_the_rest():
    plan = UUID(int=1)
    lines = [line(10_000, "calls"), line(10_000, source=plan)]
    coupons = [
        Coupon("all", percent=Decimal(50)),
        Coupon("plan", amount_minor=10_000, sources=frozenset({plan})),
        Coupon("meter", amount_minor=4_000, meters=frozenset({"calls"})),
    ]
    taken = [(one.coupon, one.line, one.amount_minor) for one in discounts(lines, coupons, "EUR")]
    assert taken == [("meter", 0, 4_000), ("plan", 1, 10_000), ("all", 0, 3_000)]


def test_vat_is_on_what_is_left_after_the_coupons():
    bill = add_up(
        [line(850_000)], "EUR", coupons=[Coupon("c", amount_minor=750_000)], treatment=DUTCH
    )
    assert (bill.totals.tax_minor, bill.due_minor) == (21_000, 121_000)


def test_credit_pays_before_the_wallet_and_both_after_vat():
    bill = add_up([line(10_000)], "EUR", treatment=DUTCH, credit_minor=2_000, wallet_minor=50_000)
    used = bill.credit_used_minor, bill.wallet_used_minor, bill.due_minor
    assert used == (2_000, 10_100, 0)
    with pytest.raises(ValueError, match="not negative"):
        add_up([line(1)], "EUR", wallet_minor=-1)


@pytest.mark.parametrize(
    ("coupon", "field"),
    [
        (Coupon("c"), "coupon"),
        (Coupon("c", percent=Decimal(5), amount_minor=5), "coupon"),
        (Coupon("c", percent=Decimal("100.1")), "coupon.percent"),
        (Coupon("c", percent=Decimal(-1)), "coupon.percent"),
        (Coupon("c", amount_minor=-1), "coupon.amount"),
    ],
)
def test_a_coupon_that_says_nothing_or_too_much_is_refused(coupon, field):
    with pytest.raises(Refusal) as refused:
        validate(coupon)
    assert refused.value.fields[0].field == field
