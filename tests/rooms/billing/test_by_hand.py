# SPDX-License-Identifier: Apache-2.0
"""Estimates worked out by hand: each pricing model, and what bends a bill, in three currencies."""

from datetime import UTC, datetime

import pytest

from nimbus.billing.estimate_schemas import EstimateBody
from nimbus.billing.service.estimates import Offer, estimated

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NO_PLAN = Offer("Base fee", None, {})


def one(meter="calls", **terms):
    return [{"meter": meter, **terms}]


def tiers(*bounds):
    names = ("up_to", "unit_price", "flat_fee", "rate")
    return [
        {name: text for name, text in zip(names, bound, strict=False) if text} for bound in bounds
    ]


STEPS = tiers(("10", "", "20"), ("50", "", "75"), ("", "", "200"))
BY_HAND = {
    # 1,000 × 0.01 + 5 + 1,000 × 0.008 + 500 × 0.005
    "graduated": (
        {
            "charges": one(
                model="graduated",
                tiers=tiers(("1000", "0.01", "5"), ("2000", "0.008"), ("", "0.005")),
            ),
            "usage": {"calls": "2500"},
        },
        (2550, 0, 2550),
    ),
    # 2,500 × 0.007 + 3
    "volume": (
        {
            "charges": one(
                model="volume", tiers=tiers(("1000", "0.01"), ("5000", "0.007", "3"), ("", "0.001"))
            ),
            "usage": {"calls": "2500"},
        },
        (2050, 0, 2050),
    ),
    # 1,002 less 1: three packages of 500 begun
    "package": (
        {
            "charges": one(model="package", package_size="500", package_price="4.99", included="1"),
            "usage": {"calls": "1002"},
        },
        (1497, 0, 1497),
    ),
    "stair_step at its bound": (
        {"charges": one(model="stair_step", tiers=STEPS), "usage": {"calls": "10"}},
        (2000, 0, 2000),
    ),
    "stair_step above it": (
        {"charges": one(model="stair_step", tiers=STEPS), "usage": {"calls": "10.000000000001"}},
        (7500, 0, 7500),
    ),
    # the first is free; 200 × 1.5 % + 0.25 + 50 × 1.5 % + 0.25
    "percentage": (
        {
            "charges": one(model="percentage", rate="1.5", fixed_per_event="0.25", free_events=1),
            "usage": {"calls": ["100", "200", "50"]},
        },
        (425, 0, 425),
    ),
    # 1,000 × 2 % + 1,500 × 1 %
    "graduated_percentage": (
        {
            "charges": one(
                model="graduated_percentage", tiers=tiers(("1000", "", "", "2"), ("", "", "", "1"))
            ),
            "usage": {"calls": "2500"},
        },
        (3500, 0, 3500),
    ),
    # 12.34 × 1.2 = 14.808
    "cost_plus": (
        {"charges": one(model="cost_plus", rate="20"), "usage": {"calls": "12.34"}},
        (1481, 0, 1481),
    ),
    "capacity by its peak": (
        {"charges": one(model="capacity", tiers=STEPS), "usage": {"calls": ["9", "51", "30"]}},
        (20000, 0, 20000),
    ),
    # 49 + 10 + 41 = 100; less 10 %; 21 % of 90; of 108.90 credit pays 105, the wallet 3.90
    "nothing used": (
        {
            "base_fee": "49",
            "minimum_commitment": "100",
            "charges": one(unit_price="0.5", minimum="10"),
            "coupons": [{"percent": "10"}],
            "tax": {"rate": "21"},
            "credit_notes": ["100", "5"],
            "wallet": "10",
        },
        (9000, 1890, 10890),
    ),
    # 333 × 1.5 = 499.5 → 500 yen; 10 % of 5,400
    "yen": (
        {
            "currency": "JPY",
            "base_fee": "4900",
            "charges": one(unit_price="1.5"),
            "usage": {"calls": "333"},
            "tax": {"rate": "10"},
        },
        (5400, 540, 5940),
    ),
    # 1.234 + 7 × 0.0005 = 0.0035 → 0.004 dinar; 5 % of 1.238 = 0.0619
    "dinar": (
        {
            "currency": "KWD",
            "base_fee": "1.234",
            "charges": one(unit_price="0.0005"),
            "usage": {"calls": "7"},
            "tax": {"rate": "5"},
        },
        (1238, 62, 1300),
    ),
    # 15 of 29 days of a leap February
    "a late start in a leap year": (
        {
            "base_fee": "29",
            "period": {"from": "2024-02-01", "to": "2024-03-01", "service_from": "2024-02-15"},
        },
        (1500, 0, 1500),
    ),
    "a late start without proration": (
        {
            "base_fee": "29",
            "proration": "none",
            "period": {"from": "2024-02-01", "to": "2024-03-01", "service_from": "2024-02-15"},
        },
        (2900, 0, 2900),
    ),
    # (10^15 − 1) × 0.000000000001 = 1,000 less a millionth of a millionth
    "very much of very little": (
        {"charges": one(unit_price="0.000000000001"), "usage": {"calls": "999999999999999"}},
        (100000, 0, 100000),
    ),
    # usage 150 capped at 125; 50 % off the meter; then 100 off what is left, which is 62.50 + 20
    "a cap and two coupons that eat all": (
        {
            "base_fee": "20",
            "charges": one(unit_price="1", maximum="125"),
            "usage": {"calls": "150"},
            "coupons": [{"amount": "100"}, {"percent": "50", "meters": ["calls"]}],
            "tax": {"rate": "21"},
        },
        (0, 0, 0),
    ),
    # Belgian numbers that are valid are charged nothing, and say why
    "reverse charge": (
        {
            "base_fee": "100",
            "period": {"from": "2026-05-01", "to": "2026-06-01"},
            "tax": {"buyer": {"country": "BE", "vat_number": "BE0428759497"}},
        },
        (10000, 0, 10000),
    ),
    "a consumer in Hungary": (
        {
            "base_fee": "100",
            "period": {"from": "2026-05-01", "to": "2026-06-01"},
            "tax": {"buyer": {"country": "HU"}},
        },
        (10000, 2700, 12700),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_was_worked_out_by_hand_comes_out_of_the_estimate(name):
    asked, sums = BY_HAND[name]
    view = estimated(EstimateBody.model_validate(asked), NO_PLAN, "NL", NOW)
    assert (view.subtotal_minor, view.tax_minor, view.total_minor) == sums
    assert view.due_minor == (0 if name == "nothing used" else view.total_minor)
