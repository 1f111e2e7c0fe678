# SPDX-License-Identifier: Apache-2.0
"""The caller's side: one raw connection that plays a case's client steps."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from tools.corpus.form import Step
from tools.corpus.recorder import reset

_BATCH: Final = 65_536
_INTERIM = re.compile(rb"HTTP/1\.1 (1[0-9]{2}) ")


@dataclass(frozen=True, slots=True)
class Cut:
    """How the bytes of `send` steps are split: at these offsets into all of them, or after each
    byte. Rule G8: it must not matter.
    """

    offsets: tuple[int, ...] = ()
    every_byte: bool = False

    def pieces(self, data: bytes, start: int) -> Iterator[bytes]:
        """`data`, whose first byte is at offset `start`, in its pieces."""
        if self.every_byte:
            for position in range(len(data)):
                yield data[position : position + 1]
            return
        last = 0
        for offset in sorted(self.offsets):
            if start < offset < start + len(data):
                yield data[last : offset - start]
                last = offset - start
        yield data[last:]


class Caller(asyncio.Protocol):
    """One connection to the gateway. `data` is all that came, `ended` how it was closed."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.closed = asyncio.Event()
        self.address = ""  # our own
        self.last_sign = 0.0  # when the gateway was heard last
        self._transport: asyncio.Transport | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)
        self.address = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        """Bytes of answers."""
        self.data += data
        self._sign()

    def eof_received(self) -> bool:
        """The gateway says no more; we may still send."""
        self.closed.set()
        self._sign()
        return True

    def connection_lost(self, _: Exception | None) -> None:
        """Closed or reset."""
        self.closed.set()
        self._room.set()
        self._transport = None
        self._sign()

    def pause_writing(self) -> None:
        """The gateway does not take what we send."""
        self._room.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._room.set()

    def _sign(self) -> None:
        self.last_sign = asyncio.get_running_loop().time()
        self._changed.set()

    # What the runner calls.

    async def play(
        self,
        steps: Sequence[Step],
        *,
        cut: Cut,
        scale: float,
        seen: Callable[[], Awaitable[object]],
    ) -> None:
        """All steps. `seen` returns once the gateway has read what was sent; times are divided
        by `scale`. What can't be sent, because the gateway has closed, is left out.
        """
        offset = 0
        for step in steps:
            if self._transport is None:
                return
            if step.name in {"send", "connections"}:
                data = step.value if step.name == "send" else step.options.get("send", b"")
                for number, piece in enumerate(cut.pieces(data, offset)):
                    if number:
                        await seen()
                    await self.send(piece)
                offset += len(data)
            else:
                await self._do(step, scale)

    async def send(self, data: bytes) -> None:
        """Write, at the gateway's pace."""
        await self._room.wait()
        if self._transport is not None:
            self._transport.write(data)

    async def _do(self, step: Step, scale: float) -> None:
        options = step.options
        if step.name == "repeat":
            await self._repeat(step)
        elif step.name == "drip":
            size = int(options.get("chunk", 1))
            for position in range(0, len(step.value), size):
                await self.send(step.value[position : position + size])
                await asyncio.sleep(options.get("interval_ms", 0) / 1000 / scale)
                if self.closed.is_set():
                    return
        elif step.name == "sleep_ms":
            await self._wait(self.closed.is_set, step.value / 1000 / scale)
        elif step.name == "half_close":
            if self._transport is not None:
                self._transport.write_eof()
        elif step.name == "rst":
            self.reset()
        elif step.name == "wait_status":
            wanted = int(step.value)
            limit = options.get("max_ms", 1000) / 1000
            await self._wait(lambda: wanted in self.interim, limit)
        elif step.name == "no_read_ms":
            await self._look_away(step.value / 1000 / scale)
        elif step.name == "read_bytes":
            until = len(self.data) + int(step.value)
            await self._wait(lambda: len(self.data) >= until or self.closed.is_set(), 30)

    async def _repeat(self, step: Step) -> None:
        await self.send(step.options.get("prefix", b""))
        piece, left = step.value, int(step.options.get("count", 1))
        batch = max(1, _BATCH // max(1, len(piece)))
        while left > 0 and self._transport is not None:
            await self.send(piece * min(batch, left))
            left -= batch
        await self.send(step.options.get("suffix", b""))

    async def _look_away(self, seconds: float) -> None:
        if self._transport is None:
            return
        self._transport.pause_reading()
        await asyncio.sleep(seconds)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition on what is heard; no longer than this, and then go on."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    @property
    def interim(self) -> set[int]:
        """The interim statuses read so far."""
        return {int(match[1]) for match in _INTERIM.finditer(self.data)}

    @property
    def unsent(self) -> int:
        """Bytes that wait on our side for the gateway to take them."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def socket_number(self) -> int | None:
        """The descriptor of the connection, None when it is closed."""
        if self._transport is None or self._transport.is_closing():
            return None
        return cast("int", self._transport.get_extra_info("socket").fileno())

    def reset(self) -> None:
        """Leave without a good-bye."""
        if self._transport is not None:
            reset(self._transport)

    def hang_up(self) -> None:
        """Close, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()


def an_address() -> str:
    """A loopback address that hardly anybody else uses."""
    first, second, third = random.randint(1, 250), random.randint(0, 250), random.randint(2, 250)  # noqa: S311
    return f"127.{first}.{second}.{third}"


async def connect(port: int, source: str) -> Caller:
    """A connection to the gateway from this address."""
    _, caller = await asyncio.get_running_loop().create_connection(
        Caller, "127.0.0.1", port, local_addr=(source, 0)
    )
    return caller
