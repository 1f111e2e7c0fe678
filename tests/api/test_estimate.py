# SPDX-License-Identifier: Apache-2.0
"""The estimate over HTTP: open to anyone, right to the cent, and never a fault, whatever comes."""

import json
import os
import random

import pytest

from nimbus.base import clock
from tests.support import examples_of_bills  # noqa: F401 - registers its examples
from tests.support.bills import START, settings, sold
from tests.support.examples import asked_ids, asks
from tests.support.nonsense import FULL, spoiled

__all__ = ["settings", "sold"]

pytestmark = pytest.mark.anyio

ESTIMATE = "/api/billing/estimate"
UNIT = {"meter": "calls", "unit_price": "0.002", "included": "10000"}
TIERS = {"meter": "calls", "model": "graduated"}
WHOLE = {"from": "2026-05-01", "to": "2026-06-01"}
REFUSED = [
    ({"usage": {"calls": "-1"}, "charges": [UNIT]}, "usage.calls"),
    ({"usage": {"calls": ["1", "-1"]}, "charges": [UNIT]}, "usage.calls.1"),
    ({"usage": {"calls": 5}, "charges": [UNIT]}, "usage.calls"),
    ({"usage": {"calls": "1e9"}, "charges": [UNIT]}, "usage.calls"),
    ({"usage": {"calls": "9" * 19}, "charges": [UNIT]}, "usage.calls"),
    ({"usage": {"calls": "0.0000000000001"}, "charges": [UNIT]}, "usage.calls"),
    ({"usage": {"other": "1"}, "charges": [UNIT]}, "usage.other"),
    ({"already_billed": {"other": {}}, "charges": [UNIT]}, "already_billed.other"),
    (
        {"already_billed": {"calls": {"amount": "-1"}}, "charges": [UNIT]},
        "already_billed.calls.amount",
    ),
    ({"coupons": [{"percent": "5", "meters": ["other"]}]}, "coupons.0.meters"),
    ({"coupons": [{"percent": "101"}]}, "coupons.0.percent"),
    ({"coupons": [{"amount": "-1"}]}, "coupons.0.amount"),
    ({"coupons": [{}]}, "coupons.0"),
    ({"coupons": [{"percent": "5", "amount": "5"}]}, "coupons.0"),
    ({"charges": [UNIT, UNIT]}, "charges.1.meter"),
    ({"charges": [UNIT | {"model": "flat"}]}, "charges.0.model"),
    ({"charges": [UNIT | {"unit_price": "-0.1"}]}, "charges.0.unit_price"),
    ({"charges": [UNIT | {"currency": "USD"}]}, "charges.0.currency"),
    ({"charges": [TIERS]}, "charges.0.tiers"),
    ({"charges": [TIERS | {"tiers": [{"up_to": "10"}]}]}, "charges.0.tiers.0.up_to"),
    (
        {"charges": [TIERS | {"tiers": [{"up_to": "10"}, {"up_to": "9"}, {}]}]},
        "charges.0.tiers.1.up_to",
    ),
    ({"charges": [TIERS | {"tiers": [{}, {"up_to": "9"}]}]}, "charges.0.tiers.0.up_to"),
    ({"currency": "XYZ"}, "currency"),
    ({"currency": "JPY", "base_fee": "0.5"}, "base_fee"),
    ({"base_fee": "-1"}, "base_fee"),
    ({"base_fee": "9" * 30}, "base_fee"),
    ({"minimum_commitment": "0.001"}, "minimum_commitment"),
    ({"wallet": "-1"}, "wallet"),
    ({"credit_notes": "-1"}, "credit_notes"),
    ({"credit_notes": ["1", "x"]}, "credit_notes.1"),
    ({"plan": "no-such-plan"}, "plan"),
    ({"proration": "hour"}, "proration"),
    ({"period": {"from": "2026-06-01", "to": "2026-05-01"}}, "period.to"),
    ({"period": {"from": "2026-06-01", "to": "2026-06-01"}}, "period.to"),
    ({"period": {"from": "2026-06-01"}}, "period.to"),
    ({"period": {"from": "0001-01-01", "to": "2026-05-01"}}, "period.from"),
    ({"period": {"from": "2026-05-01", "to": "9999-12-31"}}, "period.to"),
    ({"period": {"from": "2000-01-01", "to": "2026-05-01"}}, "period.to"),
    ({"period": {"from": "2026-02-30", "to": "2026-05-01"}}, "period.from"),
    ({"period": {"from": "2026-05-01T00:00:00", "to": "2026-06-01"}}, "period.from"),
    ({"period": WHOLE | {"service_from": "2026-04-30"}}, "period.service_from"),
    ({"period": WHOLE | {"service_to": "2026-06-02"}}, "period.service_to"),
    (
        {"period": WHOLE | {"service_from": "2026-05-09", "service_to": "2026-05-09"}},
        "period.service_to",
    ),
    ({"tax": {}}, "tax"),
    ({"tax": {"rate": "21", "buyer": {"country": "NL"}}}, "tax"),
    ({"tax": {"rate": "101"}}, "tax.rate"),
    ({"tax": {"buyer": {"country": "nl"}}}, "tax.buyer.country"),
    (
        {
            "tax": {"buyer": {"country": "NL"}},
            "period": {"from": "2014-01-01", "to": "2014-02-01"},
        },
        "period.to",
    ),
    ({"wat": 1}, "wat"),
]
SEED = int(os.environ.get("TEST_SEED", "20260520"))


