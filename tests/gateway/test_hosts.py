# SPDX-License-Identifier: Apache-2.0
"""At a host name of its own a product is served at `/`, and nothing else is."""

import pytest

from tests.gateway.house import (
    KEY,
    OTHER_ORGANIZATION,
    PRODUCT,
    OpenGate,
    Upstream,
    product_record,
    route,
)

pytestmark = pytest.mark.anyio

HOST = b"api.wind.example"


def at(method: bytes, target: bytes, *lines: bytes, host: bytes = HOST) -> bytes:
    """A request as a caller of that host makes it."""
    head = [b"%s %s HTTP/1.1" % (method, target), b"Host: " + host]
    return b"\r\n".join([*head, b"Authorization: Bearer " + KEY, *lines, b"", b""])


@pytest.fixture
async def served(gate: OpenGate, upstream: Upstream) -> OpenGate:
    """The gate, with the demo product at a host name of its own as well."""
    gate.feed("product", product_record(upstream.port, hosts=[HOST.decode(), "w.example"]))
    return gate


async def ask(gate: OpenGate, *requests: bytes):
    async with gate.caller() as caller:
        for data in requests:
            await caller.send(data)
        return [await caller.answer() for _ in requests]


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"/farms/7?x=1", HOST),
        (b"/farms/7?x=1", b"API.Wind.Example:8080"),
        (b"/farms/7?x=1", b"api.wind.example."),
        (b"/farms/7?x=1", b"w.example"),
        (b"http://api.wind.example/farms/7?x=1", HOST),
        (b"http://API.wind.example:80/farms/7?x=1", b"api.wind.example:80"),
    ],
)
async def test_a_path_at_a_product_s_host_is_the_route_s(
    served: OpenGate, upstream: Upstream, target: bytes, host: bytes
) -> None:
    [answer] = await ask(served, at(b"GET", target, host=host))

    assert answer.status == 200
    [seen] = upstream.seen
    assert seen.head.startswith(b"GET /v2/site/7?x=1 HTTP/1.1\r\n")
    [event] = served.events()
    assert (event.product_id, event.billable) == (PRODUCT, True)


async def test_a_websocket_at_a_product_s_host_is_the_route_s(
    served: OpenGate, upstream: Upstream
) -> None:
    wish = (
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    record = product_record(upstream.port, hosts=[HOST.decode()], websockets=True)
    served.feed("product", record)
    upstream.say(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")

    for target in (b"/farms/7", b"http://api.wind.example/farms/7"):
        [answer] = await ask(served, at(b"GET", target, *wish))
        assert (answer.status, answer.body) == (403, b"no")
        assert upstream.seen[-1].line == "GET /v2/site/7 HTTP/1.1"
        assert upstream.seen[-1].fields["upgrade"] == "websocket"
    for target, host, status in ((b"/api/docs", HOST, 404), (b"/echo", b"nobody.example", 421)):
        [answer] = await ask(served, at(b"GET", target, *wish, host=host))
        assert answer.status == status
    assert len(upstream.seen) == 2


async def test_both_addresses_lead_to_the_same_product_on_one_connection(
    served: OpenGate, upstream: Upstream
) -> None:
    answers = await ask(
        served,
        at(b"GET", b"/echo"),
        at(b"GET", b"/api/v1/demo/echo", host=b"gw.test"),
        at(b"GET", b"/echo"),
    )

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert len({(event.product_id, event.route_id) for event in served.events()}) == 1


@pytest.mark.parametrize(
    "target",
    [
        *(b"/", b"/api/provider/products", b"/api/v1/demo/echo", b"/api/public/terms", b"/healthz"),
        *(b"/login", b"/index.html", b"/api/openapi.json", b"http://api.wind.example/api/docs"),
    ],
)
async def test_portal_and_management_api_are_not_at_a_product_s_host(
    served: OpenGate, upstream: Upstream, target: bytes
) -> None:
    [answer] = await ask(served, at(b"GET", target))

    assert (answer.status, answer.code) == (404, "route_not_found")
    assert upstream.seen == []


async def test_a_product_that_takes_every_path_gets_what_looks_like_the_api(
    served: OpenGate, upstream: Upstream
) -> None:
    everything = product_record(upstream.port, hosts=[HOST.decode()], routes=[route("GET", "/*")])
    served.feed("product", everything)

    [answer] = await ask(served, at(b"GET", b"/api/provider/products"))

    assert answer.status == 200
    assert upstream.seen[0].head.startswith(b"GET /api/provider/products HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("target", "host", "refusal"),
    [
        (b"/echo", b"nobody.example", (421, "unknown_host")),
        (b"/echo", b"x.api.wind.example", (421, "unknown_host")),
        (b"/echo", b"wind.example", (421, "unknown_host")),
        (b"/api/v1/demo/echo", b"nobody.example", (421, "unknown_host")),
        (b"http://nobody.example/echo", b"nobody.example", (421, "unknown_host")),
        (b"http://api.wind.example/echo", b"gw.test", (400, "malformed_request")),
        (b"http://gw.test/echo", HOST, (400, "malformed_request")),
    ],
)
async def test_a_host_that_is_nobody_s_is_refused(
    served: OpenGate, upstream: Upstream, target: bytes, host: bytes, refusal: tuple[int, str]
) -> None:
    [answer] = await ask(served, at(b"GET", target, host=host))

    assert (answer.status, answer.code) == refusal
    assert upstream.seen == []
    assert served.events() == []


async def test_a_host_is_served_as_long_as_the_feed_says_so(
    served: OpenGate, upstream: Upstream
) -> None:
    async def asked() -> int:
        [answer] = await ask(served, at(b"GET", b"/echo"))
        return answer.status

    assert await asked() == 200
    served.feed("product", product_record(upstream.port, hosts=[]))
    assert await asked() == 421
    served.feed("product", product_record(upstream.port, hosts=[HOST.decode()]))
    assert await asked() == 200
    draft = product_record(upstream.port, hosts=[HOST.decode()], status="draft")
    served.feed("product", draft)
    assert await asked() == 421


async def test_before_the_first_records_no_host_is_unknown(
    served: OpenGate, upstream: Upstream
) -> None:
    served.gate.state.become(served.gate.state.empty())
    served.gate.state.complete = False

    [answer] = await ask(served, at(b"GET", b"/echo"))

    assert (answer.status, answer.code, answer["retry-after"]) == (503, "unavailable", "1")
    assert upstream.seen == []


async def test_our_own_host_is_ours_whatever_a_record_says(
    served: OpenGate, upstream: Upstream
) -> None:
    served.feed("product", product_record(upstream.port, hosts=["gw.test"]))

    echo, portal = await ask(
        served,
        at(b"GET", b"/api/v1/demo/echo", host=b"gw.test"),
        at(b"GET", b"/echo", host=b"gw.test"),
    )

    assert echo.status == 200
    assert len(upstream.seen) == 1  # the other one went to the management API's socket
    assert portal.status == 503


async def test_a_name_that_moves_leads_to_its_new_product_whatever_comes_first(
    served: OpenGate, upstream: Upstream
) -> None:
    other = product_record(
        upstream.port, id=str(OTHER_ORGANIZATION), slug="other", hosts=[HOST.decode()]
    )
    served.feed("product", other)
    served.feed("product", product_record(upstream.port, hosts=[]))
    state = served.gate.state

    found = state.product_of_host(HOST)
    assert found is not None
    assert found.slug == b"other"
    served.feed("product", None, OTHER_ORGANIZATION)
    assert state.product_of_host(HOST) is None
