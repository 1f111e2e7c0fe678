# SPDX-License-Identifier: Apache-2.0
"""Usage from outside: how many events a second the API takes by HTTP, in batches of 1,000.

The product's own API process beside its database, and a few senders whose batches are written
beforehand. Each event has an id, an instant, a value and a property of its own.
"""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from nimbus import access
from nimbus.access import KeyTerms
from nimbus.base import clock, db, secrets
from nimbus.base.actors import Actor
from nimbus.base.config import Settings
from nimbus.bench import market
from nimbus.bench.processes import BenchError

BATCH = 1000
BATCHES = 200
SENDERS = 4
READY_SECONDS = 60.0
SUBSCRIPTIONS = 20
REPORT = "/api/billing/usage"


class _Connection(http.client.HTTPConnection):
    """HTTP on the API's Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("nimbus", timeout=READY_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def measure(settings: Settings) -> dict[str, Any]:
    """Events a second that are taken, stored and counted; the operator's product is reported on."""
    login: dict[str, Any] = dict(secrets.database_login(settings, "system"))
    with psycopg.connect(**login) as connection:
        found = connection.execute(
            "SELECT provider_organization_id, id FROM subscriptions ORDER BY id LIMIT %s",
            (SUBSCRIPTIONS,),
        ).fetchall()
    secret = asyncio.run(_key(settings, found[0][0]))
    headers = {"Content-Type": "application/json", "X-API-Key": secret}
    # Who reports with several senders gives each its own customers, whose counters it moves.
    customers = [[row[1] for row in found[number::SENDERS]] for number in range(SENDERS)]
    bodies = [_batch(number, customers[number % SENDERS]) for number in range(BATCHES + SENDERS)]
    with _api(settings), ThreadPoolExecutor(SENDERS) as pool:
        shares = [bodies[SENDERS + number :: SENDERS] for number in range(SENDERS)]
        _send(settings, headers, bodies[:SENDERS])  # what is compiled once is compiled now
        started = clock.monotonic()
        list(pool.map(lambda share: _send(settings, headers, share), shares))
        seconds = clock.monotonic() - started
    return {"events": BATCHES * BATCH, "per_second": round(BATCHES * BATCH / seconds)}


async def _key(settings: Settings, provider: UUID) -> str:
    """A key of the provider's that reports usage."""
    await db.open_database(settings)
    try:
        async with db.transaction(provider) as session:
            actor = Actor(kind="system", organization_id=provider)
            terms = KeyTerms(name="Reporter", scopes=("usage.write",))
            return (await access.create_key(session, actor, terms, environment="Live"))[1]
    finally:
        await db.close_database()


def _batch(number: int, subscriptions: Sequence[UUID]) -> bytes:
    now = clock.machine_now()
    events = [
        {
            "id": f"{number}-{one}",
            "subscription_id": str(subscriptions[one % len(subscriptions)]),
            "meter": "reports",
            "value": f"{one % 7}.5",
            "at": clock.to_wire(now + timedelta(microseconds=one)),
            "properties": {"region": f"eu-{one % 3}"},
        }
        for one in range(BATCH)
    ]
    return json.dumps(events).encode()


@contextmanager
def _api(settings: Settings) -> Iterator[None]:
    """The management API, for as long as the block runs."""
    command = [sys.executable, "-m", "nimbus", "api"]
    process = subprocess.Popen(command, env=market.environment(settings))
    try:
        _wait(settings)
        yield
    finally:
        process.terminate()
        process.wait()


def _wait(settings: Settings) -> None:
    deadline = clock.monotonic() + READY_SECONDS
    while clock.monotonic() < deadline:
        try:
            with closing(_Connection(settings.api_socket)) as connection:
                connection.request("GET", "/healthz")
                if connection.getresponse().status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise BenchError("The API does not answer.")


def _send(settings: Settings, headers: dict[str, str], bodies: Sequence[bytes]) -> None:
    """Send these batches, one after the other, on one connection."""
    with closing(_Connection(settings.api_socket)) as connection:
        for body in bodies:
            connection.request("POST", REPORT, body, headers)
            answer = connection.getresponse()
            found = answer.read()
            if answer.status != 202 or json.loads(found)["accepted"] != BATCH:
                raise BenchError(f"The API answered {answer.status}: {found[:300]!r}")
