# SPDX-License-Identifier: Apache-2.0
"""A usual call goes its short way and comes to the same as the general way: for the upstream, the
caller, the journal and the counters.
"""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nimbus.base import clock
from nimbus.gateway import head, windows
from nimbus.gateway.usual import UsualCalls
from nimbus.rules.limits import Rate
from tests.gateway.house import (
    KEY,
    STANDING,
    UNKNOWN_KEY,
    Caller,
    OpenGate,
    Upstream,
    key_record,
    open_gate,
    open_upstream,
    plan_record,
    product_record,
    request,
    route,
    secret,
    standing_record,
    subscription_record,
    until,
)
from tests.gateway.test_spending import BALANCE, OF_ALL, OF_KEY, limit

pytestmark = pytest.mark.anyio

Scene = Callable[[OpenGate, Upstream, Caller], Awaitable[None]]

ASK = request(b"GET", b"/echo")
OTHER_KEY = secret(4)
ALWAYS_NEW = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f-]{27}|00-[0-9a-f]{32}-[0-9a-f]{16}-01"
    rb"|;t=[0-9]+|(Date|Retry-After): [^\r]+"
)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def asks(caller: Caller, data: bytes = ASK) -> None:
    await caller.send(data)
    await caller.answer()


async def plain(_: OpenGate, upstream: Upstream, caller: Caller) -> None:
    upstream.say(PLAIN)
    for _ in range(3):
        await asks(caller)


async def another_key(gate: OpenGate, _: Upstream, caller: Caller) -> None:
    gate.feed("key", key_record(OTHER_KEY))
    for key in (OTHER_KEY, KEY, OTHER_KEY, UNKNOWN_KEY):
        await asks(caller, request(b"GET", b"/echo", key=key))


async def another_path(_: OpenGate, __: Upstream, caller: Caller) -> None:
    for path in (b"/heavy", b"/echo", b"/farms/7", b"/farms/8", b"/farms/7", b"/gone", b"/echo"):
        await asks(caller, request(b"GET", path))


async def other_methods(_: OpenGate, __: Upstream, caller: Caller) -> None:
    for method in (b"DELETE", b"POST", b"DELETE", b"POST"):
        await asks(caller, request(method, b"/echo"))
    await caller.send(request(b"HEAD", b"/echo"))
    await caller.answer(b"HEAD")


async def lines_where_the_key_is(_: OpenGate, __: Upstream, caller: Caller) -> None:
    smuggled = KEY[:20] + b"\r\nX-Nimbus-Plan: pro\r\n"
    await asks(caller, request(b"GET", b"/echo", key=smuggled + b"a" * (len(KEY) - len(smuggled))))


