# SPDX-License-Identifier: Apache-2.0
"""The state: which record holds when several come in any order, and how long a grant is one."""

from datetime import timedelta
from ipaddress import ip_address
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest

from nimbus.base import clock
from nimbus.gateway import state as module
from nimbus.gateway.records import pack
from nimbus.gateway.state import Product, State
from nimbus.rules.grants import Grant
from tests.gateway.house import (
    KEY,
    ORGANIZATION,
    OTHER_ORGANIZATION,
    PEPPER,
    PLAN,
    PRODUCT,
    SUBSCRIPTION,
    digest_of,
    key_record,
    plan_record,
    product_record,
    secret,
    subscription_record,
)

OTHER_KEY = secret(7)
ACTIVE, REVOKED = key_record(KEY), key_record(KEY, status="Revoked")
ID = ACTIVE["id"]
THEIRS = subscription_record(id=str(UUID(int=900)), organization_id=str(OTHER_ORGANIZATION))


def filled() -> State:
    """Two organizations with a subscription and a key each."""
    state = State(lambda sealed: sealed)
    state.replace(
        [
            (1, "product", str(PRODUCT), product_record(80)),
            (1, "plan", str(PLAN), plan_record()),
            (1, "organization", str(ORGANIZATION), organization(ORGANIZATION)),
            (1, "organization", str(OTHER_ORGANIZATION), organization(OTHER_ORGANIZATION)),
            (1, "subscription", str(SUBSCRIPTION), subscription_record()),
            (1, "subscription", THEIRS["id"], THEIRS),
            (2, "key", ID, ACTIVE),
            (2, "key", *named(key_record(OTHER_KEY, organization_id=str(OTHER_ORGANIZATION)))),
        ]
    )
    return state


def organization(who: UUID, status: str = "Active") -> dict[str, Any]:
    return {"id": str(who), "status": status}


