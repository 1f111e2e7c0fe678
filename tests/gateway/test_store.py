# SPDX-License-Identifier: Apache-2.0
"""The way to a real Valkey: what gateways admit together is counted from the instants of their
calls, whatever happens to the server; bytes that are no reply are not believed.
"""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.base import clock
from nimbus.gateway.store import Store
from nimbus.gateway.tokens import Phase
from nimbus.gateway.valkey import (
    Address,
    Connection,
    ErrorReply,
    GarbageError,
    connect,
    encode,
    parse,
    read_url,
)
from nimbus.gateway.windows import RateWindows
from nimbus.rules.limits import SECOND, Rate
from tests.gateway.house import until
from tests.gateway.test_tls import make_files
from tests.support.fleets import worst_window
from tests.support.valkeys import Client, Server, valkey_server

RATE = Rate(40, 1)
# Two seconds in which the server answers nobody.
SLEEP = (
    b"EVAL",
    b"local e = redis.call('TIME')[1] + 3 while redis.call('TIME')[1] + 0 < e do end",
    b"0",
)


@pytest.fixture
def server() -> Iterator[Server]:
    with valkey_server() as running:
        yield running


class Caller:
    """Calls at one gateway's windows, with the instants of those that were admitted."""

    def __init__(self, store: Store, place: int, gateways: int) -> None:
        self.store = store
        self.windows = RateWindows(place, gateways, store.fleet)
        self.admitted: list[int] = []
        self.refused = 0

    async def call(self, rate: Rate = RATE) -> bool:
        limiters = ((b"key", self.windows.limiter(("key", 1, rate), clock.monotonic_us())),)
        pause = await self.windows.wait_for(limiters)
        if not pause:
            self.admitted.append(clock.monotonic_us())
        self.refused += bool(pause)
        return not pause

    async def keep_calling(self) -> None:
        while True:
            await self.call()
            await asyncio.sleep(0.002)


@asynccontextmanager
async def callers(server: Server, count: int) -> AsyncIterator[list[Caller]]:
    stores = [Store(read_url(server.url), place, count) for place in range(count)]
    found = [Caller(store, place, count) for place, store in enumerate(stores)]
    async with running(stores):
        await until(lambda: all(shared(each) for each in found))
        yield found


@asynccontextmanager
async def running(stores: list[Store]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(store.run()) for store in stores]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for store in stores:
            await store.stop()


def shared(caller: Caller) -> bool:
    return caller.store.fleet.phase is Phase.SHARED


def together(found: list[Caller]) -> list[int]:
    return sorted(instant for caller in found for instant in caller.admitted)


