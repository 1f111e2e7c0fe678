# SPDX-License-Identifier: Apache-2.0
"""The only connection to the house: grants down, leases and confirmations up.

Two connections as the role `nimbus_gateway`, which may only execute functions: one follows the
grants feed (a NOTIFY wakes it, and it polls every second as well), one carries leases, returned
units and key look-ups. Calls never wait for either, but for a lease or key that is missing.

When the database is gone, what is known stays in force; leases and look-ups are answered at
once with "can't say"; units to give back are kept until they can be. The last good state lies
on disk, so that a gateway also starts without the database.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from nimbus.base import clock
from nimbus.base.config import Settings
from nimbus.base.log import get_logger
from nimbus.base.secrets import database_login
from nimbus.gateway.leases import Granted, Leases
from nimbus.gateway.meter import Journal
from nimbus.gateway.records import entity_of, unpack
from nimbus.gateway.state import Row, State
from nimbus.gateway.verify import KeyLookups

log = get_logger("gateway.link")

POLL_SECONDS = 1
RETRY_SECONDS = 0.5
SAVE_SECONDS = 5
CALL_SECONDS = 2  # one statement
FORMAT = 1

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Link:
    """Follows the feed into `state`, and answers what `leases` and `lookups` ask."""

    def __init__(self, settings: Settings, state: State, journal: Journal) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        self._copy = state_file(settings)
        self._saved_number = state.number
        self._save_at = clock.monotonic()
        self._asked: dict[UUID, int] = {}
        self._returned: dict[UUID, int] = {}
        self._keys: list[bytes] = []
        self._work = asyncio.Event()
        self.tried = asyncio.Event()  # the feed was followed to its head, or can't be now
        self._down = True
        self._failures = 0
        self._answer_lease: Callable[[UUID, Granted | None], None] = _nobody_asked
        self._answer_key: Callable[..., None] = _nobody_asked

    def serve(self, leases: Leases, lookups: KeyLookups) -> None:
        """Whom the answers go to."""
        self._answer_lease = leases.answer
        self._answer_key = lookups.answer

    def ask_lease(self, standing: UUID, units: int) -> None:
        """Borrow units on a standing; the answer comes later, and always."""
        self._asked[standing] = units
        self._wake()

    def give_back(self, standing: UUID, units: int) -> None:
        """Return borrowed units, now or as soon as it can be done."""
        self._returned[standing] = self._returned.get(standing, 0) + units
        self._wake()

    def ask_key(self, digest: bytes) -> None:
        """Look a key up; the answer comes later, and always."""
        self._keys.append(digest)
        self._wake()

    async def run(self) -> None:
        """Keep both connections for as long as the gateway lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_following())
            group.create_task(self._keep_carrying())

    async def stop(self) -> None:
        """Return what is to be returned and keep what is known, as far as a moment allows."""
        try:
            async with asyncio.timeout(CALL_SECONDS), await self._connect() as connection:
                await self._give_back(connection)
                await self._confirm(connection)
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("stopped_without_database", error=type(error).__name__)
        self._save_at = clock.monotonic()
        await self._save()

    async def _keep_following(self) -> None:
        while True:
            try:
                async with await self._connect() as connection:
                    await self._follow(connection)
            except Exception as error:  # noqa: BLE001 - whatever it is, the calls go on
                log.warning("feed_lost", error=repr(error))
            self.tried.set()
            await asyncio.sleep(RETRY_SECONDS)

    async def _keep_carrying(self) -> None:
        while True:
            try:
                connection = await self._connect()
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("no_database", error=repr(error))
                self._down = True
                self._answer_nobody()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._down = False
            self._work.set()
            try:
                async with connection:
                    await self._carry(connection)
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("link_lost", error=repr(error))
                # What waits is tried once more on a new connection, and not for ever.
                self._failures += 1
                if self._failures > 1:
                    self._answer_nobody()
                    await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self) -> Connection:
        login: dict[str, Any] = dict(database_login(self._settings, "gateway"))
        return await psycopg.AsyncConnection.connect(
            **login,
            autocommit=True,
            connect_timeout=CALL_SECONDS,
            application_name="nimbus-gateway",
        )

    async def _follow(self, connection: Connection) -> None:
        """The feed: everything missed first, then each change as it comes."""
        await connection.execute("LISTEN nimbus_feed")
        await connection.execute(
            "SELECT gateway_hello(%s, %s, %s)",
            (self._journal.producer, socket.gethostname(), str(self._journal.folder)),
        )
        while True:
            async with asyncio.timeout(30 * CALL_SECONDS):
                await self._catch_up(connection)
            self.tried.set()
            async with asyncio.timeout(CALL_SECONDS):
                await self._confirm(connection)
            await self._save()
            async for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                pass

    async def _catch_up(self, connection: Connection) -> None:
        rows: list[Row] | None = None
        if self._state.complete:
            rows = await _rows(connection, "SELECT * FROM gateway_feed(%s)", (self._state.number,))
            if any(row[1] == "reset" for row in rows):
                rows = None
        if rows is None:
            self._state.replace(await _rows(connection, "SELECT * FROM gateway_snapshot()", ()))
            log.info("snapshot", number=self._state.number)
        elif rows:
            self._state.follow(rows)
        if self._settings.test_clock:
            clock.set_instant(self._state.instant)

    async def _confirm(self, connection: Connection) -> None:
        await connection.execute(
            "SELECT gateway_confirm(%s, %s, %s)",
            (self._journal.producer, self._state.number, self._journal.last_sequence),
        )

    async def _carry(self, connection: Connection) -> None:
        """Leases, returns and look-ups, as they come."""
        while True:
            await self._work.wait()
            self._work.clear()
            async with asyncio.timeout(CALL_SECONDS):
                await self._look_up(connection)
                await self._give_back(connection)
                await self._borrow(connection)
            self._failures = 0

    async def _look_up(self, connection: Connection) -> None:
        while self._keys:
            digest = self._keys[0]
            rows = await _rows(connection, "SELECT * FROM gateway_key(%s)", (digest,))
            for row in rows:
                self._state.apply(*row)
            self._keys.pop(0)
            self._answer_key(digest, found=self._state.knows_key(digest))

    async def _give_back(self, connection: Connection) -> None:
        while self._returned:
            # Taken off first: with an unknown outcome it must not be said twice. What gets lost
            # so comes back when this gateway ends.
            standing, units = self._returned.popitem()
            await connection.execute(
                "SELECT gateway_give_back(%s, %s, %s)", (self._journal.producer, standing, units)
            )

    async def _borrow(self, connection: Connection) -> None:
        while self._asked:
            standing, units = next(iter(self._asked.items()))
            cursor = await connection.execute(
                "SELECT * FROM gateway_lease(%s, %s, %s)",
                (self._journal.producer, standing, units),
            )
            row = await cursor.fetchone()
            del self._asked[standing]
            # Without a counter the house knows the standing, or this gateway, no more.
            known = row is not None and row[1] is not None
            self._answer_lease(standing, Granted(*row) if known and row else None)

    def _wake(self) -> None:
        if self._down:
            asyncio.get_running_loop().call_soon(self._answer_nobody)
        else:
            self._work.set()

    def _answer_nobody(self) -> None:
        """Nobody can answer now: say so to who waits."""
        asked, self._asked = self._asked, {}
        keys, self._keys = self._keys, []
        for standing in asked:
            self._answer_lease(standing, None)
        for digest in keys:
            self._answer_key(digest, found=None)

    async def _save(self) -> None:
        """Keep the state on disk when it has changed, every few seconds at most."""
        changed = self._state.complete and self._state.number != self._saved_number
        if not changed or clock.monotonic() < self._save_at:
            return
        self._save_at = clock.monotonic() + SAVE_SECONDS
        self._saved_number = self._state.number
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            None, _write_state, self._copy, self._state.number, _rows_of(self._state)
        )


