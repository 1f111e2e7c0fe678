# SPDX-License-Identifier: Apache-2.0
"""What a call holds: never less than what any call can add to the bill, and what usage costs."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.invoicing import MeterUsage, usage_cost
from nimbus.rules.money import EXACT
from nimbus.rules.pricing import MODELS, Charge, Tier, amount, most
from nimbus.rules.spending import from_micro, hold, micro

D = Decimal
PRICES = st.decimals(0, 1_000, places=4)
TO_TEN = (Tier(D(10), unit_price=D(5)), Tier(None, unit_price=D(2)))


@st.composite
def charges(draw):
    bounds = sorted(draw(st.sets(st.integers(1, 60), max_size=3)))
    tiers = tuple(
        Tier(
            None if bound is None else D(bound),
            draw(PRICES),
            draw(st.sampled_from([D(0), D(7), D(100)])),
            draw(st.sampled_from([D(0), D(3)])),
        )
        for bound in (*bounds, None)
    )
    limits = sorted(draw(st.lists(PRICES, max_size=2)))
    return Charge(
        "tokens",
        draw(st.sampled_from(MODELS)),
        unit_price=draw(PRICES),
        tiers=tiers,
        package_size=draw(st.sampled_from([D(1), D("2.5"), D(100)])),
        package_price=draw(PRICES),
        rate=draw(PRICES),
        fixed_per_event=draw(PRICES),
        free_events=draw(st.none() | st.integers(0, 3)),
        included=draw(st.sampled_from([D(0), D(5), D("12.5")])),
        minimum=limits[0] if limits else None,
        maximum=limits[-1] if len(limits) == 2 else None,
    )


@given(
    charges(),
    st.lists(st.decimals(0, 80, places=2), max_size=3),
    st.integers(1, 60),
    st.decimals(0, 1, places=3),
)
def test_no_event_adds_more_than_its_bound_wherever_it_comes(charge, before, units, share):
    used = EXACT.multiply(share, units)
    start = sum(before, D(0))
    events = (*before, used) if used else before
    rise = amount(charge, start + used, events) - amount(charge, start, before)
    assert rise <= most(charge, D(units))


@pytest.mark.parametrize(
    ("charge", "units", "bound"),
    [
        (Charge("calls", "unit", unit_price=D("0.002"), included=D(10_000)), 3, "0.006"),
        (Charge("calls", "graduated", tiers=TO_TEN), 1, "5"),
        (Charge("calls", "graduated", tiers=TO_TEN), 11, "52"),
        (
            Charge("calls", "graduated", tiers=(TO_TEN[0], Tier(None, D(5), D(100)))),
            1,
            "105",
        ),
        (
            Charge(
                "calls",
                "volume",
                tiers=(Tier(D(10), unit_price=D(1)), Tier(None, unit_price=D(2))),
            ),
            1,
            "12",
        ),
        # A cheaper second tier takes the sum back; the way to the end of the first one counts.
        (Charge("calls", "volume", tiers=TO_TEN), 11, "50"),
        (Charge("calls", "package", package_size=D(100), package_price=D(5)), 1, "5"),
        (Charge("calls", "package", package_size=D(100), package_price=D(5)), 101, "10"),
        (Charge("calls", "percentage", rate=D("1.2"), fixed_per_event=D("0.1")), 50, "0.70"),
        (Charge("calls", "cost_plus", rate=D(20)), 10, "12"),
        (
            Charge(
                "calls",
                "stair_step",
                tiers=(Tier(D(10), flat_fee=D(75)), Tier(None, flat_fee=D(100))),
            ),
            1,
            "25",
        ),
        (Charge("calls", "unit", unit_price=D(1)), 0, "0"),
    ],
)
def test_the_most_an_event_can_cost(charge, units, bound):
    assert most(charge, D(units)) == D(bound)


def test_a_call_holds_the_sum_over_its_meters_in_millionths_of_a_minor_unit():
    calls = Charge("api_calls", "unit", unit_price=D("0.002"), included=D(10_000))
    reports = Charge("reports", "unit", unit_price=D("2.50"))
    assert hold((calls, reports), {"api_calls": 1}, "EUR") == 200_000
    assert hold((calls, reports), {"api_calls": 1, "reports": 3}, "EUR") == 750_200_000
    assert hold((calls,), {"api_calls": 1}, "JPY") == 2_000
    assert hold((replace(calls, unit_price=D("1e-12")),), {"api_calls": 1}, "EUR") == 1
    assert hold((), {"api_calls": 1}, "EUR") == 0


def test_usage_costs_what_it_adds_to_a_period_without_any():
    calls = Charge("api_calls", "unit", unit_price=D("0.002"), included=D(10_000))
    assert usage_cost((calls,), {"api_calls": MeterUsage(D(22_500))}) == 25
    assert usage_cost((calls,), {}) == 0
    least = Charge("api_calls", "unit", unit_price=D(1), minimum=D(10))
    costs = [usage_cost((least,), {"api_calls": MeterUsage(D(used))}) for used in (0, 9, 12)]
    assert costs == [0, 0, 2]
    opened = Charge("api_calls", "graduated", tiers=(Tier(None, unit_price=D(1), flat_fee=D(50)),))
    assert usage_cost((opened,), {"api_calls": MeterUsage(D(2))}) == 2


def test_a_millionth_of_a_minor_unit_is_exact():
    assert micro(D("0.000000000001"), "EUR") == D("0.0001")
    assert micro(D("1.5"), "KWD") == 1_500_000_000
    assert from_micro(D(200_000), "EUR") == D("0.002")
    assert from_micro(micro(D("0.1234567890123"), "JPY"), "JPY") == D("0.1234567890123")
