# SPDX-License-Identifier: Apache-2.0
"""Terms that change within a period: nothing is paid twice, nothing is lost, nothing is doubled."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.bill import BillFacts, draft
from nimbus.rules.contracts import (
    Contract,
    PlanTerms,
    Segment,
    contract_periods,
    fees,
    metered,
    single,
)
from nimbus.rules.invoicing import MeterUsage, difference, propose
from nimbus.rules.periods import Anchor, Period
from nimbus.rules.pricing import Charge

D = Decimal
START = datetime(2026, 5, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC)
MAY = Anchor(START, "UTC", "month", 1, calendar=False)
SECONDS = 31 * 86_400
CALLS = Charge("api_calls", "unit", unit_price=D("0.002"), included=D(10_000))
MORE = Charge("api_calls", "unit", unit_price=D("0.001"), included=D(250_000))
STARTER = PlanTerms("EUR", 4_900, "advance", "second", (CALLS,), UUID(int=1))
PROFESSIONAL = PlanTerms("EUR", 19_900, "advance", "second", (MORE,), UUID(int=2))
ADD_ON = PlanTerms("EUR", 1_000, "advance", "second", (), UUID(int=3))

MOMENTS = st.integers(1, SECONDS - 1).map(lambda seconds: START + timedelta(seconds=seconds))
BASES = st.sampled_from(["second", "day"])


def history(*parts, ends_at=None):
    """A contract of (from when, plan, add-ons...), each until the next; None is a pause."""
    starts = [part[0] for part in parts]
    following = [*starts[1:], ends_at]
    segments = tuple(
        Segment(start, end, plan, tuple(add_ons))
        for (start, plan, *add_ons), end in zip(parts, following, strict=True)
        if plan is not None and start != end
    )
    return Contract(MAY, 0, segments, ends_at)


def may(contract):
    return next(iter(contract_periods(contract, START)))


@given(st.lists(MOMENTS, max_size=6, unique=True), st.integers(0, 10**7), BASES)
def test_a_fee_that_is_left_and_comes_back_adds_up_to_the_undivided_one(cuts, price, basis):
    plan = replace(STARTER, base_fee_minor=price, proration=basis)
    free = replace(plan, base_fee_minor=0, source=UUID(int=9))
    times = sorted(cuts)
    split = history((START, plan), *((at, (free, plan)[i % 2]) for i, at in enumerate(times)))
    other = history((START, free), *((at, (plan, free)[i % 2]) for i, at in enumerate(times)))

    parts = [fee.amount_minor for one in (split, other) for fee in fees(may(one))]
    # Two halves of one month, each rounded once.
    assert abs(sum(parts) - price) <= 1
    whole = history((START, plan), *((at, plan) for at in times))
    assert [fee.amount_minor for fee in fees(may(whole))] == [price]


@given(MOMENTS, BASES)
def test_an_upgrade_undone_at_once_costs_nothing(at, basis):
    low, high = (replace(plan, proration=basis) for plan in (STARTER, PROFESSIONAL))
    there_and_back = history((START, low), (at, high), (at, low))
    assert fees(may(there_and_back)) == fees(may(single(low, MAY)))


@given(MOMENTS, st.integers(1, 86_400))
def test_an_upgrade_undone_soon_costs_its_time_and_never_less_than_nothing(at, seconds):
    back = min(at + timedelta(seconds=seconds), END - timedelta(seconds=1))
    flipped = history((START, STARTER), (at, PROFESSIONAL), (back, STARTER))
    billed = sum(fee.amount_minor for fee in fees(may(flipped)))
    share = Fraction((back - at) // timedelta(seconds=1), SECONDS)
    exact = 4_900 + share * (19_900 - 4_900)
    assert billed >= 4_900
    assert abs(billed - exact) <= 1


def test_a_day_s_upgrade_on_a_plan_by_the_day_costs_no_day():
    low, high = (replace(plan, proration="day") for plan in (STARTER, PROFESSIONAL))
    noon = datetime(2026, 5, 15, 12, tzinfo=UTC)
    flipped = history((START, low), (noon, high), (noon + timedelta(hours=3), low))
    assert sum(fee.amount_minor for fee in fees(may(flipped))) == 4_900


def test_without_proration_the_terms_of_the_beginning_pay_the_period():
    low, high = (replace(plan, proration="none") for plan in (STARTER, PROFESSIONAL))
    flipped = history((START, low), (START + timedelta(days=1), high, ADD_ON))
    paid = {fee.terms.source: fee.amount_minor for fee in fees(may(flipped))}
    # What is new pays its whole fee; the plan that replaced the first waits for the next period.
    assert paid == {low.source: 4_900, high.source: 0, ADD_ON.source: 1_000}
    following = list(contract_periods(flipped, END))[1]
    assert [fee.amount_minor for fee in fees(following)] == [19_900, 1_000]


def test_an_upgrade_divides_what_the_period_includes_and_the_usage():
    half = datetime(2026, 5, 16, 12, tzinfo=UTC)
    before, after = metered(may(history((START, STARTER), (half, PROFESSIONAL))))
    assert (before.charge.included, after.charge.included) == (5_000, 125_000)
    assert (before.span, after.span) == (Period(START, half), Period(half, END))


@given(st.lists(MOMENTS, min_size=1, max_size=6, unique=True))
def test_going_back_and_forth_never_adds_to_what_is_included(cuts):
    twin = replace(STARTER, source=UUID(int=8))
    parts = [(at, (twin, STARTER)[i % 2]) for i, at in enumerate(sorted(cuts))]
    of = may(history((START, STARTER), *parts))
    given_in_all = sum(one.charge.included for one in metered(of))
    assert abs(given_in_all - 10_000) <= len(metered(of))


def test_an_add_on_leaves_the_usage_of_the_plan_in_one_piece():
    taken = history((START, STARTER), (START + timedelta(days=3), STARTER, ADD_ON))
    assert [one.charge for one in metered(may(taken))] == [CALLS]
    assert [fee.amount_minor for fee in fees(may(taken))] == [4_900, 903]


@given(MOMENTS, MOMENTS)
def test_a_pause_is_not_paid_and_divides_nothing_else(one, other):
    first, second = sorted((one, other))
    paused = history((START, STARTER), (first, None), (second, STARTER))
    of = may(paused)
    served = SECONDS - (second - first) // timedelta(seconds=1)
    paid = sum(fee.amount_minor for fee in fees(of))
    assert abs(paid - Fraction(4_900 * served, SECONDS)) <= 1
    assert [one.charge.included for one in metered(of)] == [10_000]


@given(st.lists(st.tuples(MOMENTS, st.sampled_from([STARTER, PROFESSIONAL, None])), max_size=6))
def test_every_instant_of_a_plan_is_paid_once_at_most(changes):
    rising = sorted(dict(changes).items())
    found = sorted(
        (fee.served.starts_at, fee.served.ends_at)
        for fee in fees(may(history((START, STARTER), *rising)))
    )
    for (_, end), (begin, _) in pairwise(found):
        assert end <= begin


CHANGES = st.lists(
    st.tuples(MOMENTS, st.sampled_from([STARTER, PROFESSIONAL, None]), MOMENTS), max_size=5
)


@given(CHANGES, st.integers(0, 10**6))
def test_any_order_of_learning_of_changes_sums_to_the_right_bill(changes, calls):
    """Changes are told late and in any order; each run bills the difference."""
    known = {START: STARTER}
    billed = []
    for at, plan, told in [*changes, (END, STARTER, END)]:
        known[at] = plan
        contract = history(*sorted(known.items()))
        moment = max(at, told)
        usage = usage_of(contract, moment, calls)
        billed += difference(propose(contract, usage, moment), billed, "EUR")
    owed = propose(contract, usage_of(contract, END, calls), END)
    billed += difference(owed, billed, "EUR")
    assert sum(line.amount_minor for line in billed) == sum(line.amount_minor for line in owed)
    assert difference(owed, billed, "EUR") == ()


def usage_of(contract, as_of, calls):
    return {
        (one.charge.meter_key, one.span): MeterUsage(D(calls))
        for of in contract_periods(contract, as_of)
        for one in metered(of)
    }


def test_an_upgrade_paid_in_advance_is_credited_and_charged_for_its_days():
    half = datetime(2026, 5, 16, 12, tzinfo=UTC)
    billed = propose(single(STARTER, MAY), {}, START)
    contract = history((START, STARTER), (half, PROFESSIONAL))
    facts = BillFacts(
        currency="EUR",
        periods=tuple(contract_periods(contract, half)),
        usage={},
        billed=billed,
    )
    old, new = draft(facts, half).lines
    assert (old.amount_minor, old.quantity, old.unit_price) == (-2_450, -1, D("24.50"))
    assert old.concerns == Period(half, END)
    assert (new.amount_minor, new.quantity, new.period) == (9_950, 1, Period(half, END))


def test_a_bill_has_one_currency():
    dollars = replace(STARTER, currency="USD")
    facts = BillFacts(
        currency="EUR", periods=tuple(contract_periods(single(dollars, MAY), START)), usage={}
    )
    with pytest.raises(ValueError, match="one currency"):
        draft(facts, START)
