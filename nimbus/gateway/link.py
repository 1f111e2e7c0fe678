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
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from nimbus.base import clock
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from nimbus.base.log import get_logger
from nimbus.base.secrets import database_login
from nimbus.gateway import last_state
from nimbus.gateway.last_state import LastState
from nimbus.gateway.leases import Granted, Leases
from nimbus.gateway.meter import Journal
from nimbus.gateway.state import Row, State
from nimbus.gateway.verify import KeyLookups
from nimbus.rules.abuse import Sign

log = get_logger("gateway.link")

POLL_SECONDS = 1
RETRY_SECONDS = 0.5
SIGNS_MAX = 100  # that wait to be told
SAVE_SECONDS = 5
CALL_SECONDS = 2  # one statement
FIRST_SECONDS = 60  # the first look at the feed, and each slice of a snapshot
SLICE = 100  # records taken at once, without a call being served
FEED = "SELECT * FROM gateway_feed(%s) LIMIT %s"

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Link:
    """Follows the feed into `state`, and answers what `leases` and `lookups` ask."""

    def __init__(self, settings: Settings, state: State, journal: Journal) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        self._last_state = LastState(state_file(settings))
        self._unsaved = asyncio.Event()
        self._following = False
        self._asked: dict[UUID, int] = {}
        self._returned: dict[UUID, int] = {}
        self._keys: list[bytes] = []
        self._signs: list[tuple[UUID, Sign]] = []
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

    def report(self, sign: Sign) -> None:
        """Tell the house of signs of abuse, now or when it can be told; a flood is cut off."""
        if len(self._signs) < SIGNS_MAX:
            self._signs.append((new_id(), sign))
            self._work.set()

    async def run(self) -> None:
        """Keep both connections for as long as the gateway lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_following())
            group.create_task(self._keep_carrying())
            group.create_task(self._keep_saving())

    async def stop(self) -> None:
        """Return what is to be returned and keep what is known, as far as a moment allows."""
        try:
            async with asyncio.timeout(CALL_SECONDS), await self._connect() as connection:
                while self._returned:
                    await self._give_back(connection)
                await self._confirm(connection)
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("stopped_without_database", error=type(error).__name__)
        if self._following:
            await self._last_state.save(self._state)
        self._last_state.let_go()

    async def _keep_following(self) -> None:
        while True:
            try:
                async with await self._connect() as connection:
                    await self._follow(connection)
            except Exception as error:  # noqa: BLE001 - whatever it is, the calls go on
                log.warning("feed_lost", error=repr(error))
            self._following = False
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
        patience = FIRST_SECONDS  # much may have been missed; later a slow answer is a dead line
        while True:
            await self._catch_up(connection, patience)
            patience = CALL_SECONDS
            self._following = True
            self.tried.set()
            async with asyncio.timeout(CALL_SECONDS):
                await self._confirm(connection)
            async for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                pass
            async for _ in connection.notifies(timeout=0):  # one look answers them all
                pass

    async def _catch_up(self, connection: Connection, patience: float) -> None:
        rows: list[Row] | None = None
        if self._state.complete:
            async with asyncio.timeout(patience):
                rows = await _rows(connection, FEED, (self._state.number, SLICE))
        if rows is None or any(row[1] == "reset" for row in rows):
            await self._begin_anew(connection)
        else:
            self._take(rows)
            if len(rows) == SLICE:
                await _in_slices(connection, FEED, (self._state.number, None), self._take)
        if self._settings.test_clock:
            clock.set_instant(self._state.instant)

    def _take(self, rows: list[Row]) -> None:
        self._state.follow(rows)
        for _, kind, entity_id, _ in rows:
            self._last_state.changed(kind, entity_id)
            self._unsaved.set()

    async def _begin_anew(self, connection: Connection) -> None:
        """Everything from a snapshot, and what has changed since it was taken; until then what
        was known stays in force.
        """
        filled = self._state.empty()
        await _in_slices(connection, "SELECT * FROM gateway_snapshot()", (), filled.follow)
        await _in_slices(connection, FEED, (filled.number, None), filled.follow)
        self._state.become(filled)
        self._last_state.all_changed()
        self._unsaved.set()
        log.info("snapshot", number=self._state.number)

    async def _confirm(self, connection: Connection) -> None:
        await connection.execute(
            "SELECT gateway_confirm(%s, %s, %s)",
            (self._journal.producer, self._state.number, self._journal.last_sequence),
        )

    async def _carry(self, connection: Connection) -> None:
        """Leases, returns and look-ups, as they come: one of each in turn, so that a flood of
        unknown keys keeps no lease waiting.
        """
        while True:
            await self._work.wait()
            self._work.clear()
            while self._asked or self._returned or self._keys or self._signs:
                for waiting, step in (
                    (self._asked, self._borrow),
                    (self._returned, self._give_back),
                    (self._keys, self._look_up),
                    (self._signs, self._tell),
                ):
                    if waiting:
                        async with asyncio.timeout(CALL_SECONDS):
                            await step(connection)
                self._failures = 0

    async def _look_up(self, connection: Connection) -> None:
        digest = self._keys[0]
        for _ in range(2):
            rows = await _rows(connection, "SELECT * FROM gateway_key(%s)", (digest,))
            if not rows or rows[0][0] >= self._state.floor:
                break
            # A snapshot has come in between that knows better; it may have left the key out.
        for row in rows:
            self._state.apply(*row)
        self._keys.pop(0)
        self._answer_key(digest, found=self._state.knows_key(digest))

    async def _give_back(self, connection: Connection) -> None:
        # Taken off first: with an unknown outcome it must not be said twice. What gets lost
        # so comes back when this gateway ends.
        standing, units = self._returned.popitem()
        await connection.execute(
            "SELECT gateway_give_back(%s, %s, %s)", (self._journal.producer, standing, units)
        )

    async def _tell(self, connection: Connection) -> None:
        alert, sign = self._signs.pop(0)
        network = None if sign.network is None else str(sign.network)
        try:
            await connection.execute(
                "SELECT gateway_alert(%s, %s, %s, %s, %s, %s)",
                (self._journal.producer, alert, sign.kind, network, sign.key_id, sign.count),
            )
        except psycopg.OperationalError:
            self._signs.insert(0, (alert, sign))  # said again on the next line, and stored once
            raise

    async def _borrow(self, connection: Connection) -> None:
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

    async def _keep_saving(self) -> None:
        """Keep the state on disk: at each change, and now and then in case its writer is gone."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_SECONDS):
                    await self._unsaved.wait()
            self._unsaved.clear()
            try:
                if self._following:
                    await self._last_state.save(self._state)
                else:
                    self._last_state.let_go()
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("state_not_saved", error=repr(error))


