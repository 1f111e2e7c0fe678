# SPDX-License-Identifier: Apache-2.0
"""A call goes through the gate: what the upstream sees, what the caller gets, what is metered."""

import asyncio
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from nimbus.gateway.server import ClientConnection
from nimbus.rules.metering import SlotState
from tests.gateway.house import (
    HOST,
    KEY,
    LOOPBACK,
    ORGANIZATION,
    PRODUCT,
    PROVIDER,
    SUBSCRIPTION,
    TEST_KEY,
    OpenGate,
    Seen,
    Upstream,
    count_slots,
    open_gate,
    product_record,
    request,
    until,
)

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_call_reaches_the_upstream_with_its_identity_and_without_the_credentials(
    gate: OpenGate, upstream: Upstream
) -> None:
    answer = await gate.ask(
        b"GET",
        b"/farms/7?x=%20&y=a/b?",
        b"Cookie: nimbus_refresh=x",
        b"X-Nimbus-Plan: enterprise",
        b"X_Nimbus_Plan: enterprise",
        b"X-Forwarded-For: 10.0.0.1",
        b"X-Request-Id: same",
        b"X-Original-URL: /pro/x",
        b"X-HTTP-Method-Override: DELETE",
        b"Connection: X-Hop, Authorization",
        b"X-Hop: one",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"User-Agent: tests",
    )
    assert answer.status == 200
    seen = upstream.seen[0]
    assert seen.line == "GET /v2/site/7?x=%20&y=a/b? HTTP/1.1"
    fields = seen.fields
    assert fields.pop("x-request-id") == answer["x-request-id"] != "same"
    assert len(fields.pop("traceparent")) == 55
    assert fields == {
        "host": f"127.0.0.1:{upstream.port}",
        "user-agent": "tests",
        "x-nimbus-organization": str(ORGANIZATION),
        "x-nimbus-subscription": str(SUBSCRIPTION),
        "x-nimbus-plan": "starter",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": HOST.decode(),
    }


async def test_a_served_call_leaves_one_event_with_what_is_known_of_it(
    gate: OpenGate, upstream: Upstream
) -> None:
    upstream.say(
        b"HTTP/1.1 201 Created\r\nX-Nimbus-Usage: reports=1, tokens=532\r\n"
        b"Content-Length: 5\r\n\r\nhello"
    )
    async with gate.caller() as caller:
        await caller.send(request(b"POST", b"/echo", b"Content-Length: 4") + b"data")
        answer = await caller.answer()
    [event] = gate.events()
    assert (answer.status, answer.body) == (201, b"hello")
    assert not answer.has("x-nimbus-usage")
    assert (event.status, event.refusal, event.billable, event.units) == (201, "", True, 1)
    assert (event.bytes_in, event.bytes_out) == (4, 5)
    assert event.meters == (("reports", Decimal(1)), ("tokens", Decimal(532)))
    assert event.organization_id == ORGANIZATION
    assert event.provider_organization_id == PROVIDER
    assert (event.product_id, event.subscription_id) == (PRODUCT, SUBSCRIPTION)
    assert (event.method, event.environment, str(event.ip)) == ("POST", "Live", "127.0.0.1")
    assert event.request_id == answer["x-request-id"]
    assert event.duration_us >= event.upstream_us > 0


