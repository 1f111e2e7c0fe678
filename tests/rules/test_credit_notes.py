# SPDX-License-Identifier: Apache-2.0
"""Credit notes in any number and order add up to the invoice, and never beyond it (I-07)."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import Refusal
from nimbus.rules.credit_notes import Creditable, credit, settle
from nimbus.rules.invoicing import totals_by_treatment
from nimbus.rules.tax import TaxTreatment

RATES = [TaxTreatment("S", Decimal(rate), "NL", None) for rate in ("21", "9", "25.5")]
LINES = st.lists(
    st.builds(
        lambda amount, off, rate: Creditable(amount, amount - min(off, amount), rate),
        st.integers(1, 10**7),
        st.integers(0, 10**6),
        st.sampled_from(RATES),
    ),
    min_size=1,
    max_size=8,
)


def invoice_of(lines):
    return totals_by_treatment([(line.net_minor, line.treatment) for line in lines])


def by_rate(taxes):
    sums = {}
    for tax in taxes:
        base, vat = sums.get(tax.treatment, (0, 0))
        sums[tax.treatment] = base + tax.base_minor, vat + tax.tax_minor
    return {treatment: sums for treatment, sums in sums.items() if sums != (0, 0)}


@given(LINES, st.data())
def test_notes_in_any_order_add_up_to_the_invoice_to_the_cent_and_per_rate(lines, data):
    invoice = invoice_of(lines)
    left, notes = list(lines), []
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(lines) - 1))
        if left[place].left_minor == 0:
            continue
        part = data.draw(st.integers(1, left[place].left_minor))
        notes.append(credit(left, {place: part}))
        left[place] = replace(left[place], credited_minor=left[place].credited_minor + part)
        given_back = sum(note.totals.total_minor for note in notes)
        assert 0 <= given_back <= invoice.total_minor
        assert all(tax.tax_minor >= 0 for note in notes for tax in note.totals.taxes)
    if any(line.left_minor for line in left):
        notes.append(credit(left))
    assert sum(note.totals.total_minor for note in notes) == invoice.total_minor
    taxes = [tax for note in notes for tax in note.totals.taxes]
    assert by_rate(taxes) == by_rate(invoice.taxes)


@given(LINES)
def test_a_whole_credit_is_the_invoice_and_leaves_nothing(lines):
    note = credit(lines)
    assert note.totals.total_minor == invoice_of(lines).total_minor
    with pytest.raises(Refusal) as refused:
        credit([replace(line, credited_minor=line.amount_minor) for line in lines])
    assert refused.value.fields[0].code == "nothing_left"


def test_the_note_says_net_vat_and_total_that_add_up():
    note = credit([Creditable(7_143, 7_143, TaxTreatment("S", Decimal(20), "NL", None))])
    totals = note.totals
    assert (totals.subtotal_minor, totals.tax_minor, totals.total_minor) == (7_143, 1_429, 8_572)


def test_an_invoice_without_vat_is_credited_without():
    note = credit([Creditable(1_000, 900)], {0: 500})
    assert (note.totals.total_minor, note.totals.taxes) == (450, ())
    assert note.lines[0].coupon_minor == 50


@pytest.mark.parametrize(
    ("asked", "field", "code"),
    [
        ({0: 10_001}, "lines.0.amount", "above_line"),
        ({0: 0}, "lines.0.amount", "too_small"),
        ({0: -1}, "lines.0.amount", "too_small"),
        ({7: 1}, "lines.7.amount", "unknown_line"),
        ({-1: 1}, "lines.-1.amount", "unknown_line"),
        ({0: 4_001}, "lines", "above_invoice"),
        ({}, "lines", "nothing_left"),
    ],
)
def test_more_than_the_invoice_is_never_given_back(asked, field, code):
    # 100.00 and 60.00 taken off again: the invoice asked for 40.00.
    lines = [Creditable(10_000, 10_000, RATES[0]), Creditable(-6_000, -6_000, RATES[0])]
    with pytest.raises(Refusal) as refused:
        credit(lines, asked)
    assert (refused.value.fields[0].field, refused.value.fields[0].code) == (field, code)
    assert credit(lines, {0: 4_000}).totals.total_minor == 4_840


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_what_is_credited_lowers_what_is_open_first(note, still_open):
    lowers, kept = settle(note, still_open)
    assert lowers + kept == note
    assert lowers <= still_open
    assert kept == 0 or lowers == still_open
