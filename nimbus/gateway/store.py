# SPDX-License-Identifier: Apache-2.0
"""The way to the shared store of rate limits: keeps the connection, carries what `Fleet` asks.

All asks of one turn of the event loop go out in one write. A store that is gone, silent, or
answers what is no answer is left at once; it is tried again ten times a second.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.gateway.tokens import FLEET, Fleet, Phase, Shared
from nimbus.gateway.valkey import (
    Address,
    Connection,
    ErrorReply,
    GarbageError,
    Reply,
    Words,
    connect,
)

log = get_logger("gateway.store")

SCRIPT: Final = Path(__file__).with_name("rates.lua").read_bytes()
RETRY_SECONDS: Final = 0.1
SWEEP_SECONDS: Final = 0.02
TICK_SECONDS: Final = 0.1
JOINING_SECONDS: Final = 0.02
SILENT_SECONDS: Final = 0.3  # without an answer, seen over several ticks: our own stall is none
SILENT_TICKS: Final = 3
Then = Callable[[Reply], None]
_RUN = re.compile(rb"\brun_id:([0-9a-f]{40})\b")


class Store:
    """Joins `fleet` with the Valkey at `address`."""

    def __init__(self, address: Address, place: int, gateways: int) -> None:
        self.fleet = Fleet(place, gateways, clock.monotonic_us(), self._flush)
        self.tried = asyncio.Event()  # it was joined, or can't be now
        self._address = address
        self._connection: Connection | None = None
        self._gone = asyncio.Event()
        self._run = b""
        self._script = b""
        self._hello_at = 0.0
        self._silent = 0
        self._hasten = asyncio.Event()
        self._sweeping = False

    async def run(self) -> None:
        """Keep the connection for as long as the gateway lives."""
        said = ""
        while True:
            try:
                await self._serve()
            except (OSError, TimeoutError, GarbageError) as error:
                if (why := repr(error)) != said:  # not ten times a second
                    log.warning("no_valkey", error=why)
                    said = why
            self._leave()
            self.tried.set()
            await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        """Say that this gateway admits nothing any more."""
        connection = self._connection
        if connection is None:
            return
        try:
            async with asyncio.timeout(1):
                await connection.call(self._words((b"bye", b"%d" % self.fleet.place)))
        except (TimeoutError, GarbageError) as error:
            log.warning("left_without_valkey", error=repr(error))
        connection.close()

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self.fleet.lost(clock.monotonic_us())

    async def _serve(self) -> None:
        """One connection's life; returns or raises when it is over."""
        self._gone = gone = asyncio.Event()
        connection = await connect(self._address, gone.set)
        self._connection = connection
        async with asyncio.timeout(1):
            found = _RUN.search(_bytes(await connection.call((b"INFO", b"server"))))
            if found is None:
                raise GarbageError("the server does not name its run")
            self._run = found[1]
            self._script = _bytes(await connection.call((b"SCRIPT", b"LOAD", SCRIPT)))
        self._silent = 0
        self._hello_at = 0.0
        while not gone.is_set():
            self._greet()
            joining = self.fleet.phase is Phase.JOINING
            if not joining:
                self.tried.set()
            self._hasten.clear()
            await _first(gone, self._hasten, JOINING_SECONDS if joining else TICK_SECONDS)
        raise ConnectionResetError("the store has closed the connection")

    def _greet(self) -> None:
        """Show that we live; leave a store that did not answer the last time, for long."""
        now = clock.monotonic()
        if self._hello_at:
            self._silent += 1
            if self._silent >= SILENT_TICKS and now - self._hello_at >= SILENT_SECONDS:
                raise TimeoutError("the store is silent")
            return
        self._hello_at, self._silent = now, 0
        asked = clock.monotonic_us()
        self._send([(self.fleet.hello(self._run), b"", partial(self._greeted, asked))])

    def _greeted(self, asked: int, reply: Reply) -> None:
        self._hello_at = 0.0
        before = self.fleet.phase
        tells = self.fleet.greeted(reply, asked, clock.monotonic_us())
        self._send([(words, key, _told) for key, words in tells])
        if self.fleet.phase is not before:
            log.info("rates", phase=self.fleet.phase.name.lower())
            self._hasten.set()

    def _flush(self) -> None:
        asyncio.get_running_loop().call_soon(self._ask)

    def _ask(self) -> None:
        now = clock.monotonic_us()
        asks = self.fleet.questions(now)
        self._send(
            [
                (words, key, partial(self._answered, limit, now, life))
                for limit, life, key, words in asks
            ]
        )

    def _answered(self, limit: Shared, asked: int, life: int, reply: Reply) -> None:
        now = clock.monotonic_us()
        if self.fleet.answered(limit, reply, asked, life, now):
            self._hasten.set()
        if self.fleet.lent and not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Give tokens back whose life is over."""
        self._sweeping = self.fleet.collect(clock.monotonic_us())
        if self._sweeping:
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _send(self, questions: list[tuple[Words, bytes, Then]]) -> None:
        """Ask the script: the words, the key of the limit, if it is of one, and who is told."""
        connection = self._connection
        if connection is None or not questions:
            return
        commands = [self._words(words, key) for words, key, _ in questions]
        handlers: list[Then] = [
            partial(self._replied, connection, words, question[2])
            for words, question in zip(commands, questions, strict=True)
        ]
        connection.send(commands, handlers)

    def _replied(self, connection: Connection, words: Words, then: Then, reply: Reply) -> None:
        if isinstance(reply, ErrorReply) and reply.text.startswith(b"NOSCRIPT"):
            connection.send([(b"EVAL", SCRIPT, *words[2:])], [then])
        else:
            then(reply)

    def _words(self, words: Words, key: bytes = b"") -> Words:
        keys = (b"2", FLEET, key) if key else (b"1", FLEET)
        return (b"EVALSHA", self._script, *keys, *words)


def _told(reply: Reply) -> None:
    """Told in an epoch that is over already: the next hello says which one is not."""
    if not isinstance(reply, int):
        raise GarbageError("not an answer to what was told")


def _bytes(reply: Reply) -> bytes:
    if not isinstance(reply, bytes):
        raise GarbageError("not an answer to what was asked")
    return reply


async def _first(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    """Until one of two events comes, or the time is over."""
    waits = [asyncio.ensure_future(each.wait()) for each in (one, other)]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
