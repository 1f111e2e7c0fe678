# SPDX-License-Identifier: Apache-2.0
"""What a provider says to the gate is done: address lists, required parameters."""

import itertools

import pytest

from tests.gateway.house import (
    KEY,
    OTHER_ORGANIZATION,
    UNKNOWN_KEY,
    OpenGate,
    Upstream,
    key_record,
    plan_record,
    product_record,
    route,
)

pytestmark = pytest.mark.anyio

REFUSALS = {
    "method": "method_not_allowed",
    **dict.fromkeys(("of_key", "of_product", "of_route"), "ip_not_allowed"),
    "bound": "subscription_required",
    "plan": "plan_required",
    "scope": "insufficient_scope",
    "environment": "unavailable",
}
HERE, ELSEWHERE = "127.0.0.1/32", "192.0.2.0/24"


@pytest.mark.parametrize(
    ("lists", "status"),
    [
        (({}, {}, {}), 200),
        (({"ip_allow": [HERE]}, {"ip_allow": [HERE]}, {"ip_allow": [HERE, ELSEWHERE]}), 200),
        (({}, {"ip_deny": [ELSEWHERE]}, {"ip_deny": ["::/0"]}), 200),
        (({"ip_allow": [ELSEWHERE]}, {}, {}), 403),
        (({}, {"ip_allow": [ELSEWHERE]}, {}), 403),
        (({}, {}, {"ip_allow": [ELSEWHERE, "2001:db8::/32"]}), 403),
        (({"ip_allow": [HERE]}, {"ip_allow": [ELSEWHERE]}, {"ip_allow": [HERE]}), 403),
        (({"ip_allow": [HERE]}, {"ip_allow": [HERE]}, {"ip_deny": ["127.0.0.0/8"]}), 403),
        (({}, {"ip_deny": ["0.0.0.0/0"]}, {"ip_allow": [HERE]}), 403),
    ],
)
async def test_a_call_passes_the_lists_of_key_product_and_route(
    gate: OpenGate, upstream: Upstream, lists: tuple[dict[str, list[str]], ...], status: int
) -> None:
    of_key, of_product, of_route = lists
    routes = [route("GET", "/echo", **of_route)]
    gate.feed("product", product_record(upstream.port, routes=routes, **of_product))
    gate.feed("key", key_record(KEY, **of_key))

    answer = await gate.ask(b"GET", b"/echo")

    assert answer.status == status
    [event] = gate.events()
    if status == 200:
        assert event.billable
    else:
        assert answer.code == event.refusal == "ip_not_allowed"
        assert upstream.seen == []


async def test_only_a_call_that_fits_in_everything_reaches_the_upstream(
    gate: OpenGate, upstream: Upstream
) -> None:
    names = ("method", "of_key", "of_product", "of_route", "bound", "plan", "scope", "environment")
    for flags in itertools.product((True, False), repeat=len(names)):
        fits = dict(zip(names, flags, strict=True))
        lists = {
            name: {} if fits[name] else {"ip_allow": [ELSEWHERE]}
            for name in ("of_key", "of_product", "of_route")
        }
        wants = {
            "scope": None if fits["scope"] else "wind.write",
            "minimum_rank": 1 if fits["plan"] else 2,
            **lists["of_route"],
        }
        method = "GET" if fits["method"] else "PUT"
        record = product_record(
            upstream.port, routes=[route(method, "/echo", **wants)], **lists["of_product"]
        )
        if not fits["environment"]:
            del record["upstreams"]["Live"]
        gate.feed("product", record)
        other = None if fits["bound"] else str(OTHER_ORGANIZATION)
        gate.feed("key", key_record(KEY, product_id=other, **lists["of_key"]))
        before = len(upstream.seen)

        answer = await gate.ask(b"GET", b"/echo")

        first = next((name for name in names if not fits[name]), None)
        assert answer.status == 200 if first is None else answer.code == REFUSALS[first], fits
        assert len(upstream.seen) - before == (first is None), fits


async def test_a_changed_list_is_in_force_with_the_next_call(
    gate: OpenGate, upstream: Upstream
) -> None:
    async with gate.caller() as caller:

        async def asked() -> int:
            await caller.send(b"GET /api/v1/demo/echo HTTP/1.1\r\nHost: gw.test\r\n")
            await caller.send(b"X-API-Key: " + KEY + b"\r\n\r\n")
            return (await caller.answer()).status

        assert await asked() == 200
        gate.feed("product", product_record(upstream.port, ip_deny=["127.0.0.0/8"]))
        assert await asked() == 403
        gate.feed("product", product_record(upstream.port))
        assert await asked() == 200


@pytest.fixture
async def checked(gate: OpenGate, upstream: Upstream) -> OpenGate:
    """The gate with a product that wants its parameters, and a plan with a rate limit."""
    wanted = {"required": ["city", "since"], "scope": None}
    routes = [
        route("GET", "/weather/{day}", **wanted),
        route("GET", "/scoped", **{**wanted, "scope": "wind.write"}),
        route("GET", "/pro", **wanted, minimum_rank=2, minimum_plan="Professional"),
        route("GET", "/free"),
    ]
    record = product_record(upstream.port, routes=routes, parameter_check=True, key_in_query=True)
    gate.feed("product", record)
    gate.feed("plan", plan_record(rate={"amount": 1, "period_s": 3600, "burst": None}))
    return gate


async def test_a_missing_parameter_is_named_and_costs_nothing(
    checked: OpenGate, upstream: Upstream
) -> None:
    for query, missing in (
        (b"", b"city"),
        (b"?", b"city"),
        (b"?since=1", b"city"),
        (b"?city=Delft", b"since"),
        (b"?City=Delft&since=1", b"city"),
    ):
        answer = await checked.ask(b"GET", b"/weather/7" + query)
        assert (answer.status, answer.code) == (400, "missing_parameter")
        assert answer.json["error"] == "Missing parameter"
        assert answer.json["detail"] == f"The query parameter {missing.decode()} is missing."
    assert upstream.seen == []
    assert {(event.refusal, event.units) for event in checked.events()} == {
        ("missing_parameter", 0)
    }
    # Those came before the limit of one an hour.
    assert (await checked.ask(b"GET", b"/weather/7?c%69ty=&since")).status == 200
    assert (await checked.ask(b"GET", b"/weather/7?city=&since")).code == "rate_limited"
    assert (await checked.ask(b"GET", b"/weather/7")).code == "missing_parameter"


async def test_parameters_come_after_key_plan_and_scope(checked: OpenGate) -> None:
    for path, key, code in (
        (b"/weather/7", UNKNOWN_KEY, "invalid_api_key"),
        (b"/scoped", KEY, "insufficient_scope"),
        (b"/pro", KEY, "plan_required"),
    ):
        assert (await checked.ask(b"GET", path, key=key)).code == code


async def test_without_the_product_s_word_nothing_is_checked(
    gate: OpenGate, upstream: Upstream
) -> None:
    routes = [route("GET", "/weather", required=["city"])]
    gate.feed("product", product_record(upstream.port, routes=routes))

    assert (await gate.ask(b"GET", b"/weather")).status == 200
