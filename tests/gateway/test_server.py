# SPDX-License-Identifier: Apache-2.0
"""Connections, hosts, the way to the management API, and upstreams that misbehave."""

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from nimbus.gateway import server
from nimbus.gateway.upstream import UnreachableError, may_connect, vetted_addresses
from nimbus.rules.metering import SlotState
from tests.gateway.house import (
    STANDING,
    OpenGate,
    Seen,
    Upstream,
    count_slots,
    open_upstream,
    product_record,
    request,
    standing_record,
    subscription_record,
    until,
)

pytestmark = pytest.mark.anyio

GET = request(b"GET", b"/echo")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (GET.replace(b"\r\n", b"\n"), 400, "malformed_request"),
        (GET.replace(b"HTTP/1.1", b"HTTP/2.0"), 505, "version_not_supported"),
        (GET.replace(b"GET", b"BREW"), 501, "not_implemented"),
        (GET.replace(b"/echo", b"/free/../pro/x"), 400, "malformed_request"),
        (GET.replace(b"/echo", b"/" + b"a" * 9000), 414, "uri_too_long"),
        (request(b"GET", b"/echo", b"X: " + b"y" * 40000), 431, "headers_too_large"),
        (request(b"POST", b"/echo", b"Content-Length: 99999999"), 413, "payload_too_large"),
        (request(b"POST", b"/echo", b"Expect: magic"), 417, "expectation_failed"),
    ],
)
async def test_http_itself_is_refused_with_its_code_and_the_connection_closed(
    gate: OpenGate, upstream: Upstream, data: bytes, status: int, code: str
) -> None:
    async with gate.caller() as caller:
        await caller.send(data + GET)
        answer = await caller.answer()
        assert (answer.status, answer.code) == (status, code)
        assert await caller.closed()
    async with gate.caller() as caller:
        await caller.send(GET + data)
        assert (await caller.answer()).status == 200
        assert (await caller.answer()).code == code
        assert await caller.closed()
    assert len(upstream.seen) == 1


async def test_a_host_that_is_not_ours_is_misdirected(gate: OpenGate) -> None:
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo", host=b"nobody.test"))
        answer = await caller.answer()
        assert (answer.status, answer.code) == (421, "unknown_host")
        await caller.send(request(b"GET", b"/echo", host=b"GW.TEST:80"))
        assert (await caller.answer()).status == 200


async def test_websockets_are_refused_until_they_are_metered(gate: OpenGate) -> None:
    answer = await gate.ask(b"GET", b"/echo", b"Connection: Upgrade", b"Upgrade: websocket")
    assert (answer.status, answer.code) == (501, "not_implemented")
    answer = await gate.ask(b"GET", b"/echo", b"Connection: Upgrade", b"Upgrade: h2c")
    assert answer.status == 200


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Upstream]:
    """A management API on its Unix socket that echoes."""
    async with open_upstream(tmp_path / "api.sock") as opened:
        yield opened


async def test_everything_else_goes_to_the_api_with_the_callers_address_in_our_words(
    gate: OpenGate, api: Upstream
) -> None:
    async with gate.caller() as caller:
        await caller.send(
            request(
                b"POST",
                b"/api/organizations/me?x=1",
                b"Content-Length: 2",
                b"Cookie: session=1",
                b"X-Forwarded-For: 10.0.0.1",
                b"X-Forwarded-Host: evil.test",
                b"X_Forwarded_For: 10.0.0.1",
                b"Forwarded: for=10.0.0.1",
                b"X-Request-Id: same",
                b"Idempotency-Key: k",
            )
            + b"{}"
        )
        answer = await caller.answer()
    assert answer.status == 200
    assert answer.json["line"] == "POST /api/organizations/me?x=1 HTTP/1.1"
    fields = api.seen[0].fields
    assert fields["x-forwarded-for"] == "127.0.0.1"
    assert fields["x-forwarded-host"] == fields["host"] == "gw.test"
    assert fields["x-forwarded-proto"] == "http"
    assert fields["x-request-id"] == answer["x-request-id"] != "same"
    assert fields["cookie"] == "session=1"
    assert fields["authorization"].startswith("Bearer ")
    assert fields["idempotency-key"] == "k"
    assert not {"forwarded", "x_forwarded_for"} & set(fields)
    assert gate.events() == []