@pytest.mark.parametrize(
    ("answer", "billable"),
    [(b"404 Not Found", True), (b"301 Moved", True), (b"500 Oops", False), (b"503 Busy", False)],
)
async def test_billed_is_what_the_upstream_answered_below_500(
    gate: OpenGate, upstream: Upstream, answer: bytes, billable: bool
) -> None:
    upstream.say(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\n\r\n")
    assert (await gate.ask(b"GET", b"/echo")).status == int(answer[:3])
    [event] = gate.events()
    assert (event.billable, event.units) == (billable, int(billable))


async def test_test_calls_are_recorded_apart_and_never_billed(gate: OpenGate) -> None:
    assert (await gate.ask(b"GET", b"/heavy", key=TEST_KEY)).status == 200
    [event] = gate.events()
    assert (event.environment, event.billable, event.units) == ("Test", False, 0)


async def test_keys_reach_only_the_upstream_of_their_environment(
    gate: OpenGate, upstream: Upstream
) -> None:
    record = product_record(upstream.port)
    for environment, key in (("Live", TEST_KEY), ("Test", KEY)):
        only = {environment: record["upstreams"][environment]}
        gate.feed("product", {**record, "upstreams": only})
        answer = await gate.ask(b"GET", b"/echo", key=key)
        assert (answer.status, answer.code) == (503, "unavailable")
    assert upstream.seen == []


async def test_the_upstreams_own_credentials_replace_the_callers(
    gate: OpenGate, upstream: Upstream
) -> None:
    record = product_record(upstream.port)
    sealed = {"auth_header": "X-Upstream-Key", "auth_secret_sealed": "c2VjcmV0"}
    record["upstreams"]["Live"] = {**record["upstreams"]["Live"], **sealed}
    record["upstreams"]["Live"]["base_url"] += "/base/"
    gate.feed("product", record)
    assert (await gate.ask(b"GET", b"/echo", b"X-Upstream-Key: mine")).status == 200
    assert upstream.seen[0].line == "GET /base/echo HTTP/1.1"
    assert upstream.seen[0].fields["x-upstream-key"] == "secret"
    assert "authorization" not in upstream.seen[0].fields


async def test_a_key_in_the_query_is_taken_where_allowed_and_never_passed_on(
    gate: OpenGate, upstream: Upstream
) -> None:
    target = b"/echo?a=1&api_key=" + KEY + b"&b=2"
    async with gate.caller() as caller:
        await caller.send(request(b"GET", target, key=None))
        assert (await caller.answer()).code == "missing_api_key"
        gate.feed("product", product_record(upstream.port, key_in_query=True))
        await caller.send(request(b"GET", target, key=None))
        assert (await caller.answer()).status == 200
        await caller.send(request(b"GET", target))
        assert (await caller.answer()).code == "ambiguous_credentials"
    assert upstream.seen[0].line == "GET /echo?a=1&b=2 HTTP/1.1"


async def test_bodies_are_streamed_with_their_framing_and_trailers_dropped(
    gate: OpenGate, upstream: Upstream
) -> None:
    async with gate.caller() as caller:
        head = request(b"POST", b"/echo", b"Transfer-Encoding: chunked")
        await caller.send(head + b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-T: v\r\n\r\n")
        assert (await caller.answer()).json["body"] == "hello!"
        await caller.send(request(b"PUT", b"/echo", b"Content-Length: 3") + b"abc")
        assert (await caller.answer()).json["body"] == "abc"
        await caller.send(request(b"POST", b"/echo"))
        assert (await caller.answer()).json["body"] == ""
    chunked, sized, empty = upstream.seen
    assert chunked.fields["transfer-encoding"] == "chunked"
    assert "content-length" not in chunked.fields
    assert sized.fields["content-length"] == "3"
    assert empty.fields["content-length"] == "0"
    assert [event.bytes_in for event in gate.events()] == [6, 3, 0]


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        (
            b"GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"ok",
        ),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + OK, b"ok"),
        (b"GET", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
)
async def test_each_framing_of_an_answer_passes_and_the_connection_goes_on(
    gate: OpenGate, upstream: Upstream, method: bytes, answer: bytes, body: bytes
) -> None:
    upstream.say(answer)
    async with gate.caller() as caller:
        for _ in range(3):
            await caller.send(request(method, b"/echo"))
            found = await caller.answer(method)
            assert found.body == body
            assert not (found.status == 204 and found.has("content-length"))
    assert upstream.connections == 1
    assert len(gate.events()) == 3


async def test_an_answer_that_ends_by_closing_is_framed_for_the_caller(
    gate: OpenGate, upstream: Upstream
) -> None:
    upstream.say(b"HTTP/1.1 200 OK\r\n\r\nuntil ", b"the end", close=True)
    async with gate.caller() as caller:
        for _ in range(2):
            await caller.send(request(b"GET", b"/echo"))
            assert (await caller.answer()).body == b"until the end"
    assert upstream.connections == 2


async def test_http_1_0_callers_get_no_chunks_and_are_closed(
    gate: OpenGate, upstream: Upstream
) -> None:
    upstream.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo").replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await caller.answer()
        assert not answer.has("transfer-encoding")
        assert answer.body == b"ok"
        assert await caller.closed()


async def test_pipelined_calls_are_answered_in_order_and_metered_each(
    gate: OpenGate, upstream: Upstream
) -> None:
    calls = [request(b"GET", b"/free/%d" % n) for n in range(20)]
    async with gate.caller() as caller:
        await caller.send(b"".join(calls))
        for n in range(20):
            assert (await caller.answer()).json["line"] == f"GET /free/{n} HTTP/1.1"
    assert len(gate.events()) == 20
    assert upstream.connections == 1


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_a_call_in_small_pieces_is_the_same_call(gate: OpenGate, size: int) -> None:
    data = request(b"POST", b"/echo", b"Transfer-Encoding: chunked") + (b"5\r\nhello\r\n0\r\n\r\n")
    async with gate.caller() as caller:
        for start in range(0, len(data), size):
            await caller.send(data[start : start + size])
            await asyncio.sleep(0)
        assert (await caller.answer()).json["body"] == "hello"


async def test_connection_close_is_honoured_and_what_follows_is_not_a_request(
    gate: OpenGate, upstream: Upstream
) -> None:
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo", b"Connection: close") * 2)
        assert (await caller.answer())["connection"] == "close"
        assert await caller.closed()
    assert len(upstream.seen) == 1


async def test_continue_is_said_only_after_the_policy_agrees(
    gate: OpenGate, upstream: Upstream
) -> None:
    lines = (b"Expect: 100-continue", b"Content-Length: 5")
    async with gate.caller() as caller:
        await caller.send(request(b"POST", b"/echo", *lines))
        assert (await caller.answer()).status == 100
        await caller.send(b"hello")
        assert (await caller.answer()).json["body"] == "hello"
        await caller.send(request(b"POST", b"/echo", *lines, key=b"wrong"))
        assert (await caller.answer()).code == "invalid_api_key"
        assert await caller.closed()
    assert "expect" not in upstream.seen[0].fields


async def test_a_body_past_the_limit_never_looks_complete_to_the_upstream(
    gate: OpenGate, upstream: Upstream
) -> None:
    async with gate.caller() as caller:
        await caller.send(request(b"POST", b"/echo", b"Transfer-Encoding: chunked"))
        await caller.send(b"5\r\nhello\r\nA00001\r\n")
        answer = await caller.answer()
        assert (answer.status, answer.code) == (413, "payload_too_large")
        assert await caller.closed()
    [event] = gate.events()
    assert not event.billable
    assert not any(seen.complete for seen in upstream.seen)


@pytest.mark.parametrize(
    "tail", [b"5\nhello\n0\n\n", b"5\r\nhello world\r\n0\r\n\r\n", b"zz\r\n", b"5\r\nhello\r\n"]
)
async def test_a_broken_body_is_refused_and_the_upstream_sees_it_cut(
    gate: OpenGate, upstream: Upstream, tail: bytes
) -> None:
    async with gate.caller() as caller:
        await caller.send(request(b"POST", b"/echo", b"Transfer-Encoding: chunked") + tail)
        caller.writer.write_eof()
        answer = await caller.answer()
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert await caller.closed()
    [event] = gate.events()
    assert not event.billable
    if not event.refusal:
        await until(lambda: bool(upstream.seen))
    assert not any(seen.complete for seen in upstream.seen)


async def test_an_upstream_that_answers_early_ends_the_upload(
    gate: OpenGate, upstream: Upstream
) -> None:
    upstream.read_bodies = False
    upstream.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", close=True)
    async with gate.caller() as caller:
        await caller.send(request(b"POST", b"/echo", b"Content-Length: 200000") + b"a" * 65536)
        answer = await caller.answer()
        assert (answer.status, answer["connection"]) == (413, "close")
        await caller.send(b"b" * 134464)
        assert await caller.closed()
    assert len(gate.events()) == 1


async def test_large_bodies_pass_whole_in_both_directions(
    gate: OpenGate, upstream: Upstream
) -> None:
    payload = bytes(range(256)) * 4096 * 8
    parts = [payload[n : n + 65536] for n in range(0, len(payload), 65536)]
    upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(payload), *parts)
    async with gate.caller() as caller:
        await caller.send(
            request(b"POST", b"/echo", b"Content-Length: %d" % len(payload)) + payload
        )
        assert (await caller.answer()).body == payload
    assert upstream.seen[0].body == payload
    [event] = gate.events()
    assert (event.bytes_in, event.bytes_out) == (len(payload), len(payload))