def state_file(settings: Settings) -> Path:
    """Where the last good state lies: one copy for all gateways of the node."""
    return settings.data_dir / "gateway" / "grants.state"


def load_state(settings: Settings, state: State) -> None:
    """Take the last good state from disk, when there is one that can be read."""
    last_state.load(state_file(settings), state)
    if settings.test_clock:
        clock.set_instant(state.instant)


async def _in_slices(
    connection: Connection, query: str, values: tuple[Any, ...], take: Callable[[list[Row]], None]
) -> None:
    """Take the rows of a query whose answer may be large, few at a time, with others' turn in
    between.
    """
    async with connection.transaction(), connection.cursor("slices") as cursor:
        async with asyncio.timeout(FIRST_SECONDS):
            await cursor.execute(query, values)
        while True:
            async with asyncio.timeout(FIRST_SECONDS):
                rows = await cursor.fetchmany(SLICE)
            if not rows:
                return
            take([_row(row) for row in rows])
            await asyncio.sleep(0)


async def _rows(connection: Connection, query: Any, values: tuple[Any, ...]) -> list[Row]:
    cursor = await connection.execute(query, values)
    return [_row(row) for row in await cursor.fetchall()]


def _row(row: tuple[Any, ...]) -> Row:
    return row[0], row[1], str(row[2]), row[3]


def _nobody_asked(*_: Any, **__: Any) -> None:
    """Before `serve`: there is nobody to answer."""