async def test_what_the_api_says_passes_untouched(gate: OpenGate, api: Upstream) -> None:
    api.say(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok")
    answer = await gate.ask(b"GET", b"/api/public/terms")
    assert [value for name, value in answer.fields if name == "set-cookie"] == ["a=1", "b=2"]
    assert not answer.has("content-security-policy")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_the_api_does_not_take_is_refused_at_the_gate(
    gate: OpenGate, api: Upstream, chunked: bool
) -> None:
    body = b"a" * (server.API_BODY + 1)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    async with gate.caller() as caller:
        await caller.send(
            request(b"POST", b"/api/public/register", framing)
            + (b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        )
        answer = await caller.answer()
    assert (answer.status, answer.code) == (413, "payload_too_large")


async def test_nobody_hears_which_server_the_api_is_made_with(
    gate: OpenGate, api: Upstream
) -> None:
    api.say(b"HTTP/1.1 200 OK\r\nServer: granian\r\nContent-Length: 2\r\n\r\nok")
    answer = await gate.ask(b"GET", b"/api/public/terms")
    assert (answer.status, answer.has("server")) == (200, False)


async def test_without_the_api_its_callers_hear_so_and_calls_go_on(gate: OpenGate) -> None:
    answer = await gate.ask(b"GET", b"/api/public/terms")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert (await gate.ask(b"GET", b"/echo")).status == 200


HOSTILE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early\r\n\r\n" * 20,
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X-A: v\r\n" * 20_000,
    b"",
]


@pytest.mark.parametrize("answer", HOSTILE)
async def test_a_hostile_upstream_is_a_502_that_is_not_billed_and_never_used_again(
    gate: OpenGate, upstream: Upstream, answer: bytes
) -> None:
    gate.house.left[STANDING] = 1
    gate.feed("subscription", subscription_record(standings=[standing_record(1)]))
    upstream.say(answer, close=True)
    found = await gate.ask(b"GET", b"/echo")
    assert (found.status, found.code) == (502, "upstream_unreachable")
    [event] = gate.events()
    assert (event.status, event.billable, event.units, event.leased) == (502, False, 0, 0)
    upstream.script = None
    assert (await gate.ask(b"GET", b"/echo")).status == 200, "the unit was given back"
    assert upstream.connections == 2


CUT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
]


@pytest.mark.parametrize("answer", CUT)
async def test_an_answer_that_breaks_off_is_cut_for_the_caller_too_and_not_billed(
    gate: OpenGate, upstream: Upstream, answer: bytes
) -> None:
    upstream.say(answer, close=True)
    async with gate.caller() as caller:
        await caller.send(GET)
        try:
            found = await caller.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        else:
            assert found.status == 502 or found.body is None
    await until(lambda: len(gate.events()) == 1)
    assert not gate.events()[0].billable


