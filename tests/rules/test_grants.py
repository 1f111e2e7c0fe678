# SPDX-License-Identifier: Apache-2.0
"""`decide` gives every key at every route and instant a verdict, in the order of the pipeline."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from itertools import product
from urllib.parse import parse_qsl
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import CATALOGUE
from nimbus.rules.grants import (
    ALLOWED,
    AddressList,
    Grant,
    Key,
    Plan,
    Route,
    Standing,
    Subscription,
    choose_subscription,
    decide,
    key_check,
    parameter_verdict,
    well_formed,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HERE = ip_address("192.0.2.7")
ORGANIZATION, PROVIDER, PRODUCT, OTHER = UUID(int=1), UUID(int=2), UUID(int=3), UUID(int=9)

PLAN = Plan(id=UUID(int=10), slug="starter", name="Starter", rank=1, rate=None)
SUBSCRIPTION = Subscription(
    id=UUID(int=20),
    organization_id=ORGANIZATION,
    provider_organization_id=PROVIDER,
    product_id=PRODUCT,
    status="Active",
    trial_ends_at=None,
    ends_at=None,
    plan=PLAN,
    standings=(),
)
KEY = Key(
    id=UUID(int=30),
    organization_id=ORGANIZATION,
    environment="Live",
    status="Active",
    scopes=frozenset({"wind.read"}),
    networks=(),
    expires_at=None,
    retires_at=None,
    rate=None,
    product_id=None,
    subscription_id=None,
)
GRANT = Grant(KEY, "Active", PRODUCT, SUBSCRIPTION)
ROUTE = Route(
    id=UUID(int=40),
    method="GET",
    path="/farms",
    upstream_path="/farms",
    scope=None,
    minimum_rank=None,
    minimum_plan=None,
    weight=1,
    rate=None,
)


ALLOWED_HERE = AddressList((ip_network("192.0.2.0/24"),))
ELSEWHERE = AddressList((ip_network("198.51.100.0/24"), ip_network("2001:db8::/32")))
DENIED = AddressList((ip_network("192.0.2.0/24"),), (ip_network("192.0.2.7/32"),))


def key(**changes: object) -> Grant:
    return replace(GRANT, key=replace(KEY, **changes))


def subscribed(**changes: object) -> Grant:
    return replace(GRANT, subscription=replace(SUBSCRIPTION, **changes))


REFUSED = [
    (None, ROUTE, "invalid_api_key"),
    (key(status="Revoked"), ROUTE, "api_key_revoked"),
    (key(expires_at=NOW), ROUTE, "api_key_expired"),
    (key(retires_at=NOW), ROUTE, "api_key_expired"),
    (replace(GRANT, blocked_until=NOW + MICROSECOND), ROUTE, "rate_limited"),
    (key(networks=(ip_network("198.51.100.0/24"),)), ROUTE, "ip_not_allowed"),
    (GRANT, replace(ROUTE, address_lists=(DENIED,)), "ip_not_allowed"),
    (GRANT, replace(ROUTE, address_lists=(ALLOWED_HERE, ELSEWHERE)), "ip_not_allowed"),
    (replace(GRANT, organization_status="Suspended"), ROUTE, "organization_suspended"),
    (replace(GRANT, organization_status="Cancelled"), ROUTE, "organization_suspended"),
    (key(product_id=OTHER), ROUTE, "subscription_required"),
    (replace(GRANT, subscription=None), ROUTE, "subscription_required"),
    (subscribed(status="Suspended"), ROUTE, "subscription_suspended"),
    (subscribed(status="Paused"), ROUTE, "subscription_required"),
    (subscribed(status="Expired"), ROUTE, "subscription_required"),
    (subscribed(status="Trial", trial_ends_at=NOW), ROUTE, "subscription_required"),
    (subscribed(ends_at=NOW), ROUTE, "subscription_required"),
    (subscribed(status="Cancelled"), ROUTE, "subscription_required"),
    (GRANT, replace(ROUTE, minimum_rank=2, minimum_plan="Professional"), "plan_required"),
    (GRANT, replace(ROUTE, scope="wind.write"), "insufficient_scope"),
]
SERVED = [
    replace(GRANT, blocked_until=NOW),
    key(expires_at=NOW + MICROSECOND),
    key(retires_at=NOW + MICROSECOND),
    key(networks=(ip_network("198.51.100.0/24"), ip_network("192.0.2.0/24"))),
    key(product_id=PRODUCT, subscription_id=SUBSCRIPTION.id),
    subscribed(status="Trial", trial_ends_at=NOW + MICROSECOND),
    subscribed(status="PastDue"),
    subscribed(status="Cancelled", ends_at=NOW + MICROSECOND),
]


@pytest.mark.parametrize(("grant", "route", "code"), REFUSED)
def test_each_reason_to_refuse_has_its_code(grant: Grant | None, route: Route, code: str) -> None:
    assert decide(grant, route, HERE, NOW).code == code
    assert code in CATALOGUE


@pytest.mark.parametrize("grant", SERVED)
def test_what_is_valid_up_to_the_last_microsecond_is_served(grant: Grant) -> None:
    assert decide(grant, ROUTE, HERE, NOW) is ALLOWED


def test_the_refusal_names_the_plan_and_the_scope() -> None:
    plan = decide(GRANT, replace(ROUTE, minimum_rank=2, minimum_plan="Professional"), HERE, NOW)
    scope = decide(GRANT, replace(ROUTE, scope="wind.write"), HERE, NOW)
    assert "Professional" in plan.detail
    assert "wind.write" in scope.detail


def test_the_truth_table_of_key_properties_allows_only_when_all_fit() -> None:
    flags = list(product([True, False], repeat=7))
    for active, valid, address, organization, subscription, plan, scope in flags:
        grant = Grant(
            replace(
                KEY,
                status="Active" if active else "Revoked",
                expires_at=NOW + MICROSECOND if valid else NOW,
                networks=(ip_network("192.0.2.0/24" if address else "203.0.113.0/24"),),
                scopes=frozenset({"a"} if scope else ()),
            ),
            "Active" if organization else "Suspended",
            PRODUCT,
            SUBSCRIPTION if subscription else None,
        )
        route = replace(ROUTE, scope="a", minimum_rank=1 if plan else 2)
        verdict = decide(grant, route, HERE, NOW)
        fits = [active, valid, address, organization, subscription, plan, scope]
        order = [
            "api_key_revoked",
            "api_key_expired",
            "ip_not_allowed",
            "organization_suspended",
            "subscription_required",
            "plan_required",
            "insufficient_scope",
        ]
        expected = "" if all(fits) else order[fits.index(False)]
        assert verdict.code == expected


@given(
    grant=st.builds(
        Grant,
        st.builds(
            replace,
            st.just(KEY),
            status=st.text(max_size=8),
            expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
            retires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
            product_id=st.none() | st.uuids(),
        ),
        st.text(max_size=8),
        st.just(PRODUCT),
        st.none()
        | st.builds(
            replace,
            st.just(SUBSCRIPTION),
            status=st.text(max_size=8)
            | st.sampled_from(["Active", "Trial", "PastDue", "Cancelled"]),
            ends_at=st.none() | st.datetimes(timezones=st.just(UTC)),
            trial_ends_at=st.none() | st.datetimes(timezones=st.just(UTC)),
        ),
    ),
    as_of=st.datetimes(timezones=st.just(UTC)),
    address=st.ip_addresses(),
)
def test_every_input_gets_a_verdict_from_the_catalogue(grant, as_of, address) -> None:
    verdict = decide(grant, ROUTE, address, as_of)
    assert verdict.code == "" or verdict.code in CATALOGUE


def test_a_bound_key_speaks_for_its_subscription_and_a_free_one_for_the_best() -> None:
    old = replace(SUBSCRIPTION, id=UUID(int=21), status="Expired")
    foreign = replace(SUBSCRIPTION, id=UUID(int=22), organization_id=OTHER)
    assert choose_subscription(KEY, [old, SUBSCRIPTION, foreign]) is SUBSCRIPTION
    assert choose_subscription(replace(KEY, subscription_id=old.id), [old, SUBSCRIPTION]) is old
    assert choose_subscription(KEY, [foreign]) is None


def test_standings_of_a_period_are_half_open() -> None:
    month = Standing(UUID(int=50), "api_calls", 10, "deny", NOW, datetime(2026, 6, 1, tzinfo=UTC))
    subscription = replace(SUBSCRIPTION, standings=(month,))
    assert subscription.standings_at("api_calls", NOW) == (month,)
    assert subscription.standings_at("api_calls", NOW - MICROSECOND) == ()
    assert subscription.standings_at("api_calls", month.ends_at) == ()
    assert subscription.standings_at("reports", NOW) == ()


def test_a_key_is_known_by_its_form_and_checksum() -> None:
    body = b"nimbus_live_" + b"0" * 42 + b"z"
    secret = body + key_check(body)
    assert well_formed(secret)
    for broken in (
        secret[:-1],
        secret + b"0",
        secret[:-1] + (b"1" if secret[-1:] != b"1" else b"2"),
        secret.upper(),
        secret.replace(b"live", b"test"),
        b"",
        b"nimbus_live_" + b"\xc3" * 49,
    ):
        assert not well_formed(broken)


NETWORKS = st.lists(
    st.builds(
        lambda address, size: ip_network((address, min(size, address.max_prefixlen)), strict=False),
        st.sampled_from([HERE, ip_address("192.0.2.8"), ip_address("2001:db8::7")])
        | st.ip_addresses(),
        st.integers(0, 128),
    ),
    max_size=4,
)
NEARBY = st.sampled_from([HERE, ip_address("192.0.2.8"), ip_address("2001:db8::7")])


def lies_in(address, networks) -> bool:
    """Whether the first bits of the address are those of a network, told from its text."""
    bits = format(int(address), f"0{address.max_prefixlen}b")
    return any(
        network.version == address.version
        and bits.startswith(
            format(int(network.network_address), f"0{network.max_prefixlen}b")[: network.prefixlen]
        )
        for network in networks
    )


@given(st.lists(st.tuples(NETWORKS, NETWORKS), max_size=3), NETWORKS, NEARBY | st.ip_addresses())
def test_a_call_passes_the_lists_of_key_product_and_route_or_is_refused(
    pairs, of_key, address
) -> None:
    lists = tuple(AddressList(tuple(allow), tuple(deny)) for allow, deny in pairs)

    verdict = decide(key(networks=tuple(of_key)), replace(ROUTE, address_lists=lists), address, NOW)

    refused = bool(of_key) and not lies_in(address, of_key)
    for allow, deny in pairs:
        refused |= lies_in(address, deny) or (bool(allow) and not lies_in(address, allow))
    assert verdict.code == ("ip_not_allowed" if refused else "")


def test_lists_of_addresses_come_after_the_key_and_before_the_organization() -> None:
    denied = replace(ROUTE, address_lists=(DENIED,), scope="x", minimum_rank=9)
    assert decide(key(status="Revoked"), denied, HERE, NOW).code == "api_key_revoked"
    assert decide(key(expires_at=NOW), denied, HERE, NOW).code == "api_key_expired"
    suspended = replace(GRANT, organization_status="Suspended", subscription=None)
    assert decide(suspended, denied, HERE, NOW).code == "ip_not_allowed"
    assert decide(suspended, denied, ip_address("192.0.2.8"), NOW).code == "organization_suspended"


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        (None, "city"),
        (b"", "city"),
        (b"City=Delft&since=1", "city"),
        (b"cities=1&since", "city"),
        (b"x=city&since", "city"),
        (b"city=Delft", "since"),
        (b"city&since", None),
        (b"since=&city=", None),
        (b"a=1&&city=1&since=2&city=3", None),
        (b"c%69ty=Delft&%73ince=1", None),
        (b"c%2569ty=Delft&since=1", "city"),
        (b"city%00=1&since=1", "city"),
        (b"city%=1&since=1", "city"),
    ],
)
def test_the_first_required_parameter_that_is_missing_is_named(query, missing) -> None:
    verdict = parameter_verdict(replace(ROUTE, required=(b"city", b"since")), query)
    if missing is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert verdict.code == "missing_parameter"
        assert verdict.detail == f"The query parameter {missing} is missing."
    assert parameter_verdict(ROUTE, query) is None


@given(st.binary(max_size=60), st.lists(st.sampled_from([b"a", b"b", b"c d"]), max_size=3))
def test_every_query_gets_a_verdict_and_what_a_form_finds_is_found(query, required) -> None:
    verdict = parameter_verdict(replace(ROUTE, required=tuple(required)), query)

    text = query.decode("latin-1")
    pairs = parse_qsl(text, keep_blank_values=True, encoding="latin-1", separator="&")
    names = {name.encode("latin-1") for name, _ in pairs}
    assert (verdict is None) == all(name in names for name in required)
