# SPDX-License-Identifier: Apache-2.0
"""The estimate gives the worked examples of other products to the cent, and refuses nonsense."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nimbus.billing.estimate_schemas import EstimateBody
from nimbus.billing.service.estimates import Offer, estimated
from nimbus.errors import Refusal
from tests.support import examples_of_bills  # noqa: F401 - registers its examples
from tests.support.examples import asked_ids, asks
from tests.support.nonsense import FULL, spoiled

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NO_PLAN = Offer("Base fee", None, {})


def holds(view, answer):
    """What an example says of the answer."""
    told = {name: getattr(view, name) for name in answer}
    if "lines" in told:
        wanted = answer["lines"]
        lines = [line.amount_minor for line in view.lines]
        told["lines"] = [
            want if want is ... else line for line, want in zip(lines, wanted, strict=True)
        ]
    if "taxes" in told:
        told["taxes"] = [(tax.category, tax.rate) for tax in view.taxes]
    assert told == answer


@pytest.mark.parametrize("case_id", asked_ids())
def test_a_worked_example_comes_out_of_the_estimate_to_the_cent(case_id):
    for ask in asks(case_id):
        body = EstimateBody.model_validate_json(json.dumps(ask.body))
        if ask.refused is None:
            holds(estimated(body, NO_PLAN, ask.seller, NOW), ask.answer)
            continue
        with pytest.raises(Refusal) as refused:
            estimated(body, NO_PLAN, ask.seller, NOW)
        assert refused.value.fields[0].field == ask.refused


@settings(max_examples=500)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_nonsense_is_refused_by_its_field_or_billed_and_never_a_fault(rng, times):
    asked = FULL
    for _ in range(times):
        asked = spoiled(rng, asked)
    view, refused = outcome(asked)
    if view is None:
        assert refused
        return
    assert sum(line.amount_minor for line in view.lines) == view.subtotal_minor
    assert view.subtotal_minor + view.tax_minor == view.total_minor
    assert 0 <= view.due_minor <= max(0, view.total_minor)


@pytest.mark.parametrize(
    ("how", "quantity"),
    [("sum", 12), ("max", 7), ("last", 3), ("count", 3), ("unique", 12)],
)
def test_events_of_a_plan_s_meter_come_to_what_the_meter_says(how, quantity):
    asked = {
        "charges": [{"meter": "calls", "unit_price": "1"}],
        "usage": {"calls": ["2", "7", "3"]},
    }
    view = estimated(
        EstimateBody.model_validate(asked), Offer("Plan", None, {"calls": how}), "NL", NOW
    )
    assert view.subtotal_minor == quantity * 100


ODD = ["", " ", "NL", "NL000000000B00", "DE٣٣٣٣٣٣٣٣٣", "FR" + "9" * 40, "IE1S23456L", "EL0", "💶"]


@pytest.mark.parametrize("country", ["NL", "DE", "FR", "IE", "GR", "ES", "XX"])
def test_no_odd_vat_number_is_a_fault(country):
    for number in (*ODD, *(country + odd for odd in ODD)):
        buyer = {"country": country, "vat_number": number}
        view, _ = outcome({"base_fee": "1", "tax": {"buyer": buyer}})
        assert view.taxes[0].category in {"S", "O"}


@pytest.mark.parametrize(
    "day",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-W01-1",
        "2026-13-01",
        "20260501",
    ],
)
def test_no_odd_day_is_a_fault(day):
    for name in ("from", "to", "service_from", "service_to"):
        period = {"from": "2025-12-01", "to": "2026-02-01", name: day}
        view, refused = outcome({"base_fee": "1", "period": period})
        assert view or refused


def outcome(asked):
    """The estimate, or what was refused."""
    try:
        return estimated(EstimateBody.model_validate(asked), NO_PLAN, "NL", NOW), None
    except ValidationError as invalid:
        return None, invalid.errors()
    except Refusal as refused:
        return None, refused.fields
