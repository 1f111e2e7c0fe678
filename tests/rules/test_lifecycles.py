# SPDX-License-Identifier: Apache-2.0
"""Life cycles: every pair of state and action is decided, and dates decide without a job."""

from datetime import UTC, date, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import CATALOGUE, Refusal
from nimbus.rules import lifecycles
from nimbus.rules.lifecycles import Refused, invoice_status, subscription_status
from nimbus.rules.periods import Period

TABLES = {
    "subscription": (
        lifecycles.SUBSCRIPTION,
        lifecycles.subscription,
        lifecycles.SubscriptionState,
        lifecycles.SubscriptionAction,
    ),
    "organization": (
        lifecycles.ORGANIZATION,
        lifecycles.organization,
        lifecycles.OrganizationState,
        lifecycles.OrganizationAction,
    ),
    "key": (lifecycles.KEY, lifecycles.key, lifecycles.KeyState, lifecycles.KeyAction),
    "invoice": (
        lifecycles.INVOICE,
        lifecycles.invoice,
        lifecycles.InvoiceStatus,
        lifecycles.InvoiceAction,
    ),
}
NOON = datetime(2026, 5, 15, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize("name", TABLES)
def test_every_pair_is_allowed_or_refused_by_name(name):
    table, step, states, actions = TABLES[name]
    assert set(table) == set(get_args(states))
    for state, row in table.items():
        assert set(row) == set(get_args(actions)), state
        for action, outcome in row.items():
            if isinstance(outcome, Refused):
                with pytest.raises(Refusal) as refused:
                    step(state, action)
                assert refused.value.code in CATALOGUE
                assert refused.value.detail == outcome.text
            else:
                assert step(state, action) == outcome
                assert outcome in table


@pytest.mark.parametrize(
    ("table", "state"),
    [("subscription", "Expired"), ("organization", "Cancelled"), ("key", "Revoked")],
)
def test_an_end_state_has_no_way_out(table, state):
    rows, step, _, actions = TABLES[table]
    assert all(isinstance(rows[state][action], Refused) for action in get_args(actions))
    with pytest.raises(Refusal) as refused:
        step(state, get_args(actions)[0])
    assert refused.value.fields[0].field == "status"


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_reached(name):
    table, _, _, _ = TABLES[name]
    reached = {next(iter(table))}
    while (
        more := {
            outcome
            for state in reached
            for outcome in table[state].values()
            if not isinstance(outcome, Refused)
        }
        - reached
    ):
        reached |= more
    # Paid, past due and overdue also come from dates and payments, not from actions alone.
    assert set(table) - reached <= {"Overdue"}


def test_a_life_from_trial_to_expiry():
    step = lifecycles.subscription
    state = "Trial"
    for action, expected in (
        ("convert", "Active"),
        ("fall_behind", "PastDue"),
        ("suspend", "Suspended"),
        ("catch_up", "Active"),
        ("pause", "Paused"),
        ("resume", "Active"),
        ("cancel", "Cancelled"),
        ("expire", "Expired"),
    ):
        state = step(state, action)
        assert state == expected


def test_a_finalized_invoice_is_not_made_again():
    for status in ("Sent", "Overdue", "Paid"):
        for action in ("edit", "discard", "finalize"):
            with pytest.raises(Refusal) as refused:
                lifecycles.invoice(status, action)
            assert refused.value.code == "invoice_finalized"
            assert refused.value.entry.status == 400


@pytest.mark.parametrize(
    ("document", "paid", "day", "status"),
    [
        ("Draft", False, date(2030, 1, 1), "Draft"),
        ("Cancelled", False, date(2030, 1, 1), "Cancelled"),
        ("Sent", False, date(2026, 6, 15), "Sent"),
        ("Sent", False, date(2026, 6, 16), "Overdue"),
        ("Sent", True, date(2026, 6, 16), "Paid"),
    ],
)
def test_an_invoice_is_overdue_from_the_day_after_its_due_date(document, paid, day, status):
    assert invoice_status(document, paid, date(2026, 6, 15), day) == status


def test_a_trial_that_is_over_gives_nothing_from_its_end_on():
    before = subscription_status("Trial", NOON, None, NOON - MOMENT)
    after = subscription_status("Trial", NOON, None, NOON)
    assert (before, after) == ("Trial", "Expired")
    assert lifecycles.serves(before)
    assert not lifecycles.serves(after)


def test_a_cancelled_subscription_is_served_to_its_end():
    before = subscription_status("Cancelled", None, NOON, NOON - MOMENT)
    after = subscription_status("Cancelled", None, NOON, NOON)
    assert lifecycles.serves(before)
    assert not lifecycles.serves(after)


@given(
    st.sampled_from(get_args(lifecycles.SubscriptionState)),
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=st.just(UTC)),
)
def test_what_has_expired_stays_expired(stored, ends_at, as_of):
    status = subscription_status(stored, ends_at, ends_at, as_of)
    later = max(ends_at, as_of)
    if status == "Expired":
        assert subscription_status(stored, ends_at, ends_at, later) == "Expired"


def test_a_cancelled_trial_comes_back_as_a_trial():
    assert lifecycles.reactivated("Cancelled", NOON, NOON - MOMENT) == "Trial"
    assert lifecycles.reactivated("Cancelled", NOON, NOON) == "Active"
    assert lifecycles.reactivated("Cancelled", None, NOON) == "Active"
    with pytest.raises(Refusal):
        lifecycles.reactivated("Active", None, NOON)


@pytest.mark.parametrize(
    ("status", "at_once", "ends"),
    [("Active", False, "end"), ("Active", True, "now"), ("Suspended", False, "now")],
)
def test_a_cancellation_ends_with_the_period_or_at_once(status, at_once, ends):
    current = Period(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
    expected = current.ends_at if ends == "end" else NOON
    assert lifecycles.cancellation_end(status, current, NOON, at_once) == expected


@pytest.mark.parametrize("status", ["Suspended", "Paused"])
def test_what_gives_no_access_ends_at_once_when_it_is_cancelled(status):
    month = Period(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))

    assert lifecycles.cancellation_end(status, month, NOON, at_once=False) == NOON
    assert lifecycles.cancellation_end("Active", month, NOON, at_once=False) == month.ends_at


@pytest.mark.parametrize("stored", ["Active", "PastDue", "Paused", "Cancelled"])
def test_an_end_is_an_end_whatever_is_stored_and_without_any_job(stored):
    assert subscription_status(stored, None, NOON, NOON - MOMENT) == stored
    assert subscription_status(stored, None, NOON, NOON) == "Expired"


def test_a_paused_subscription_goes_from_period_to_period_and_stays_paused():
    assert lifecycles.subscription("Paused", "renew") == "Paused"
