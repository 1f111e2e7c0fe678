# SPDX-License-Identifier: Apache-2.0
"""A permit says what the law says, for as long as it says so and not a microsecond longer."""

import hmac
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.base import clock
from nimbus.gateway.origin import new_request_id
from nimbus.gateway.permit import compile_permit
from nimbus.gateway.route import RouteTable
from nimbus.gateway.state import Product
from nimbus.gateway.upstream import Upstream
from nimbus.gateway.verify import KeyedHash
from nimbus.rules.grants import (
    ALLOWED,
    AddressList,
    Grant,
    Key,
    Plan,
    Route,
    Standing,
    Subscription,
    decide,
)
from nimbus.rules.limits import Rate
from tests.gateway.house import (
    KEY,
    ORGANIZATION,
    PLAN,
    PRODUCT,
    PROVIDER,
    STANDING,
    SUBSCRIPTION,
    OpenGate,
    key_record,
    plan_record,
    request,
    subscription_record,
)

START = datetime.fromisoformat("2026-05-01T00:00:00+00:00")
HERE, THERE = ip_address("192.0.2.8"), ip_address("198.51.100.1")
PLACE = Upstream(False, "u", 80, b"u", b"", None, 1, 1)
instants = st.integers(0, 6).map(lambda day: START + timedelta(days=day))
maybe = st.none() | instants
networks = st.sampled_from([(), (ip_network("192.0.2.0/24"),)])

keys = st.builds(
    Key,
    id=st.just(UUID(int=5)),
    organization_id=st.just(ORGANIZATION),
    environment=st.sampled_from(["Live", "Test"]),
    status=st.sampled_from(["Active", "Active", "Revoked"]),
    scopes=st.sampled_from([frozenset(), frozenset(("wind.read",))]),
    networks=networks,
    expires_at=maybe,
    retires_at=maybe,
    rate=st.none() | st.just(Rate(5, 60)),
    product_id=st.sampled_from([None, PRODUCT, PROVIDER]),
    subscription_id=st.none(),
)
standings = st.builds(
    lambda start, days, limit, policy: Standing(
        STANDING, "api_calls", limit, policy, start, start + timedelta(days=days)
    ),
    instants,
    st.integers(1, 3),
    st.none() | st.just(10),
    st.sampled_from(["deny", "warn"]),
)
subscriptions = st.builds(
    lambda status, trial, end, rank, quota: Subscription(
        id=SUBSCRIPTION,
        organization_id=ORGANIZATION,
        provider_organization_id=PROVIDER,
        product_id=PRODUCT,
        status=status,
        trial_ends_at=trial,
        ends_at=end,
        plan=Plan(PLAN, "starter", "Starter", rank, None),
        standings=tuple(quota),
    ),
    st.sampled_from(["Active", "Trial", "PastDue", "Cancelled", "Suspended", "Paused", "Odd"]),
    maybe,
    maybe,
    st.integers(0, 2),
    st.lists(standings, max_size=2),
)
grants = st.builds(
    Grant,
    key=keys,
    organization_status=st.sampled_from(["Active", "Active", "Suspended", "Cancelled"]),
    product_id=st.just(PRODUCT),
    subscription=st.none() | subscriptions,
)
routes = st.builds(
    lambda scope, rank, lists: Route(
        UUID(int=6), "GET", "/a", "/a", scope, rank, "Plus", 1, None, address_lists=lists
    ),
    st.sampled_from([None, "wind.read"]),
    st.none() | st.just(1),
    st.sampled_from([(), (AddressList(deny=(ip_network("192.0.2.0/24"),)),)]),
)


def product(route: Route) -> Product:
    return Product(PRODUCT, b"demo", PROVIDER, False, {"Live": PLACE}, RouteTable([route]))


@given(grants, routes, instants, st.lists(instants, max_size=4))
def test_a_permit_is_what_decide_says_in_its_whole_span(
    grant: Grant, route: Route, made: datetime, asked: list[datetime]
) -> None:
    permit = compile_permit(grant, product(route), route, made)
    edges = [
        clock.from_us(edge) for edge in (permit.since, permit.until - 1) if abs(edge) < 1 << 60
    ]
    assert permit.since <= clock.to_us(made) < permit.until
    for instant in (made, *edges, *asked):
        if not permit.since <= clock.to_us(instant) < permit.until:
            continue
        for address in (HERE, THERE):
            verdict = decide(grant, route, address, instant)
            if permit.by_address:
                assert permit.refused is None, "asked about for each call"
            elif permit.refused is None:
                assert verdict == ALLOWED
            else:
                assert (permit.refused.code, permit.refused.detail) == (
                    verdict.code,
                    verdict.detail,
                )
        quota = grant.subscription
        open_now = () if quota is None else quota.standings_at("api_calls", instant)
        if grant.key.environment == "Live":
            assert tuple(standing for standing, _ in permit.needs) == open_now
        else:
            assert permit.needs == ()


@given(grants, routes)
def test_only_a_permit_without_exceptions_lets_calls_pass_unlooked(
    grant: Grant, route: Route
) -> None:
    permit = compile_permit(grant, product(route), route, START)
    if permit.plain:
        assert decide(grant, route, HERE, START) == ALLOWED
        assert decide(grant, route, THERE, START) == ALLOWED
        assert permit.upstream is not None
    asks = replace(route, required=(b"city",))
    assert not compile_permit(grant, product(asks), asks, START).plain


@given(st.binary(max_size=150), st.binary(max_size=100))
def test_the_prepared_hash_is_the_keyed_hash(pepper: bytes, secret: bytes) -> None:
    assert KeyedHash(pepper).digest(secret) == hmac.digest(pepper, secret, "sha256")


def test_request_ids_are_uuids_of_version_7_in_order_and_never_the_same() -> None:
    ids = [new_request_id(clock.monotonic_us()).decode() for _ in range(5_000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert {(UUID(text).version, UUID(text).variant) for text in ids} == {
        (7, "specified in RFC 4122")
    }


@pytest.mark.anyio
@pytest.mark.parametrize("change", ["key", "organization", "subscription", "plan"])
async def test_no_permit_outlives_what_it_was_made_of(gate: OpenGate, change: str) -> None:
    """On one connection, whose every byte the gate knows already."""
    changes = {
        "key": key_record(KEY, status="Revoked"),
        "organization": {"id": str(ORGANIZATION), "status": "Suspended"},
        "subscription": subscription_record(status="Paused"),
        "plan": plan_record(rate={"amount": 1, "period_s": 3600, "burst": None}),
    }
    async with gate.caller() as caller:
        for _ in range(3):
            await caller.send(request(b"GET", b"/echo"))
            assert (await caller.answer()).status == 200
        gate.feed(change, changes[change])
        answers = []
        for _ in range(2):
            await caller.send(request(b"GET", b"/echo"))
            answers.append((await caller.answer()).status)
    assert answers == ([200, 429] if change == "plan" else [answers[0]] * 2)
    assert answers[-1] in {401, 403, 429}