def named(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return record["id"], record


def product(state: State) -> Product:
    found = state.product(b"demo")
    assert found is not None
    return found


def grant(state: State, key: bytes = KEY) -> Grant | None:
    return state.grant(digest_of(PEPPER, key), product(state))


@pytest.mark.parametrize(
    ("kind", "name", "record"),
    [
        ("organization", str(ORGANIZATION), organization(ORGANIZATION, "Suspended")),
        ("organization", str(ORGANIZATION), None),
        ("subscription", str(SUBSCRIPTION), subscription_record(status="Paused")),
        ("subscription", str(SUBSCRIPTION), None),
        ("key", *named(key_record(KEY, scopes=["wind.write"]))),
        ("key", ID, None),
        ("key", *named(REVOKED)),
    ],
)
def test_a_grant_is_one_object_until_something_of_its_organization_changes(
    kind: str, name: str, record: dict[str, Any] | None
) -> None:
    state = filled()
    ours, theirs = grant(state), grant(state, OTHER_KEY)
    assert ours is not None
    assert grant(state) is ours
    ours.permits["route"] = "compiled"
    state.follow([(4, kind, name, record)])
    changed = grant(state)
    assert changed is not ours
    assert changed != ours
    assert changed is None or not changed.permits
    assert grant(state, OTHER_KEY) is theirs


@pytest.mark.parametrize(
    ("kind", "name", "record"),
    [
        ("product", str(PRODUCT), product_record(81)),
        ("plan", str(PLAN), plan_record(rank=2)),
    ],
)
def test_a_change_of_product_or_plan_concerns_every_grant(
    kind: str, name: str, record: dict[str, Any]
) -> None:
    state = filled()
    before = grant(state), grant(state, OTHER_KEY)
    state.follow([(3, kind, name, record)])
    assert grant(state) is not before[0]
    assert grant(state, OTHER_KEY) is not before[1]


def test_only_so_many_grants_are_kept_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_GRANTS", 3)
    state = filled()
    keys = [secret(number) for number in range(20, 40)]
    state.follow((3, "key", *named(key_record(key))) for key in keys)
    for key in keys:
        assert grant(state, key) is not None
        assert grant(state, key) is grant(state, key)
    assert len(state.grants) == 3
    assert sum(len(kept) for kept in state._grants_of.values()) == 3
    state.follow([(4, "organization", *named(organization(ORGANIZATION, "Suspended")))])
    assert not state.grants


# What may reach a gateway of a key that was made at 5 and revoked at 7, each as of its number:
# look-ups answered before and after, the feed, and snapshots and copies of any age.
COMING = {
    "looked up before": (5, ACTIVE),
    "looked up between": (6, ACTIVE),
    "looked up after": (8, REVOKED),
    "fed": (7, REVOKED),
}


@pytest.mark.parametrize("order", list(permutations(COMING)), ids=",".join)
def test_no_late_look_up_brings_a_revoked_key_back(order: tuple[str, ...]) -> None:
    state = filled()
    gone = False
    for name in order:
        number, record = COMING[name]
        state.apply(number, "key", ID, record)
        gone = gone or record is REVOKED
        found = grant(state)
        assert found is not None
        assert found.key.status == ("Revoked" if gone else "Active")


@pytest.mark.parametrize(
    "order", list(permutations([(5, "Active"), (7, "Suspended"), (9, "Active")]))
)
def test_the_newest_number_decides_in_whatever_order_records_come(
    order: tuple[tuple[int, str], ...],
) -> None:
    state = filled()
    newest = 0, ""
    for number, status in order:
        state.apply(number, "organization", *named(organization(ORGANIZATION, status)))
        state.apply(number, "plan", *named(plan_record(name=status)))
        newest = max(newest, (number, status))
        found = grant(state)
        assert found is not None
        assert found.organization_status == newest[1]
        assert found.subscription is not None
        assert found.subscription.plan.name == newest[1]


@pytest.mark.parametrize("number", [5, 6, 7])
def test_what_a_snapshot_left_out_no_older_look_up_brings_back(number: int) -> None:
    """Revoked keys are in no snapshot, so that their absence says it all."""
    state = filled()
    rows = [
        (8, "product", str(PRODUCT), product_record(80)),
        (8, "plan", str(PLAN), plan_record()),
        (8, "organization", str(ORGANIZATION), organization(ORGANIZATION)),
    ]
    state.replace(rows)
    state.apply(number, "key", ID, ACTIVE)
    assert grant(state) is None
    state.apply(8, "key", ID, REVOKED)
    found = grant(state)
    assert found is not None
    assert found.key.status == "Revoked"
    state.apply(9, "key", *named(key_record(OTHER_KEY)))
    assert grant(state, OTHER_KEY) is not None, "a key made since is taken"


@pytest.mark.parametrize("number", [7, 8, 10**9])
def test_a_revoked_key_stays_revoked_whatever_number_a_record_claims(number: int) -> None:
    state = filled()
    state.follow([(7, "key", ID, REVOKED)])
    state.follow([(number, "key", ID, ACTIVE)])
    found = grant(state)
    assert found is not None
    assert found.key.status == "Revoked"


def test_a_copy_that_has_older_records_after_newer_ones_gives_the_newer() -> None:
    state = filled().empty()
    state.take(7, pack("key", ID, REVOKED))
    state.take(2, pack("key", ID, ACTIVE))
    assert state.records.get("key", ID) == REVOKED


def test_a_look_up_runs_ahead_of_the_feed_and_leaves_its_place() -> None:
    state = filled()
    state.apply(9, "key", ID, REVOKED)
    assert state.number == 2
    state.follow([(7, "key", ID, REVOKED), (8, "organization", *named(organization(ORGANIZATION)))])
    assert state.number == 8


@pytest.mark.parametrize(
    "damage",
    [{"ip_allow": ["no network"]}, {"scopes": None}, {"expires_at": "soon"}, {"environment": []}],
)
def test_a_key_that_can_not_be_read_is_unknown_and_its_next_record_heals_it(
    damage: dict[str, Any],
) -> None:
    state = filled()
    state.follow([(3, "key", *named(key_record(KEY, **damage)))])
    if "environment" not in damage:
        assert grant(state) is None
        assert not state.knows_key(digest_of(PEPPER, KEY))
    state.follow([(4, "key", ID, ACTIVE)])
    assert grant(state) is not None


def test_a_subscription_that_can_not_be_read_is_none() -> None:
    state = filled()
    broken = subscription_record(standings=[{"id": "x"}])
    state.follow([(3, "subscription", str(SUBSCRIPTION), broken)])
    found = grant(state)
    assert found is not None
    assert found.subscription is None


def test_an_address_is_blocked_until_the_end_of_its_block_or_until_that_is_lifted() -> None:
    state, now = filled(), clock.now()
    home, other = ip_address("192.0.2.7"), ip_address("2001:db8::1")
    ends_at = now + timedelta(minutes=5)
    block = {"network": "192.0.2.0/24", "key_id": None, "ends_at": clock.to_wire(ends_at)}
    state.apply(3, "block", str(UUID(int=77)), block)
    assert state.blocked_until(home, clock.to_us(now)) == ends_at
    assert state.blocked_until(home, clock.to_us(ends_at)) is None
    assert state.blocked_until(other, clock.to_us(now)) is None
    state.apply(4, "block", str(UUID(int=77)), None)
    assert state.blocked_until(home, clock.to_us(now)) is None


def test_a_blocked_key_is_another_grant_at_once_and_the_old_one_when_it_is_let_in() -> None:
    state, until = filled(), clock.now() + timedelta(minutes=5)
    block = {"network": None, "key_id": ID, "ends_at": clock.to_wire(until)}
    free = grant(state)
    assert free is not None
    assert free.blocked_until is None
    state.apply(3, "block", str(UUID(int=77)), block)
    blocked, other = grant(state), grant(state, OTHER_KEY)
    assert blocked is not None
    assert blocked.blocked_until == until
    assert other is not None
    assert other.blocked_until is None
    state.apply(4, "block", str(UUID(int=77)), None)
    assert grant(state) == free