def writers_wait(upstream: Upstream) -> bool:
    """Whether what the upstream writes is not taken any more."""
    return all(each.transport.get_write_buffer_size() > 65_536 for each in upstream.writers)


async def test_a_caller_that_does_not_read_stops_the_upstream(
    gate: OpenGate, upstream: Upstream
) -> None:
    sent = 0

    async def endless(
        _: Upstream, __: Seen, ___: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536

    upstream.script = endless
    async with gate.caller() as caller:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await caller.send(request(b"GET", b"/echo"))
        await until(lambda: any(each._full for each in gate.door.connections))
        await until(lambda: writers_wait(upstream))
        assert sent < 64 * 1024 * 1024
        caller.writer.transport.abort()
    await until(lambda: len(gate.events()) == 1)
    [event] = gate.events()
    assert (event.status, event.billable) == (200, True)


async def test_server_sent_events_pass_as_they_come(gate: OpenGate, upstream: Upstream) -> None:
    go = asyncio.Event()

    async def script(
        _: Upstream, __: Seen, ___: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
            await go.wait()
            go.clear()
        writer.write(b"0\r\n\r\n")

    upstream.script = script
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo"))
        await caller.reader.readuntil(b"\r\n\r\n")
        for number in range(3):
            piece = await caller.reader.readexactly(14)
            assert piece == b"9\r\ndata: %d\n\n\r\n" % number
            assert count_slots(gate.gate.journal.folder, SlotState.RESERVED) == 1
            go.set()
        assert await caller.reader.readexactly(5) == b"0\r\n\r\n"
    assert len(gate.events()) == 1


async def test_what_an_upstream_may_not_say_on_our_address_is_taken_off(
    gate: OpenGate, upstream: Upstream
) -> None:
    upstream.say(
        b"HTTP/1.1 200 OK\r\nX-Request-Id: forged\r\nRateLimit-Remaining: 999\r\n"
        b"Set-Cookie: nimbus_refresh=evil\r\nX-Quota-Remaining: 9\r\nConnection: X-Hop\r\n"
        b"X-Hop: 1\r\nClear-Site-Data: *\r\nETag: kept\r\nContent-Length: 2\r\n\r\nok"
    )
    answer = await gate.ask(b"GET", b"/echo")
    assert answer["x-request-id"] != "forged"
    assert answer["etag"] == "kept"
    assert "sandbox" in answer["content-security-policy"]
    for name in ("ratelimit-remaining", "set-cookie", "x-quota-remaining", "x-hop"):
        assert not answer.has(name)
    assert not answer.has("clear-site-data")


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
async def test_the_journal_has_the_event_before_the_last_byte_is_sent(
    gate: OpenGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    if chunked:
        framed = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"3\r\ndef\r\n0\r\n\r\n"
    else:
        framed = b"Content-Length: 6\r\n\r\nabcdef", b""
    upstream.say(b"HTTP/1.1 200 OK\r\n" + framed[0], framed[1])
    await gate.ask(b"GET", b"/echo")  # from then on the answer's head is known by its bytes
    folder, states = gate.gate.journal.folder, []
    original = ClientConnection.write

    def watched(self: ClientConnection, data: bytes) -> None:
        states.append(count_slots(folder, SlotState.COMPLETED))
        original(self, data)

    monkeypatch.setattr(ClientConnection, "write", watched)
    answer = await gate.ask(b"GET", b"/echo")
    assert answer.body == b"abcdef"
    assert states == [1] * (len(states) - 1) + [2]


async def test_the_callers_address_comes_from_a_trusted_proxy_only(
    tmp_path: Path, upstream: Upstream
) -> None:
    line = b"X-Forwarded-For: 198.51.100.1, 203.0.113.9, 127.0.0.5"
    for place, trusted, expected in (
        ("a", (), "127.0.0.1"),
        ("b", LOOPBACK, "203.0.113.9"),
    ):
        async with open_gate(tmp_path / place, upstream.port, trusted=trusted) as gate:
            await gate.ask(b"GET", b"/echo", line)
            assert upstream.seen[-1].fields["x-forwarded-for"] == expected
            assert str(gate.events()[0].ip) == expected


async def test_a_callers_trace_goes_on_and_a_broken_one_is_replaced(
    gate: OpenGate, upstream: Upstream
) -> None:
    trace = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    await gate.ask(b"GET", b"/echo", b"traceparent: " + trace)
    await gate.ask(b"GET", b"/echo", b"traceparent: " + trace[:-1])
    kept, made = (seen.fields["traceparent"] for seen in upstream.seen)
    assert kept == trace.decode()
    assert made != kept


async def test_ids_of_requests_are_ours_and_unique(gate: OpenGate) -> None:
    line = b"X-Request-Id: same"
    found = {(await gate.ask(b"GET", b"/echo", line))["x-request-id"] for _ in range(3)}
    assert len({UUID(text) for text in found}) == 3