@asynccontextmanager
async def traffic(found: list[Caller]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(caller.keep_calling()) for caller in found for _ in range(3)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def calls_go_on(found: list[Caller]) -> bool:
    """Whether more than one window's worth came through."""
    return len(together(found)) > RATE.amount


@pytest.mark.parametrize("gateways", [1, 4])
async def test_gateways_over_one_valkey_hold_the_limit_in_every_window(
    server: Server, gateways: int
) -> None:
    async with callers(server, gateways) as found:
        async with traffic(found):
            await until(lambda: calls_go_on(found))
        assert worst_window(together(found), SECOND) <= RATE.amount
        assert sum(caller.refused for caller in found)


@pytest.mark.parametrize("failure", ["killed", "restarted", "stopped", "flushed", "slow"])
async def test_whatever_happens_to_valkey_no_window_is_over_the_limit_and_calls_go_on(
    server: Server, failure: str
) -> None:
    async with callers(server, 2) as found:
        async with traffic(found):
            await until(lambda: calls_go_on(found))
            count = len(together(found))
            if failure in {"killed", "restarted"}:
                server.kill()
            elif failure == "stopped":
                server.signal(signal.SIGSTOP)
            else:
                client = Client(server)
                client.call(*(SLEEP if failure == "slow" else (b"FLUSHALL",)))
                client.close()
            if failure == "restarted":
                server.start()
            await until(lambda: len(together(found)) > count + RATE.amount)
            if failure == "killed":
                assert not any(shared(caller) for caller in found)
                server.start()
            if failure == "stopped":
                server.signal(signal.SIGCONT)
            await until(lambda: all(shared(caller) for caller in found))
            count = len(together(found))
            await until(lambda: len(together(found)) > count + RATE.amount)
        assert worst_window(together(found), SECOND) <= RATE.amount


@pytest.mark.parametrize(
    "garbage",
    [
        b"+hello\r\n",
        b"HTTP/1.1 400 No\r\n\r\n",
        b"*99999\r\n",
        b"\x00" * 5000,
        b":1\r\n" * 9,
    ],
)
async def test_a_server_that_answers_garbage_is_left_and_each_admits_its_share(
    garbage: bytes, server: Server
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(garbage)
                await writer.drain()
        writer.close()

    path = server.socket.with_name("garbage.sock")
    pretender = await asyncio.start_unix_server(answer, str(path))
    stores = [Store(Address(path=str(path)), place, 2) for place in range(2)]
    found = [Caller(store, place, 2) for place, store in enumerate(stores)]
    async with running(stores):
        await until(lambda: all(store.tried.is_set() for store in stores))
        for _ in range(6):
            for caller in found:
                await caller.call(Rate(5, 3600))
    pretender.close()
    assert [len(caller.admitted) for caller in found] == [3, 2]


async def test_a_stopped_gateway_keeps_no_share_for_itself(server: Server) -> None:
    async with callers(server, 2) as found:
        await found[1].store.stop()
        client = Client(server)
        assert client.call(b"HGET", b"{nimbus}:fleet", b"heard1") == b"left"
        client.close()


async def test_a_flushed_script_cache_is_filled_again(server: Server) -> None:
    async with callers(server, 1) as found:
        client = Client(server)
        client.call(b"SCRIPT", b"FLUSH")
        client.close()
        assert await found[0].call()
        assert shared(found[0])


async def test_a_password_is_asked_for_and_given(server: Server) -> None:
    client = Client(server)
    client.call(b"CONFIG", b"SET", b"requirepass", b"a secret")
    client.close()
    plain = Address(path=str(server.socket))
    refused = await connect(plain, lambda: None)
    with pytest.raises(GarbageError):
        await refused.call((b"PING",))
    refused.close()
    known = await connect(read_url(f"unix://:a%20secret@{server.socket}"), lambda: None)
    assert await known.call((b"PING",)) == b"PONG"
    known.close()


async def test_a_store_behind_tls_is_reached_if_its_certificate_is_known(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`valkeys://`: a real Valkey behind a listener with a certificate of its own."""
    certificate, key = make_files(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, out = await asyncio.open_unix_connection(str(server.socket))
        await asyncio.gather(carry(reader, out), carry(inner, writer))
        done.set()

    done = asyncio.Event()
    async with await asyncio.start_server(serve, "localhost", 0, ssl=context) as listener:
        port = listener.sockets[0].getsockname()[1]
        address = read_url(f"valkeys://localhost:{port}")
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(address, lambda: None)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        known = await connect(address, lambda: None)
        assert await known.call((b"PING",)) == b"PONG"
        known.close()
        await done.wait()


def test_addresses_are_read_and_others_refused() -> None:
    assert read_url("valkey://u:p%40@h:7/2") == Address("h", 7, None, False, "u", "p@", 2)
    assert read_url("rediss://h") == Address("h", 6379, None, True)
    assert read_url("unix:///run/v.sock") == Address(path="/run/v.sock")
    for wrong in ("http://h", "valkey://", "unix://", "redis://h/x"):
        with pytest.raises(ValueError, match=r"a unix address|valkey:|the database"):
            read_url(wrong)


REPLY = b"*4\r\n:-5\r\n$3\r\na\r\n\r\n+OK\r\n-ERR no\r\n"


def test_a_reply_is_the_same_wherever_its_bytes_are_cut() -> None:
    whole = parse(bytearray(REPLY), 0)
    assert whole == ([-5, b"a\r\n", b"OK", ErrorReply(b"ERR no")], len(REPLY))
    assert all(parse(bytearray(REPLY[:cut]), 0) is None for cut in range(len(REPLY)))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_do_anything_but_answer_wait_or_refuse(data: bytes) -> None:
    with suppress(GarbageError):
        found = parse(bytearray(data), 0)
        assert found is None or 0 < found[1] <= len(data)


def test_a_reply_nobody_asked_for_ends_the_connection() -> None:
    connection = Connection(lambda: None)
    closed = []
    connection.close = lambda: closed.append(True)  # type: ignore[method-assign]
    connection.data_received(b"+OK\r\n")
    assert closed


def test_commands_are_written_with_their_lengths() -> None:
    assert encode([(b"GET", b"\r\n"), (b"PING",)]) == (
        b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n"
    )