def _rows_of(state: State) -> list[Row]:
    """All live records with their numbers, for the copy on disk."""
    found = [
        (number, *entity_of(packed), unpack(packed))
        for number, packed in state.records.rows(0, len(state.records))
    ]
    return [row for row in found if row[3] is not None]


def state_file(settings: Settings) -> Path:
    """Where the last good state lies: one copy for all gateways of the node."""
    return settings.data_dir / "gateway" / "grants.json"


def load_state(settings: Settings, state: State) -> None:
    """Take the last good state from disk, when there is one that can be read."""
    try:
        content = json.loads(state_file(settings).read_bytes())
        if content["format"] != FORMAT:
            return
        rows = [(row[0], row[1], row[2], row[3]) for row in content["rows"]]
        number = int(content["number"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        log.warning("unreadable_state", error=type(error).__name__)
        return
    state.replace(rows)
    state.number = number
    if settings.test_clock:
        clock.set_instant(state.instant)


def _write_state(path: Path, number: int, rows: list[Row]) -> None:
    """Replace the copy in one step; a failure leaves the old one."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    content = json.dumps({"format": FORMAT, "number": number, "rows": rows})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        unfinished.replace(path)
    except OSError as error:
        log.warning("state_not_saved", error=error.strerror)


async def _rows(connection: Connection, query: Any, values: tuple[Any, ...]) -> list[Row]:
    cursor = await connection.execute(query, values)
    return [(row[0], row[1], str(row[2]), row[3]) for row in await cursor.fetchall()]


def _nobody_asked(*_: Any, **__: Any) -> None:
    """Before `serve`: there is nobody to answer."""
