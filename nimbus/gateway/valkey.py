# SPDX-License-Identifier: Apache-2.0
"""A Valkey connection on the event loop: commands out in one write, replies in, in order.

The reader is strict and bounded. Bytes that are no reply, a reply nobody asked for, or one too
long end the connection: whoever waits is told, and nothing of it is believed.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote, urlsplit

from nimbus.base.log import get_logger

log = get_logger("gateway.valkey")

CONNECT_SECONDS = 2
BULK_BYTES = 65_536
LINE_BYTES = 1_024
ARRAY_ITEMS = 64
_NUMBER = re.compile(rb"-?[0-9]{1,18}")


class GarbageError(Exception):
    """What came is no reply of Valkey."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error that Valkey answered, such as b"NOSCRIPT No matching script."."""

    text: bytes


Reply = bytes | int | ErrorReply | None | list["Reply"]
Words = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Valkey is and who we are to it; a Unix socket when `path` is given."""

    host: str = ""
    port: int = 6379
    path: str | None = None
    tls: bool = False
    user: str | None = None
    password: str | None = None
    database: int = 0


def read_url(url: str) -> Address:
    """valkey://, redis:// (plain), valkeys://, rediss:// (TLS): //[user:]password@host:port/number;
    unix://[:password@]/path. Raises ValueError with what is wrong.
    """
    parts = urlsplit(url)
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("a unix address needs a path")
        return Address(path=unquote(parts.path), user=user, password=password)
    if parts.scheme not in {"redis", "valkey", "rediss", "valkeys"} or not parts.hostname:
        raise ValueError("valkey://host:port, valkeys:// for TLS, or unix:///path")
    number = parts.path.strip("/") or "0"
    if not number.isdecimal():
        raise ValueError("the database after the port is a number")
    tls = parts.scheme in {"rediss", "valkeys"}
    host, port = parts.hostname, parts.port or 6379
    return Address(host, port, None, tls, user, password, int(number))


def parse(buffer: bytearray, start: int, depth: int = 0) -> tuple[Reply, int] | None:
    """The reply at `start` and where it ends; None while it is not whole. Raises GarbageError."""
    end = buffer.find(b"\r\n", start, start + LINE_BYTES)
    if end < 0:
        if len(buffer) - start >= LINE_BYTES:
            raise GarbageError("a line without an end")
        return None
    kind, line = buffer[start : start + 1], bytes(buffer[start + 1 : end])
    end += 2
    if kind == b"+":
        return line, end
    if kind == b"-":
        return ErrorReply(line), end
    if not _NUMBER.fullmatch(line):
        raise GarbageError("not a number")
    number = int(line)
    if kind == b":":
        return number, end
    if kind == b"$" and -1 <= number <= BULK_BYTES:
        return _bulk(buffer, end, number)
    if kind == b"*" and -1 <= number <= ARRAY_ITEMS and depth < 2:
        return _array(buffer, end, number, depth)
    raise GarbageError("no reply begins so")


def _bulk(buffer: bytearray, start: int, length: int) -> tuple[Reply, int] | None:
    if length < 0:
        return None, start
    end = start + length
    if len(buffer) < end + 2:
        return None
    if buffer[end : end + 2] != b"\r\n":
        raise GarbageError("a string of another length")
    return bytes(buffer[start:end]), end + 2


def _array(buffer: bytearray, start: int, items: int, depth: int) -> tuple[Reply, int] | None:
    if items < 0:
        return None, start
    found: list[Reply] = []
    for _ in range(items):
        item = parse(buffer, start, depth + 1)
        if item is None:
            return None
        found.append(item[0])
        start = item[1]
    return found, start


def encode(commands: Iterable[Words]) -> bytes:
    """Commands as Valkey reads them."""
    parts = []
    for words in commands:
        parts.append(b"*%d\r\n" % len(words))
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Connection(asyncio.Protocol):
    """One connection; `lost` is called once when it ends, whichever way."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: deque[Callable[[Reply], None]] = deque()

    def send(self, commands: list[Words], answered: list[Callable[[Reply], None]]) -> None:
        """Send commands in one write; each reply goes to its function, unless the end comes."""
        if self._transport is not None and not self._transport.is_closing():
            self._waiting.extend(answered)
            self._transport.write(encode(commands))

    async def call(self, words: Words) -> Reply:
        """Send one command and await its reply; raises GarbageError for an error reply."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answered(reply: Reply) -> None:
            if not future.done():
                future.set_result(reply)

        self.send([words], [answered])
        reply = await future
        if isinstance(reply, ErrorReply):
            raise GarbageError(reply.text.decode("ascii", "replace"))
        return reply

    def close(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._read()
        except GarbageError as error:
            log.warning("garbage", error=str(error))
            self.close()

    def _read(self) -> None:
        buffer, start = self._buffer, 0
        while start < len(buffer) and (found := parse(buffer, start)) is not None:
            if not self._waiting:
                raise GarbageError("a reply nobody asked for")
            start = found[1]
            self._waiting.popleft()(found[0])
        del buffer[:start]

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._lost()


async def connect(address: Address, lost: Callable[[], None]) -> Connection:
    """A connection that has logged in; raises OSError, TimeoutError or GarbageError."""
    loop = asyncio.get_running_loop()
    made: list[Connection] = []

    def make() -> Connection:
        made.append(Connection(lost))
        return made[0]

    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.path is not None:
                await loop.create_unix_connection(make, address.path)
            else:
                tls = ssl.create_default_context() if address.tls else None
                await loop.create_connection(make, address.host, address.port, ssl=tls)
            connection = made[0]
            if address.password is not None:
                user = [address.user.encode()] if address.user else []
                await connection.call((b"AUTH", *user, address.password.encode()))
            if address.database:
                await connection.call((b"SELECT", b"%d" % address.database))
    except BaseException:
        for each in made:
            each.close()
        raise
    return connection
