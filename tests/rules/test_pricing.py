# SPDX-License-Identifier: Apache-2.0
"""Prices: every model of the catalog, monotone and continuous where it says so, and refusals."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import Refusal
from nimbus.rules.pricing import (
    MODELS,
    TIERED,
    Charge,
    Tier,
    amount,
    billable,
    scaled,
    validate,
)

D = Decimal
PRICES = st.decimals(0, 1_000, places=6)
QUANTITIES = st.decimals(0, 10**9, places=3)
OPEN = (Tier(None, unit_price=D(1)),)


@st.composite
def tiers(draw, flat=True):
    bounds = sorted(draw(st.sets(st.integers(1, 10**6), max_size=5)))
    return tuple(
        Tier(
            None if bound is None else D(bound),
            unit_price=draw(PRICES),
            flat_fee=draw(PRICES) if flat else D(0),
        )
        for bound in (*bounds, None)
    )


def test_only_what_is_over_the_included_amount_costs():
    calls = Charge("api_calls", "unit", unit_price=D("0.002"), included=D(10_000))
    assert billable(calls, D(22_500)) == 12_500
    assert amount(calls, D(22_500)) == 25
    assert amount(calls, D(10_000)) == 0
    assert amount(calls, D(10_001)) == D("0.002")


def test_cost_plus_adds_its_rate_to_the_reported_cost():
    assert amount(Charge("cost", "cost_plus", rate=D(20)), D("12.345")) == D("14.814")


def test_stair_step_and_capacity_cost_the_reached_tier_s_fee():
    steps = (Tier(D(100), flat_fee=D(75)), Tier(None, flat_fee=D(100)))
    for model in ("stair_step", "capacity"):
        charge = Charge("members", model, tiers=steps)
        assert [amount(charge, D(n)) for n in (1, 100, 101)] == [75, 75, 100]


def test_the_event_that_crosses_the_free_amount_pays_on_the_part_above():
    charge = Charge(
        "volume", "percentage", rate=D(1), fixed_per_event=D(5), free_amount=D(15), included=D(4)
    )
    # 4 is included, 15 is free: the event of 6 pays on 5 of it, the event of 1 on all of it.
    assert amount(charge, D(25), [D(4), D(10), D(4), D(6), D(1)]) == D("5.05") + D("5.01")


def test_an_allowance_that_is_used_up_covers_no_further_event():
    charge = Charge("volume", "percentage", fixed_per_event=D(5), free_amount=D(15))
    assert amount(charge, D(15), [D(15), D(0)]) == 5


def test_without_events_a_percentage_sees_one():
    charge = Charge("volume", "percentage", rate=D("1.2"), fixed_per_event=D("0.10"))
    assert amount(charge, D(50)) == D("0.70")
    assert amount(charge, D(0)) == 0


def test_an_included_amount_that_is_not_used_up_reaches_no_tier():
    charge = Charge("calls", "graduated", tiers=(Tier(None, flat_fee=D(10)),), included=D(5))
    assert [amount(charge, D(n)) for n in (0, 5, 6)] == [0, 0, 10]
    assert amount(replace(charge, included=D(0)), D(0)) == 10


@given(st.sampled_from(MODELS), tiers(flat=False), PRICES, st.integers(1, 10**6))
def test_overage_of_zero_is_zero(model, tiers, price, included):
    charge = Charge(
        "calls",
        model,
        unit_price=price,
        tiers=tiers if model in TIERED else (),
        package_size=D(10),
        package_price=price,
        rate=D(5),
        fixed_per_event=price,
        included=D(included),
    )
    assert amount(charge, D(included)) == 0


@given(tiers(), QUANTITIES, QUANTITIES)
def test_a_graduated_price_never_falls_with_usage(tiers, one, other):
    charge = Charge("calls", "graduated", tiers=tiers)
    low, high = sorted((one, other))
    assert amount(charge, low) <= amount(charge, high)


@given(tiers(flat=False), st.data())
def test_a_graduated_price_without_fees_is_continuous(tiers, data):
    charge = Charge("calls", "graduated", tiers=tiers)
    bound = data.draw(st.sampled_from([tier.up_to or D(1) for tier in tiers]))
    step = D("0.000000000001")
    dearest = max(tier.unit_price for tier in tiers)
    assert amount(charge, bound + step) - amount(charge, bound) <= step * dearest


@given(tiers(), QUANTITIES)
def test_a_graduated_price_is_the_sum_of_its_tiers(tiers, quantity):
    # An independent reading: what lies between two bounds costs that tier's price.
    total, below = Fraction(0), Fraction(0)
    for number, tier in enumerate(tiers):
        top = Fraction(quantity if tier.up_to is None else min(tier.up_to, quantity))
        if number == 0 or top > below:
            total += (top - below) * Fraction(tier.unit_price) + Fraction(tier.flat_fee)
        below = max(below, top)
    assert Fraction(amount(Charge("calls", "graduated", tiers=tiers), quantity)) == total


@given(tiers(), QUANTITIES, PRICES, PRICES)
def test_minimum_and_maximum_bound_every_price(tiers, quantity, one, other):
    low, high = sorted((one, other))
    charge = Charge("calls", "volume", tiers=tiers, minimum=low, maximum=high)
    assert low <= amount(charge, quantity) <= high


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_packages_are_counted_up_whatever_the_fraction(thousandths, size):
    charge = Charge("calls", "package", package_size=D(size), package_price=D(1))
    packages = amount(charge, D(thousandths).scaleb(-3))
    assert packages == -(-thousandths // (size * 1_000))


def test_the_largest_usage_at_the_finest_price_stays_exact():
    charge = Charge("calls", "unit", unit_price=D("999999.999999999999"))
    exact = amount(charge, D("999999999999999.999999999999"))
    assert Fraction(exact) == Fraction(10**27 - 1, 10**12) * Fraction(10**18 - 1, 10**12)


@pytest.mark.parametrize("events", [(), (D(-1), D(5))])
def test_negative_usage_is_refused(events):
    quantity = D(4) if events else D(-1)
    with pytest.raises(Refusal) as refused:
        amount(Charge("calls", "percentage", rate=D(1)), quantity, events)
    assert refused.value.fields[0].code == "negative"


@pytest.mark.parametrize("model", sorted(TIERED))
def test_usage_above_a_last_tier_with_an_end_is_refused(model):
    charge = Charge("calls", model, tiers=(Tier(D(100)), Tier(D(200))))
    amount(charge, D(200))
    with pytest.raises(Refusal) as refused:
        amount(charge, D(201))
    assert refused.value.fields[0].code == "above_last_tier"


RISING = st.one_of(
    st.builds(lambda price: Charge("calls", "unit", unit_price=price), PRICES),
    st.builds(lambda rate: Charge("calls", "cost_plus", rate=rate), st.decimals(0, 100, places=2)),
    st.builds(
        lambda size, price: Charge("calls", "package", package_size=size, package_price=price),
        st.decimals("0.5", 1_000, places=1),
        PRICES,
    ),
    st.builds(
        lambda rate, fee, free: Charge(
            "calls", "percentage", rate=rate, fixed_per_event=fee, free_amount=free
        ),
        st.decimals(0, 100, places=2),
        PRICES,
        st.none() | PRICES,
    ),
    st.builds(lambda rising: Charge("calls", "graduated", tiers=rising), tiers()),
)


BOUNDS = st.fixed_dictionaries(
    {
        "minimum": st.none() | PRICES,
        "maximum": st.none() | PRICES,
        "included": st.integers(0, 10**6).map(D),
    }
)


@given(RISING, BOUNDS, QUANTITIES, QUANTITIES)
def test_more_usage_never_costs_less_where_the_model_says_so(charge, bounds, one, other):
    charge = replace(charge, **bounds)
    low, high = sorted((one, other))
    assert amount(charge, low) <= amount(charge, high)


@given(st.decimals(0, 100, places=2), PRICES, QUANTITIES)
def test_a_price_by_the_unit_and_on_cost_has_no_steps(rate, price, quantity):
    step = D("0.000000000001")
    for charge in (
        Charge("calls", "unit", unit_price=price),
        Charge("calls", "cost_plus", rate=rate),
        Charge("calls", "percentage", rate=rate),
    ):
        dearest = max(price, 1 + rate / 100)
        assert amount(charge, quantity + step) - amount(charge, quantity) <= step * dearest


@given(RISING, QUANTITIES)
def test_the_whole_share_of_a_charge_is_the_charge(charge, quantity):
    assert scaled(charge, Fraction(1)) == charge


@given(tiers(), st.integers(0, 10**6), st.fractions("1/100", "99/100"))
def test_a_share_of_a_charge_gives_its_share_and_keeps_its_prices(steps, included, share):
    charge = Charge("calls", "graduated", tiers=steps, included=D(included))
    part = scaled(charge, share)
    assert abs(Fraction(part.included) - included * share) <= Fraction(1, 2)
    assert part.included == part.included.to_integral_value()
    for ours, theirs in zip(part.tiers, steps, strict=True):
        exact = Fraction(theirs.flat_fee) * share
        assert abs(Fraction(ours.flat_fee) - exact) < Fraction(1, 10**12)
        assert ours.unit_price == theirs.unit_price


UNIT = Charge("calls", "unit", unit_price=D(1))
GRADUATED = Charge("calls", "graduated", tiers=(Tier(D(10)), Tier(None)))


@pytest.mark.parametrize(
    ("charge", "field", "code"),
    [
        (replace(UNIT, model="flat"), "model", "unknown_model"),
        (replace(UNIT, unit_price=D(-1)), "unit_price", "negative"),
        (replace(UNIT, unit_price=D("1E-13")), "unit_price", "too_many_places"),
        (replace(UNIT, unit_price=D("NaN")), "unit_price", "invalid_decimal"),
        (replace(UNIT, included=D(-1)), "included", "negative"),
        (replace(UNIT, minimum=D(-1)), "minimum", "negative"),
        (replace(UNIT, minimum=D(2), maximum=D(1)), "minimum", "above_maximum"),
        (replace(UNIT, free_events=-1), "free_events", "negative"),
        (replace(UNIT, rate=D(10_001)), "rate", "too_large"),
        (replace(UNIT, tiers=OPEN), "tiers", "not_allowed"),
        (replace(UNIT, model="package"), "package_size", "too_small"),
        (replace(GRADUATED, tiers=()), "tiers", "wrong_number"),
        (replace(GRADUATED, tiers=(Tier(D(10)),)), "tiers.0.up_to", "last_tier_open"),
        (replace(GRADUATED, tiers=(Tier(None), Tier(None))), "tiers.0.up_to", "last_tier_open"),
        (
            replace(GRADUATED, tiers=(Tier(D(10)), Tier(D(10)), Tier(None))),
            "tiers.1.up_to",
            "not_rising",
        ),
        (replace(GRADUATED, tiers=(Tier(D(0)), Tier(None))), "tiers.0.up_to", "not_rising"),
        (replace(GRADUATED, tiers=(Tier(None, flat_fee=D(-1)),)), "tiers.0.flat_fee", "negative"),
        (replace(GRADUATED, tiers=(Tier(None, rate=D(-1)),)), "tiers.0.rate", "negative"),
    ],
)
def test_a_charge_that_cannot_be_billed_is_refused_by_field(charge, field, code):
    with pytest.raises(Refusal) as refused:
        validate(charge, "charges.0")
    assert refused.value.code == "validation_failed"
    assert refused.value.fields[0].field == f"charges.0.{field}"
    assert refused.value.fields[0].code == code


@pytest.mark.parametrize(
    "charge",
    [
        UNIT,
        GRADUATED,
        replace(UNIT, model="package", package_size=D(20), package_price=D(10)),
        replace(UNIT, model="percentage", rate=D("1.2"), free_events=3, free_amount=D(500)),
        replace(UNIT, minimum=D(1), maximum=D(1)),
        *(Charge("calls", model, tiers=OPEN) for model in sorted(TIERED)),
    ],
    ids=lambda charge: charge.model,
)
def test_a_charge_that_can_be_billed_is_accepted(charge):
    validate(charge)
