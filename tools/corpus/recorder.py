# SPDX-License-Identifier: Apache-2.0
"""The upstream of the corpus: records every byte it gets, and answers as a case scripts it.

Without a script it answers 200 with a JSON echo of the target and the body's length, and
`/big?mb=N` with N MiB of zeros. A script is for the first request of a case, and for that same
request when it is sent once more (it is known by its request id); what else comes is echoed.
"""

import asyncio
import json
import re
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, SupportsIndex

from tools.corpus.form import Step
from tools.corpus.wire import Message, read_head

HEAD_LIMIT: Final = 1 << 20
MEBIBYTE: Final = 1 << 20
_BIG = re.compile(r"/big\?(?:.*&)?mb=([0-9]{1,4})\b")
_BATCH: Final = 65_536


@dataclass(slots=True)
class Received:
    """A request as it came: which connection, which bytes, whether it was whole."""

    message: Message
    connection: int
    chunks: bytearray = field(default_factory=bytearray)

    @property
    def request_id(self) -> str:
        """The gateway's own id of it."""
        return next(iter(self.message.values("x-request-id")), "")


class _TeeReader(asyncio.StreamReader):
    """Keeps a copy of all that comes."""

    def __init__(self) -> None:
        super().__init__(limit=HEAD_LIMIT)
        self.copy = bytearray()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Bytes from the gateway."""
        self.copy.extend(data)
        super().feed_data(data)


class _Connection:
    """One connection from the gateway."""

    def __init__(self, number: int, reader: _TeeReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.playing = False  # a script or an answer is under way, and not only waiting for bytes
        self.idle = True  # between requests
        self.task: asyncio.Task[None] | None = None
        self.wrote = False

    def write(self, data: bytes) -> None:
        """Send."""
        if self.writer.is_closing():
            raise ConnectionResetError
        self.wrote = True
        self.writer.write(data)


class Recorder:
    """The recording upstream, on a loopback port of its own."""

    def __init__(self, scale: float = 1) -> None:
        self.port = 0
        self.scale = scale
        self.on_request: Callable[[Received], Awaitable[None]] | None = None
        self._servers: list[asyncio.Server] = []
        self._open: dict[int, _Connection] = {}
        self._streams: dict[int, bytearray] = {}
        self._count = 0
        self._script: Sequence[Step] = ()
        self._owner: str | None = None  # the request that the script is for
        self._seen: list[Received] = []

    async def listen(self, hosts: Sequence[str]) -> None:
        """Listen at these addresses, all on one port, the same as before when there was one."""
        loop = asyncio.get_running_loop()

        def make() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(_TeeReader(), self._serve)

        for host in hosts:
            server = await loop.create_server(make, host, self.port, backlog=1024)
            self._servers.append(server)
            self.port = server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """From now on connections are refused."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        """Stop, and end what is under way."""
        self.stop_listening()
        await self.drop_connections()

    async def drop_connections(self) -> None:
        """Close every connection."""
        tasks = [connection.task for connection in self._open.values() if connection.task]
        for connection in list(self._open.values()):
            connection.writer.transport.abort()
            if connection.task is not None:
                connection.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, script: Sequence[Step]) -> None:
        """A case begins: forget what was seen before, and answer by this script."""
        self._script, self._owner = [step for step in script if step.name != "on_accept_send"], None
        self._seen = []
        for connection in self._open.values():
            connection.reader.copy.clear()
        self._streams = {number: each.reader.copy for number, each in self._open.items()}

    def say_unasked(self, data: bytes) -> None:
        """Write to every idle connection, which nobody has asked."""
        for connection in self._open.values():
            if connection.idle:
                connection.writer.write(data)

    @property
    def seen(self) -> list[Received]:
        """The requests since `begin`, in order."""
        return list(self._seen)

    @property
    def streams(self) -> dict[int, bytes]:
        """All bytes since `begin`, by connection."""
        return {number: bytes(copy) for number, copy in self._streams.items() if copy}

    @property
    def playing(self) -> bool:
        """Whether it is still going to say something by itself."""
        return any(connection.playing for connection in self._open.values())

    @property
    def mark(self) -> tuple[int, ...]:
        """Changes whenever anything has happened here."""
        return (
            self._count,
            len(self._open),
            len(self._seen),
            sum(map(len, self._streams.values())),
        )

    @property
    def sockets(self) -> list[socket.socket]:
        """The open connections' sockets."""
        return [each.writer.get_extra_info("socket") for each in self._open.values()]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _TeeReader)
        self._count += 1
        connection = _Connection(self._count, reader, writer)
        connection.task = asyncio.current_task()
        self._open[connection.number] = connection
        self._streams[connection.number] = reader.copy
        try:
            while await self._answer_one(connection):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # by drop_connections
        finally:
            self._open.pop(connection.number, None)
            writer.close()

    async def _answer_one(self, connection: _Connection) -> bool:
        received = await self._read_head(connection)
        connection.idle = False
        if self._owner is None:
            self._owner = received.request_id
        scripted = self._script and received.request_id == self._owner
        if scripted:
            if not await self._play(connection, received):
                return False
            await self._read_body(connection, received)
        else:
            await self._read_body(connection, received)
            connection.playing = True
            if self.on_request is not None:
                await self.on_request(received)
            await _echo(connection, received)
        connection.playing, connection.idle = False, True
        return True

    async def _read_head(self, connection: _Connection) -> Received:
        raw = await connection.reader.readuntil(b"\r\n\r\n")
        received = Received(read_head(raw), connection.number)
        message = received.message
        message.whole = not (message.values("transfer-encoding") or _length(message))
        self._seen.append(received)
        return received

    async def _read_body(self, connection: _Connection, received: Received) -> None:
        message, reader = received.message, connection.reader
        if message.whole:
            return
        if message.values("transfer-encoding"):
            while size := int(await reader.readuntil(b"\r\n"), 16):
                message.body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        else:
            message.body = await reader.readexactly(_length(message))
        message.whole = True

    async def _play(self, connection: _Connection, received: Received) -> bool:
        """The script's steps; whether the connection stays open after them."""
        first = True
        for step in self._script:
            if step.name in {"read_request", "read_head"}:
                connection.playing, connection.wrote = False, False
                if not first:
                    await self._read_body(connection, received)
                    received = await self._read_head(connection)
                if step.name == "read_request":
                    await self._read_body(connection, received)
                first = False
                connection.playing = True
                continue
            connection.playing = True
            if not await self._do(connection, step):
                return False
        return True

    async def _do(self, connection: _Connection, step: Step) -> bool:
        """One step that is not about reading; whether the connection stays open."""
        options = step.options
        if step.name == "send":
            connection.write(step.value)
            await connection.writer.drain()
        elif step.name == "repeat_send":
            await self._repeat(connection, step)
        elif step.name == "drip":
            size = int(options.get("chunk", 1))
            for position in range(0, len(step.value), size):
                connection.write(step.value[position : position + size])
                await self._sleep(options.get("interval_ms", 0))
        elif step.name == "gzip_zeros_mb":
            body = gzip_of_zeros(step.value)
            if not connection.wrote:
                connection.write(
                    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
                    % len(body)
                )
            connection.write(body)
            await connection.writer.drain()
        elif step.name == "sleep_ms":
            await self._sleep(step.value)
        elif step.name == "rst":
            reset(connection.writer.transport)
            return False
        else:  # close, close_after_ms
            if step.name == "close_after_ms":
                await self._sleep(step.value)
            connection.writer.close()
            await connection.writer.wait_closed()
            return False
        return True

    async def _repeat(self, connection: _Connection, step: Step) -> None:
        connection.write(step.options.get("prefix", b""))
        piece, left = step.value, int(step.options.get("count", 1))
        interval = step.options.get("interval_ms", 0)
        batch = 1 if interval else max(1, _BATCH // max(1, len(piece)))
        while left > 0:
            connection.write(piece * min(batch, left))
            left -= batch
            await connection.writer.drain()
            if interval:
                await self._sleep(interval)
        connection.write(step.options.get("suffix", b""))
        await connection.writer.drain()

    async def _sleep(self, milliseconds: float) -> None:
        await asyncio.sleep(milliseconds / 1000 / self.scale)


async def _echo(connection: _Connection, received: Received) -> None:
    message, writer = received.message, connection.writer
    big = _BIG.search(message.target)
    if big is not None:
        size = int(big[1]) * MEBIBYTE
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // _BATCH):
            writer.write(bytes(_BATCH))
            await writer.drain()
        return
    body = json.dumps({"target": message.target, "body_length": len(message.body)}).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    if message.method != b"HEAD":
        writer.write(body)
    await writer.drain()


def _length(message: Message) -> int:
    return int(next(iter(message.values("content-length")), "0"))


@lru_cache(maxsize=4)
def gzip_of_zeros(mebibytes: int) -> bytes:
    """A gzip body of that many MiB of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(MEBIBYTE)
    return b"".join(packer.compress(zeros) for _ in range(mebibytes)) + packer.flush()


def reset(transport: asyncio.WriteTransport) -> None:
    """Close with SO_LINGER 0: the peer sees a reset."""
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()