async def failed(_: OpenGate, upstream: Upstream, caller: Caller) -> None:
    upstream.say(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno")
    for _ in range(3):
        await asks(caller)


async def reported(_: OpenGate, upstream: Upstream, caller: Caller) -> None:
    upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Nimbus-Usage: reports=3\r\n\r\nok")
    for _ in range(3):
        await asks(caller)


async def in_pieces(_: OpenGate, upstream: Upstream, caller: Caller) -> None:
    for pieces in (
        (PLAIN[:9], PLAIN[9:]),
        (PLAIN[:-1], PLAIN[-1:]),
        (PLAIN[:-2], PLAIN[-2:]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",),
        (b"HTTP/1.1 103 Early\r\n\r\n" + PLAIN,),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"x" * 40_000,),
        (b"HTTP/1.1 204 No Content\r\n\r\n",),
    ):
        upstream.say(*pieces)
        await asks(caller)
        await asks(caller)


async def more_than_was_said(_: OpenGate, upstream: Upstream, caller: Caller) -> None:
    upstream.say(PLAIN)
    await asks(caller)
    upstream.say(PLAIN + b"more")
    await asks(caller)
    upstream.say(PLAIN)
    await asks(caller)


async def no_http(_: OpenGate, upstream: Upstream, caller: Caller) -> None:
    upstream.say(b"SSH-2.0\r\n\r\n", close=True)
    await asks(caller)


async def closed_while_idle(gate: OpenGate, upstream: Upstream, caller: Caller) -> None:
    upstream.say(PLAIN, close=True)
    await asks(caller)
    upstream.say(PLAIN)
    await asks(caller)
    upstream.say(close=True)  # before a byte: tried once more, and then given up
    await asks(caller)
    assert gate.door.gate.journal.last_sequence


async def gone_before_the_answer(gate: OpenGate, upstream: Upstream, caller: Caller) -> None:
    asked = len(upstream.seen)
    upstream.say()
    await caller.send(ASK)
    await until(lambda: len(upstream.seen) > asked)
    caller.reset()
    await until(lambda: not gate.door.connections)


async def over_the_rate(gate: OpenGate, _: Upstream, caller: Caller) -> None:
    gate.feed("plan", plan_record(rate={"amount": 4, "period_s": 3600, "burst": None}))
    for _ in range(6):
        await asks(caller)


async def over_the_quota(gate: OpenGate, _: Upstream, caller: Caller) -> None:
    gate.house.left[STANDING] = 4
    gate.feed("subscription", subscription_record(standings=[standing_record(4)]))
    for _ in range(6):
        await asks(caller)


async def not_billed_under_a_quota(gate: OpenGate, upstream: Upstream, caller: Caller) -> None:
    gate.house.left[STANDING] = 900
    gate.feed("subscription", subscription_record(standings=[standing_record(900)]))
    for status in (b"200 OK", b"503 No", b"200 OK", b"503 No"):
        upstream.say(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nok" % status)
        await asks(caller)


async def under_limits_of_spending(gate: OpenGate, upstream: Upstream, caller: Caller) -> None:
    limit(gate, OF_ALL, OF_KEY, BALANCE, calls=50)
    for status in (b"200 OK", b"200 OK", b"503 No", b"200 OK", b"503 No"):
        upstream.say(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nok" % status)
        await asks(caller)
    upstream.say(PLAIN[:9], PLAIN[9:])
    await asks(caller)


async def changed_in_between(gate: OpenGate, upstream: Upstream, caller: Caller) -> None:
    gate.feed("plan", plan_record(slug="other", rank=2))
    await asks(caller)
    gate.feed("product", product_record(upstream.port, billable_statuses="200-299"))
    upstream.say(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno")
    await asks(caller)
    await asks(caller)
    strict = [route("GET", "/echo", strict_journal=True)]
    gate.feed("product", product_record(upstream.port, routes=strict))
    await asks(caller)
    gate.feed("key", key_record(KEY, status="Revoked"))
    await asks(caller)


async def blocked(gate: OpenGate, _: Upstream, caller: Caller) -> None:
    ends_at = "2999-01-01T00:00:00Z"
    block = {"id": str(STANDING), "network": "127.0.0.0/8", "key_id": None, "ends_at": ends_at}
    gate.feed("block", block)
    await asks(caller)


async def pipelined(_: OpenGate, __: Upstream, caller: Caller) -> None:
    await caller.send(ASK * 3)
    for _ in range(3):
        await caller.answer()
    await asks(caller)


async def no_room_in_the_journal(gate: OpenGate, _: Upstream, caller: Caller) -> None:
    reserve = gate.gate.journal.reserve
    gate.gate.journal.reserve = lambda: None  # type: ignore[method-assign]
    await asks(caller)
    gate.gate.journal.reserve = reserve  # type: ignore[method-assign]
    await asks(caller)


async def asked_to_close(_: OpenGate, __: Upstream, caller: Caller) -> None:
    await asks(caller, request(b"GET", b"/echo", b"Connection: close"))


SCENES = (
    plain,
    another_key,
    another_path,
    other_methods,
    lines_where_the_key_is,
    failed,
    reported,
    in_pieces,
    more_than_was_said,
    no_http,
    closed_while_idle,
    gone_before_the_answer,
    over_the_rate,
    over_the_quota,
    not_billed_under_a_quota,
    under_limits_of_spending,
    changed_in_between,
    blocked,
    pipelined,
    no_room_in_the_journal,
    asked_to_close,
)


class Told(Caller):
    """A caller that keeps what it is told."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller.reader, caller.writer)
        self.told: list[Any] = []

    async def answer(self, method: bytes = b"GET", seconds: float = 20) -> Any:
        answer = await super().answer(method, seconds)
        body = None if answer.body is None else ALWAYS_NEW.sub(b"", answer.body)
        self.told.append((ALWAYS_NEW.sub(b"", answer.raw), body))
        return answer


async def played(scene: Scene, folder: Path) -> list[Any]:
    """What a scene comes to, for all who look on."""
    head._answers.clear()
    async with open_upstream() as upstream, open_gate(folder, upstream.port) as gate:
        async with gate.caller() as connection:
            caller = Told(connection)
            for _ in range(3):
                await asks(caller)
            await scene(gate, upstream, caller)
        await until(lambda: not gate.door.connections)
        port = b"%d" % upstream.port
        seen = [
            (ALWAYS_NEW.sub(b"", each.head).replace(port, b""), each.connection)
            for each in upstream.seen
        ]
        calls = [
            {
                name: getattr(event, name)
                for name in (
                    "key_id", "route_id", "method", "status", "refusal", "bytes_in", "bytes_out",
                    "units", "leased", "billable", "meters", "holds", "held_micro", "held_on",
                    "continued", "environment",
                )
            }
            for event in gate.events()
        ]  # fmt: skip
        lanes = [(lane.busy, lane.breaker.failures) for lane in gate.door.pool.lanes.values()]
        gate.gate.leases.return_all()
        lent = {standing: units for standing, units in gate.house.lent.items() if units}
        return [caller.told, seen, calls, lanes, lent]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_the_short_way_comes_to_the_same_as_the_general_one(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = await played(scene, tmp_path / "short")
    monkeypatch.setattr(UsualCalls, "begin", lambda *_: False)
    general = await played(scene, tmp_path / "general")
    for one, other in zip(short, general, strict=True):
        assert one == other


async def test_a_call_that_comes_again_is_a_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    begin = UsualCalls.begin

    def counted(calls: UsualCalls, data: bytes) -> bool:
        taken.append(begin(calls, data))
        return taken[-1]

    monkeypatch.setattr(UsualCalls, "begin", counted)
    await played(plain, tmp_path)
    assert taken[-4:] == [True] * 4


async def test_the_address_s_limit_counts_each_call_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "PER_ADDRESS", Rate(1, 3600, 6))
    monkeypatch.setattr("nimbus.gateway.origin.PER_ADDRESS", Rate(1, 3600, 6))
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        async with gate.caller() as caller:
            statuses = []
            for _ in range(8):
                await caller.send(ASK)
                statuses.append((await caller.answer()).status)
        assert statuses == [200] * 6 + [429] * 2


async def test_a_permit_is_left_when_its_time_is_over(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        gate.feed("key", key_record(KEY, expires_at="2026-05-02T00:00:00Z"))
        clock.set_instant(clock.from_wire("2026-05-01T23:59:59.999999Z"))
        try:
            async with gate.caller() as caller:
                for _ in range(3):
                    await caller.send(ASK)
                    assert (await caller.answer()).status == 200
                clock.set_instant(clock.from_wire("2026-05-02T00:00:00Z"))
                await caller.send(ASK)
                assert (await caller.answer()).code == "api_key_expired"
        finally:
            clock.set_instant(None)
