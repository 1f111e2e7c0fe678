# SPDX-License-Identifier: Apache-2.0
"""The invoice: the reference to the cent, invoicing by difference, totals, safety bounds."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.contracts import PlanTerms, single
from nimbus.rules.invoicing import (
    MeterUsage,
    TaxLine,
    Totals,
    difference,
    implausible,
    propose,
    totals,
    totals_by_treatment,
)
from nimbus.rules.periods import Anchor, Period, period
from nimbus.rules.pricing import Charge
from nimbus.rules.tax import Party, TaxTreatment, decide

MOMENT = timedelta(microseconds=1)
STARTER = PlanTerms(
    currency="EUR",
    base_fee_minor=4_900,
    timing="arrears",
    proration="second",
    charges=(
        Charge("api_calls", "unit", unit_price=Decimal("0.002"), included=Decimal(10_000)),
        Charge("assets", "unit", unit_price=Decimal("1.50"), included=Decimal(10)),
        Charge("reports", "unit", unit_price=Decimal("2.50")),
    ),
)
MAY = Anchor(datetime(2026, 5, 1, tzinfo=UTC), "UTC", "month", 1, calendar=False)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
FIRST = Period(MAY.at, JUNE)
CONTRACT = single(STARTER, MAY)
MAY_USAGE = {
    ("api_calls", FIRST): MeterUsage(Decimal(22_500)),
    ("assets", FIRST): MeterUsage(Decimal(25)),
    ("reports", FIRST): MeterUsage(Decimal(8)),
}


def test_the_reference_invoice_comes_out_to_the_cent():
    lines = propose(CONTRACT, MAY_USAGE, JUNE)
    treatment = decide(Party("NL", True), Party("NL", True), date(2026, 6, 1))
    result = totals(lines, treatment)

    assert [line.amount_minor for line in lines] == [4_900, 2_500, 2_250, 2_000]
    assert [line.quantity for line in lines] == [1, 12_500, 15, 8]
    assert [line.kind for line in lines] == ["Subscription", "ApiUsage", "Asset", "Report"]
    assert (result.subtotal_minor, result.tax_minor, result.total_minor) == (11_650, 2_447, 14_097)


def test_a_second_run_adds_nothing():
    billed = propose(CONTRACT, MAY_USAGE, JUNE)
    assert difference(propose(CONTRACT, MAY_USAGE, JUNE), billed, "EUR") == ()


def test_nothing_is_owed_a_moment_before_the_period_ends():
    assert propose(CONTRACT, MAY_USAGE, JUNE - MOMENT) == ()


def test_late_usage_is_billed_alone_on_the_next_invoice():
    billed = propose(CONTRACT, MAY_USAGE, JUNE)
    late = {**MAY_USAGE, ("api_calls", FIRST): MeterUsage(Decimal(22_600))}
    (line,) = difference(propose(CONTRACT, late, JUNE), billed, "EUR")

    assert (line.quantity, line.amount_minor) == (100, 20)
    assert line.unit_price == Decimal("0.002")
    assert line.period == billed[1].period


def test_a_difference_that_no_price_explains_prints_none():
    # 12,501 calls are 25.002 → 25.00; 12,503 are 25.006 → 25.01; but 2 × 0.002 rounds to 0.00.
    usage = [{("api_calls", FIRST): MeterUsage(Decimal(calls))} for calls in (22_501, 22_503)]
    before, after = (propose(CONTRACT, one, JUNE) for one in usage)
    (line,) = difference(after, before, "EUR")

    assert (line.quantity, line.amount_minor, line.unit_price) == (2, 1, None)


def test_what_was_billed_too_much_comes_back_as_a_negative_line():
    billed = propose(CONTRACT, MAY_USAGE, JUNE)
    less = {key: usage for key, usage in MAY_USAGE.items() if key[0] != "reports"}
    (line,) = difference(propose(CONTRACT, less, JUNE), billed, "EUR")

    assert (line.meter_key, line.quantity, line.amount_minor) == ("reports", -8, -2_000)


def test_a_fee_in_advance_is_owed_when_its_period_begins():
    contract = single(replace(STARTER, timing="advance"), MAY)
    start = propose(contract, MAY_USAGE, MAY.at)
    assert [(line.amount_minor, line.period) for line in start] == [(4_900, period(MAY, 0))]

    june = difference(propose(contract, MAY_USAGE, JUNE), start, "EUR")
    assert [line.amount_minor for line in june] == [2_500, 2_250, 2_000, 4_900]
    assert june[-1].period == period(MAY, 1)


def test_a_first_part_of_a_calendar_period_pays_its_share_by_the_day():
    start = datetime(2022, 8, 10, 15, tzinfo=UTC)
    terms = PlanTerms("USD", 5_000, "arrears", "day", ())
    contract = single(terms, Anchor(start, "UTC", "month", 1, calendar=True))
    (line,) = propose(contract, {}, datetime(2022, 9, 1, tzinfo=UTC))

    assert (line.amount_minor, line.unit_price) == (3_548, Decimal("35.48"))
    assert line.period == Period(start, datetime(2022, 9, 1, tzinfo=UTC))


def test_a_service_that_ends_in_a_period_pays_to_its_end_and_no_further():
    end = datetime(2026, 5, 16, 12, tzinfo=UTC)  # half of May
    used = {(key, Period(MAY.at, end)): usage for (key, _), usage in MAY_USAGE.items()}
    lines = propose(single(STARTER, MAY, 0, end), used, datetime(2027, 1, 1, tzinfo=UTC))

    assert [line.amount_minor for line in lines] == [2_450, 2_500, 2_250, 2_000]
    assert {line.period for line in lines} == {Period(MAY.at, end)}


def test_a_service_that_ends_with_its_period_owes_nothing_for_the_next():
    contract = single(replace(STARTER, timing="advance"), MAY, 0, JUNE)
    lines = propose(contract, MAY_USAGE, datetime(2026, 9, 1, tzinfo=UTC))
    assert {line.period for line in lines} == {period(MAY, 0)}


def test_closed_periods_are_not_proposed_again():
    contract = replace(CONTRACT, first_period=1)
    assert propose(contract, MAY_USAGE, JUNE) == ()


def test_a_day_that_never_was_costs_nothing():
    start = datetime(2011, 12, 29, 20, tzinfo=UTC)  # 10:00 on the 29th in Samoa
    terms = PlanTerms("EUR", 100, "arrears", "second", ())
    contract = single(terms, Anchor(start, "Pacific/Apia", "day", 1, calendar=False))
    lines = propose(contract, {}, start + timedelta(days=2))

    assert [line.amount_minor for line in lines] == [100, 100]


def test_a_free_plan_without_overage_has_no_lines():
    contract = single(replace(STARTER, base_fee_minor=0), MAY)
    assert propose(contract, {("api_calls", FIRST): MeterUsage(Decimal(10_000))}, JUNE) == ()


def test_a_price_is_printed_only_where_it_makes_the_amount():
    charges = (
        Charge("tokens", "unit", unit_price=Decimal("0.5"), minimum=Decimal(20)),
        Charge("storage", "package", package_size=Decimal(10), package_price=Decimal(3)),
    )
    terms = replace(STARTER, base_fee_minor=0, charges=charges)
    usage = {("tokens", FIRST): MeterUsage(Decimal(8)), ("storage", FIRST): MeterUsage(Decimal(11))}
    tokens, least, storage = propose(single(terms, MAY), usage, JUNE)

    assert (tokens.kind, tokens.amount_minor, tokens.unit_price) == ("Other", 400, Decimal("0.5"))
    assert (least.text, least.amount_minor, least.meter_key) == ("minimum", 1_600, "tokens")
    assert (storage.kind, storage.amount_minor, storage.unit_price) == ("Storage", 600, None)


QUANTITIES = st.decimals(0, 10**7, places=3)
HISTORIES = st.lists(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["api_calls", "assets", "reports"]),
            st.integers(0, 2).map(lambda n: period(MAY, n)),
        ),
        st.builds(MeterUsage, QUANTITIES),
    ),
    min_size=1,
    max_size=5,
)


@given(HISTORIES, st.sampled_from(["advance", "arrears"]), st.integers(0, 100))
def test_any_history_of_corrections_sums_to_the_right_bill(history, timing, days):
    contract = single(replace(STARTER, timing=timing), MAY)
    as_of = MAY.at + timedelta(days=days)
    billed = []
    for usage in history:
        billed += difference(propose(contract, usage, as_of), billed, "EUR")
        assert difference(propose(contract, usage, as_of), billed, "EUR") == ()

    owed = propose(contract, history[-1], as_of)
    assert sum(line.amount_minor for line in billed) == sum(line.amount_minor for line in owed)


RATES = st.sampled_from(["21", "9", "25.5", "0"])
TREATMENTS = st.builds(lambda rate: TaxTreatment("S", Decimal(rate), "NL", None), RATES)
TAXED = st.lists(st.tuples(st.integers(-(10**9), 10**9), TREATMENTS), max_size=10)


@given(TAXED)
def test_net_and_tax_are_always_gross(taxed):
    result = totals_by_treatment(taxed)

    assert result.subtotal_minor == sum(amount for amount, _ in taxed)
    assert result.subtotal_minor + result.tax_minor == result.total_minor
    assert len({tax.treatment for tax in result.taxes}) == len(result.taxes)


@given(TAXED)
def test_the_negated_document_has_the_negated_totals(taxed):
    result = totals_by_treatment(taxed)
    negated = totals_by_treatment([(-amount, treatment) for amount, treatment in taxed])
    assert negated.total_minor == -result.total_minor
    assert negated.tax_minor == -result.tax_minor


def test_vat_is_rounded_per_rate_and_not_per_line():
    dutch = TaxTreatment("S", Decimal(21), "NL", None)
    assert totals_by_treatment([(3, dutch)] * 5).tax_minor == 3


@pytest.mark.parametrize("wrong", [(100, 21, 120), (100, 20, 120), (99, 21, 120)])
def test_totals_that_do_not_add_up_cannot_be_written_down(wrong):
    line = TaxLine(TaxTreatment("S", Decimal(21), "NL", None), 100, 21)
    with pytest.raises(ValueError, match="not the"):
        Totals(wrong[0], (line,), wrong[1], wrong[2])


def test_an_implausible_invoice_is_named():
    (line, *_) = propose(CONTRACT, MAY_USAGE, JUNE)
    assert implausible([line] * 1_001, 4_900, None) == "too_many_lines"
    assert implausible([line], -1, 4_900) == "negative_total"
    assert implausible([line], 49_001, 4_900) == "far_above_usual"
    assert implausible([line], 49_000, 4_900) is None
    assert implausible([line] * 1_000, 10**12, None) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bill_that_no_column_holds_is_parked_and_never_a_crash(sign):
    # 10^15 calls at 10^6 each, the most that is measured and charged, is 10^23 cents.
    dear = Charge("api_calls", "unit", unit_price=Decimal(10**6))
    used = {("api_calls", FIRST): MeterUsage(Decimal(10**15))}
    (_, line) = propose(single(replace(STARTER, charges=(dear,)), MAY), used, JUNE)
    assert line.amount_minor == 10**23
    line = replace(line, amount_minor=sign * line.amount_minor)
    assert implausible([line], sign * 10**23, None) == "too_large"
    assert implausible([line, replace(line, amount_minor=-line.amount_minor)], 0, 1) == "too_large"


def test_what_was_given_back_is_not_billed_again():
    billed = propose(CONTRACT, MAY_USAGE, JUNE)
    gift = [replace(billed[1], amount_minor=1_000)]
    assert difference(propose(CONTRACT, MAY_USAGE, JUNE), billed, "EUR", gift) == ()


def test_a_correction_takes_back_no_more_than_a_credit_note_left():
    billed = propose(CONTRACT, MAY_USAGE, JUNE)
    gift = [replace(billed[3], amount_minor=500)]
    none = {key: usage for key, usage in MAY_USAGE.items() if key[0] != "reports"}
    (line,) = difference(propose(CONTRACT, none, JUNE), billed, "EUR", gift)
    assert line.amount_minor == -1_500


def test_late_usage_over_a_maximum_changes_nothing_that_is_owed():
    capped = single(
        replace(STARTER, charges=(replace(STARTER.charges[2], maximum=Decimal(20)),)), MAY
    )
    first, late = ({("reports", FIRST): MeterUsage(Decimal(n))} for n in (10, 30))
    billed = propose(capped, first, JUNE)
    more = difference(propose(capped, late, JUNE), billed, "EUR")
    assert [line.amount_minor for line in more] == [5_000, -5_000]
