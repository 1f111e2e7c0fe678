# SPDX-License-Identifier: Apache-2.0
"""Prepaid credit is drawn in its order, to the cent, and never after its time."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.credits import Grant, balance, draw, expired

NOW = datetime(2026, 5, 1, tzinfo=UTC)
GRANTS = st.lists(
    st.builds(
        Grant,
        st.uuids().map(str),
        st.integers(0, 10**6),
        st.none() | st.integers(-5, 5).map(lambda days: NOW + timedelta(days=days)),
        st.integers(0, 2),
    ),
    max_size=6,
)


@given(GRANTS, st.integers(0, 10**7))
def test_credit_pays_what_it_can_and_no_more_than_each_grant_has(grants, amount):
    entries = draw(grants, amount, NOW)
    has = {grant.key: grant.balance_minor for grant in grants}
    assert sum(entry.amount_minor for entry in entries) == min(amount, balance(grants, NOW))
    assert all(0 < entry.amount_minor <= has[entry.key] for entry in entries)
    assert len({entry.key for entry in entries}) == len(entries)


@given(GRANTS)
def test_what_cannot_be_drawn_any_more_is_written_off_and_nothing_else(grants):
    lost = {entry.key: entry.amount_minor for entry in expired(grants, NOW)}
    drawn = {entry.key for entry in draw(grants, 10**12, NOW)}
    assert not lost.keys() & drawn
    assert sum(lost.values()) + balance(grants, NOW) == sum(one.balance_minor for one in grants)


def test_credit_is_gone_at_its_last_instant():
    grant = Grant("a", 100, NOW)
    before = NOW - timedelta(microseconds=1)
    assert [entry.amount_minor for entry in draw([grant], 50, before)] == [50]
    assert draw([grant], 50, NOW) == ()
    assert [entry.amount_minor for entry in expired([grant], NOW)] == [100]


def test_the_lowest_priority_number_pays_first_then_what_expires_first_then_the_oldest():
    soon, late = NOW + timedelta(days=1), NOW + timedelta(days=9)
    grants = [
        Grant("second", 10, None, 1),
        Grant("never", 10, None, 0),
        Grant("late", 10, late, 0),
        Grant("soon", 10, soon, 0),
        Grant("soon, later given", 10, soon, 0),
    ]
    order = [entry.key for entry in draw(grants, 50, NOW)]
    assert order == ["soon", "soon, later given", "late", "never", "second"]
