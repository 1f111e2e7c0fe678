# SPDX-License-Identifier: Apache-2.0
"""The estimate gives the worked examples of other products to the cent, and refuses nonsense."""

import json
from datetime import UTC, datetime

import pytest

from nimbus.billing.estimate_schemas import EstimateBody
from nimbus.billing.service.estimates import Offer, estimated
from nimbus.errors import Refusal
from tests.support import examples_of_bills  # noqa: F401 - registers its examples
from tests.support.examples import asked_ids, asks

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NO_PLAN = Offer("Base fee", None, frozenset())


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
