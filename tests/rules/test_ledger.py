# SPDX-License-Identifier: Apache-2.0
"""The ledger: every fact balances, a reversal restores the balances, accounts are a closed list."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.invoicing import totals_by_treatment
from nimbus.rules.ledger import (
    PAYMENT_PROVIDERS,
    Transfer,
    balances,
    credit_note_issued,
    invoice_finalized,
    payment_received,
    reverse,
)
from nimbus.rules.tax import TaxTreatment

DUTCH = TaxTreatment("S", Decimal(21), "NL", None)
LOW = TaxTreatment("S", Decimal(9), "NL", None)
REVERSED = TaxTreatment("AE", Decimal(0), "IT", "reverse_charge")
REFERENCE = totals_by_treatment([(11_650, DUTCH)])
TAXED = st.lists(
    st.tuples(st.integers(-(10**9), 10**9), st.sampled_from([DUTCH, LOW, REVERSED])), max_size=8
)


def test_the_reference_invoice_posts_revenue_and_vat():
    assert invoice_finalized(REFERENCE, "EUR") == (
        Transfer("receivable", "revenue", 11_650, "EUR", "net"),
        Transfer("receivable", "vat_payable", 2_447, "EUR", "vat:NL:21"),
    )


def test_a_payment_settles_the_receivable():
    posted = invoice_finalized(REFERENCE, "EUR") + payment_received("manual", 14_097, "EUR")
    assert balances(posted) == {
        ("cash:manual", "EUR"): 14_097,
        ("revenue", "EUR"): -11_650,
        ("vat_payable", "EUR"): -2_447,
    }


def test_a_whole_credit_note_leaves_nothing_of_the_invoice():
    posted = invoice_finalized(REFERENCE, "EUR") + credit_note_issued(REFERENCE, "EUR")
    assert balances(posted) == {}


def test_reverse_charge_posts_no_vat():
    posted = invoice_finalized(totals_by_treatment([(5_000, REVERSED)]), "EUR")
    assert [one.leg for one in posted] == ["net"]


@given(TAXED, st.sampled_from(PAYMENT_PROVIDERS))
def test_balances_add_up_to_zero_and_the_receivable_is_the_total(taxed, provider):
    totals = totals_by_treatment(taxed)
    posted = invoice_finalized(totals, "EUR")

    assert sum(balances(posted).values()) == 0
    assert balances(posted).get(("receivable", "EUR"), 0) == totals.total_minor
    assert len({one.leg for one in posted}) == len(posted)
    if totals.total_minor > 0:
        paid = posted + payment_received(provider, totals.total_minor, "EUR")
        assert ("receivable", "EUR") not in balances(paid)


@given(TAXED)
def test_a_reversal_restores_every_balance(taxed):
    posted = invoice_finalized(totals_by_treatment(taxed), "EUR")
    assert balances(posted + reverse(posted)) == {}


def test_currencies_are_balanced_apart():
    posted = invoice_finalized(REFERENCE, "EUR") + invoice_finalized(REFERENCE, "USD")
    assert balances(posted)["revenue", "EUR"] == balances(posted)["revenue", "USD"] == -11_650


@pytest.mark.parametrize(
    ("debit", "credit", "amount"),
    [
        ("receivable", "slush", 1),
        ("cash:cowrie", "receivable", 1),
        ("receivable", "receivable", 1),
        ("receivable", "revenue", 0),
        ("receivable", "revenue", -1),
    ],
)
def test_an_impossible_transfer_cannot_be_made(debit, credit, amount):
    with pytest.raises(ValueError):
        Transfer(debit, credit, amount, "EUR", "net")