@pytest.mark.parametrize("extra", [b"EXTRA", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"])
async def test_bytes_after_an_answer_poison_no_other_call(
    gate: OpenGate, upstream: Upstream, extra: bytes
) -> None:
    upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + extra)
    async with gate.caller() as caller:
        for number in range(3):
            await caller.send(GET)
            assert (await caller.answer()).body == b"ok"
            assert upstream.connections == number + 1


async def test_a_204_with_a_body_is_passed_without_it(gate: OpenGate, upstream: Upstream) -> None:
    upstream.say(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")
    async with gate.caller() as caller:
        for number in range(2):
            await caller.send(GET)
            answer = await caller.answer()
            assert (answer.status, answer.has("content-length")) == (204, False)
            assert upstream.connections == number + 1


async def test_a_connection_the_upstream_closed_meanwhile_costs_no_call(
    gate: OpenGate, upstream: Upstream
) -> None:
    """Also when the end comes together with the next request: then it is sent once more."""
    closing = False

    async def script(
        _: Upstream, seen: Seen, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if closing and seen.connection == 1:
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    async with gate.caller() as caller:
        await caller.send(GET)
        assert (await caller.answer()).status == 200
        closing = True
        await caller.send(GET)
        assert (await caller.answer()).status == 200
    assert [seen.connection for seen in upstream.seen] == [1, 1, 2]
    assert len(gate.events()) == 2


@pytest.mark.parametrize("reused", [False, True])
async def test_a_post_and_a_fresh_connection_are_never_tried_twice(
    gate: OpenGate, upstream: Upstream, reused: bool
) -> None:
    async def script(
        _: Upstream, seen: Seen, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if "POST" in seen.line or not reused:
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    async with gate.caller() as caller:
        if reused:
            await caller.send(GET)
            assert (await caller.answer()).status == 200
        await caller.send(request(b"POST", b"/echo") if reused else GET)
        assert (await caller.answer()).code == "upstream_unreachable"
    assert len(upstream.seen) == (2 if reused else 1)


async def test_an_upstream_where_nothing_listens_is_unreachable(
    gate: OpenGate, upstream: Upstream
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gate.feed("product", product_record(closed.getsockname()[1]))
        answer = await gate.ask(b"GET", b"/echo")
    assert (answer.status, answer.code) == (502, "upstream_unreachable")
    [event] = gate.events()
    assert (event.refusal, event.status) == ("upstream_unreachable", 502), "it never went there"


async def test_an_upstream_that_does_not_answer_in_time_is_a_504_and_not_billed(
    gate: OpenGate, upstream: Upstream
) -> None:
    record = product_record(upstream.port)
    record["upstreams"]["Live"] = {**record["upstreams"]["Live"], "answer_timeout_ms": 50}
    gate.feed("product", record)

    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    upstream.script = silent
    async with gate.caller() as caller:
        await caller.send(GET)
        await until(lambda: bool(upstream.seen))
        sweeping = asyncio.get_running_loop().create_task(sweep(gate))
        answer = await caller.answer()
        sweeping.cancel()
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert [event.billable for event in gate.events()] == [False]


async def sweep(gate: OpenGate) -> None:
    """What the gateway's own task does."""
    while True:
        gate.door.sweep()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("limit", "data", "code"),
    [
        ("HEAD_SECONDS", GET[:30], "request_timeout"),
        (
            "BODY_SECONDS",
            request(b"POST", b"/echo", b"Content-Length: 9") + b"a",
            "request_timeout",
        ),
        ("IDLE_SECONDS", b"", None),
    ],
)
async def test_who_is_too_slow_is_closed(
    gate: OpenGate, monkeypatch: pytest.MonkeyPatch, limit: str, data: bytes, code: str | None
) -> None:
    monkeypatch.setattr(server, limit, 0.05)
    async with gate.caller() as caller:
        await caller.send(data)
        sweeping = asyncio.get_running_loop().create_task(sweep(gate))
        if code is not None:
            answer = await caller.answer()
            assert (answer.status, answer.code) == (408, code)
        assert await caller.closed()
        sweeping.cancel()


async def test_a_caller_that_resets_its_upload_leaves_one_unbilled_event(
    gate: OpenGate, upstream: Upstream
) -> None:
    async with gate.caller() as caller:
        await caller.send(request(b"POST", b"/echo", b"Content-Length: 1000") + b"aaaa")
        await until(lambda: bool(upstream.seen))
        caller.reset()
    await until(lambda: len(gate.events()) == 1)
    [event] = gate.events()
    assert (event.status, event.billable, event.bytes_in) == (499, False, 4)
    assert not upstream.seen[0].complete
    assert count_slots(gate.gate.journal.folder, SlotState.RESERVED) == 0


async def test_a_caller_that_only_ends_its_own_side_still_gets_its_answer(
    gate: OpenGate, upstream: Upstream
) -> None:
    async with gate.caller() as caller:
        caller.writer.write(GET)
        caller.writer.write_eof()
        assert (await caller.answer()).status == 200
        assert await caller.closed()


async def test_stopping_ends_idle_connections_at_once_and_the_others_after_their_answer(
    gate: OpenGate, upstream: Upstream
) -> None:
    go = asyncio.Event()

    async def script(
        _: Upstream, __: Seen, ___: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    async with gate.caller() as busy, gate.caller() as idle:
        await busy.send(GET)
        await until(lambda: bool(upstream.seen))
        await until(lambda: len(gate.door.connections) == 2)
        gate.door.stop()
        assert await idle.closed()
        assert not gate.door.empty.is_set()
        go.set()
        assert (await busy.answer()).body == b"ok"
        assert await busy.closed()
    await asyncio.wait_for(gate.door.empty.wait(), 5)


async def test_a_thousand_pipelined_refusals_are_answered_in_order(gate: OpenGate) -> None:
    data = request(b"GET", b"/echo", key=None) * 1000
    async with gate.caller() as caller:
        sending = asyncio.get_running_loop().create_task(caller.send(data))
        for _ in range(1000):
            assert (await caller.answer()).status == 401
        await sending


ALLOWED = (ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("8.8.8.8", (), True),
        ("2606:4700::1111", (), True),
        ("127.0.0.1", (), False),
        ("127.0.0.1", ALLOWED, True),
        ("::ffff:127.0.0.1", (), False),
        ("::ffff:127.0.0.1", ALLOWED, True),
        ("10.0.0.1", ALLOWED, False),
        ("169.254.169.254", (), False),
        ("192.168.1.1", (), False),
        ("100.64.0.1", (), False),
        ("0.0.0.0", (), False),  # noqa: S104
        ("224.0.1.1", (), False),
        ("::1", ALLOWED, False),
        ("fe80::1", (), False),
        ("fd00::1", (), False),
        ("64:ff9b::7f00:1", (), False),
        ("2002:7f00:1::", (), False),
    ],
)
async def test_upstreams_are_reached_at_global_addresses_and_named_networks_only(
    address: str, networks: tuple[object, ...], expected: bool
) -> None:
    assert may_connect(ip_address(address), networks) is expected


async def test_a_name_is_vetted_by_what_it_resolves_to_at_each_connection() -> None:
    with pytest.raises(UnreachableError):
        await vetted_addresses("localhost", 80, ())
    assert await vetted_addresses("localhost", 80, ALLOWED) == ["127.0.0.1"]
    with pytest.raises(UnreachableError):
        await vetted_addresses("no.such.name.invalid", 80, ALLOWED)