async def test_every_worked_example_comes_out_to_the_cent_for_a_visitor(api):
    clock.set_instant(START)
    for case_id in asked_ids():
        for ask in asks(case_id):
            if ask.seller != "NL":
                continue
            answer = await api.post(ESTIMATE, json=ask.body)
            body = answer.json()
            if ask.refused is not None:
                assert answer.status_code == 422
                assert body["errors"][0]["field"] == ask.refused
                continue
            assert answer.status_code == 200, (case_id, body)
            for name, wanted in ask.answer.items():
                if name == "lines":
                    lines = [line["amount_minor"] for line in body["lines"]]
                    assert len(lines) == len(wanted), case_id
                    pairs = zip(lines, wanted, strict=True)
                    assert all(want in (..., line) for line, want in pairs), case_id
                else:
                    assert body[name] == wanted, (case_id, name)


async def test_the_reference_invoice_follows_from_the_plan_and_what_was_used(api, sold):
    clock.set_instant(START)
    body = {
        "plan": "starter",
        "usage": {"api_calls": "22500", "assets": "25", "reports": "8"},
        "period": WHOLE,
        "tax": {"buyer": {"country": "NL"}},
    }
    answer = (await api.post(ESTIMATE, json=body)).json()

    assert [line["amount_minor"] for line in answer["lines"]] == [4_900, 2_500, 2_250, 2_000]
    assert answer["lines"][0] == {
        "kind": "Subscription",
        "meter": None,
        "description": "Starter, 1–31 May 2026",
        "quantity": "1",
        "unit_price": "49",
        "amount_minor": 4_900,
    }
    assert answer["taxes"] == [
        {"category": "S", "rate": "21", "base_minor": 11_650, "tax_minor": 2_447}
    ]
    assert answer["due_minor"] == 14_097


async def test_what_cannot_be_billed_is_refused_by_its_field(api):
    for body, field in REFUSED:
        answer = await api.post(ESTIMATE, json=body)
        assert answer.status_code == 422, (body, answer.json())
        assert field in [one["field"] for one in answer.json()["errors"]], (body, answer.json())


async def test_a_number_where_a_text_belongs_is_refused_however_it_is_written(api, monkeypatch):
    monkeypatch.setattr("nimbus.billing.endpoints.estimates.ESTIMATES_A_MINUTE", 10**6)
    shapes = {
        "base_fee": '{"base_fee": %s}',
        "usage.calls": '{"usage": {"calls": %s}, "charges": [{"meter": "calls"}]}',
        "charges.0.unit_price": '{"charges": [{"meter": "calls", "unit_price": %s}]}',
        "charges.0.free_events": '{"charges": [{"meter": "calls", "free_events": %s}]}',
        "charges.0.tiers.0.up_to": '{"charges": [{"meter": "c", "tiers": [{"up_to": %s}]}]}',
        "coupons.0.percent": '{"coupons": [{"percent": %s}]}',
        "tax.rate": '{"tax": {"rate": %s}}',
        "period.from": '{"period": {"from": %s, "to": "2026-06-01"}}',
        "wallet": '{"wallet": %s}',
    }
    for field, shape in shapes.items():
        for number in ("1e400", "-1e400", "NaN", "Infinity", "1.5", "{}", '"1e400"', '"NaN"', '""'):
            answer = await api.post(
                ESTIMATE,
                content=shape % number,
                headers={"Content-Type": "application/json"},
            )
            told = (field, number, answer.text)
            assert answer.status_code in {400, 422}, told
            if answer.status_code == 422:
                assert field in {one["field"] for one in answer.json()["errors"]}, told


async def test_the_largest_bill_is_exact(api):
    """10^15 units at 10^6 and a price of twelve places: no digit is lost (spec 09, M-13)."""
    body = {
        "charges": [{"meter": "calls", "unit_price": "1000000.000000000001"}],
        "usage": {"calls": "1000000000000000"},
        "tax": {"rate": "21"},
    }
    answer = (await api.post(ESTIMATE, json=body)).json()
    assert answer["subtotal_minor"] == 10**23 + 100_000
    assert answer["total_minor"] == (10**23 + 100_000) * 121 // 100


async def test_no_nonsense_makes_a_fault(api, monkeypatch):
    print(f"TEST_SEED={SEED}")
    rng = random.Random(SEED)
    monkeypatch.setattr("nimbus.billing.endpoints.estimates.ESTIMATES_A_MINUTE", 10**6)
    assert (await api.post(ESTIMATE, json=FULL)).status_code == 200
    answered = set()
    for _ in range(100):
        body = FULL
        for _ in range(rng.randrange(1, 4)):
            body = spoiled(rng, body)
        answer = await api.post(
            ESTIMATE, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        answered.add(answer.status_code)
        assert answer.status_code in {200, 422}, (body, answer.text)
        if answer.status_code == 422:
            assert answer.json()["errors"], body
    assert answered == {200, 422}


async def test_an_address_that_asks_too_often_waits(api, monkeypatch):
    monkeypatch.setattr("nimbus.billing.endpoints.estimates.ESTIMATES_A_MINUTE", 2)
    answers = [(await api.post(ESTIMATE, json={})).status_code for _ in range(4)]
    assert answers == [200, 200, 429, 429]
