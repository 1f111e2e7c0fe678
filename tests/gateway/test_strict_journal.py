# SPDX-License-Identifier: Apache-2.0
"""A strict route: its calls are on the disk before they are answered."""

import asyncio
import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nimbus.gateway import meter
from tests.gateway.house import (
    OpenGate,
    Upstream,
    open_gate,
    open_upstream,
    product_record,
    request,
    route,
    until,
)

pytestmark = pytest.mark.anyio


class Disk:
    """The journal's disk, which a test can halt or break."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.broken = False
        self.synced = 0

    def sync(self, files: list[int]) -> None:
        self.free.wait(30)
        if self.broken:
            raise OSError(errno.EIO, "input/output error")
        _SYNC(files)
        self.synced += 1


_SYNC = meter.sync_files


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(meter, "sync_files", disk.sync)
    yield disk
    disk.broken = False
    disk.free.set()


def strict(gate: OpenGate, upstream: Upstream) -> None:
    record = product_record(upstream.port)
    record["routes"].append(route("GET", "/strict", strict_journal=True))
    gate.feed("product", record)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
async def test_a_strict_call_is_answered_only_once_it_is_on_the_disk(
    tmp_path: Path, disk: Disk, framing: bytes
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        strict(gate, upstream)
        upstream.say(b"HTTP/1.1 200 OK\r\n" + framing)
        disk.free.clear()
        async with gate.caller() as caller, gate.caller() as other:
            await caller.send(request(b"GET", b"/strict"))
            await until(lambda: len(gate.events()) == 1)
            await other.send(request(b"GET", b"/echo"))
            assert (await other.answer()).status == 200, "another route does not wait"
            reading = asyncio.create_task(caller.reader.read(1))
            assert not reading.done()
            assert disk.synced == 0
            disk.free.set()
            assert await reading == b"H"
            assert disk.synced >= 1


async def test_many_strict_calls_share_a_sync(tmp_path: Path, disk: Disk) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        strict(gate, upstream)
        disk.free.clear()
        calls = [asyncio.create_task(gate.ask(b"GET", b"/strict")) for _ in range(50)]
        await until(lambda: len(gate.events()) == 50)
        disk.free.set()
        assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
        assert disk.synced <= 3


async def test_when_the_disk_fails_a_strict_call_is_not_answered_and_the_next_not_made(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        strict(gate, upstream)
        disk.broken = True
        assert (await gate.ask(b"GET", b"/strict")).code == "unavailable"
        assert (await gate.ask(b"GET", b"/strict")).code == "unavailable"
        assert len(upstream.seen) == 1
        assert (await gate.ask(b"GET", b"/echo")).status == 200
        disk.broken = False
        assert await gate.gate.journal.sync_soon()
        assert (await gate.ask(b"GET", b"/strict")).status == 200


async def test_a_caller_who_leaves_while_the_disk_is_slow_harms_nobody(
    tmp_path: Path, disk: Disk
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        strict(gate, upstream)
        disk.free.clear()
        async with gate.caller() as caller:
            await caller.send(request(b"GET", b"/strict"))
            await until(lambda: len(gate.events()) == 1)
            caller.reset()
        await until(lambda: not gate.door.connections)
        disk.free.set()
        assert (await gate.ask(b"GET", b"/strict")).status == 200
