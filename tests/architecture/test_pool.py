# SPDX-License-Identifier: Apache-2.0
"""T-04: the organization lives in the transaction; a connection in the pool carries nothing.

Many checkouts of a few connections by many organizations, of which some fail, some are cancelled
wherever they just are, and some lose their server process: each sees its own canary and no other.
"""

import random
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import anyio
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from nimbus.base import db
from nimbus.base.ids import new_id
from nimbus.base.secrets import database_login
from tests.architecture import schema

pytestmark = pytest.mark.anyio

SEED = 20260501
ORGANIZATIONS = 50
CHECKOUTS = 2000
AT_ONCE = 24  # twice what the pool holds
FATES = ["read"] * 90 + ["fail"] * 5 + ["cancel"] * 4 + ["kill"]
SPINS_MAX = 30  # turns of the event loop before a cancellation; a checkout takes about this many


class PlannedError(Exception):
    """What a use case might raise."""


@dataclass
class Seen:
    """What the checkouts saw."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)


async def check(organization: UUID, fate: str, spins: int, seen: Seen) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            if fate == "cancel":
                tasks.start_soon(cancel_after, scope, spins)
            with suppress(PlannedError, DBAPIError):
                await read_canary(organization, fate, seen)
            tasks.cancel_scope.cancel()
    seen.ends[fate] = seen.ends.get(fate, 0) + 1


async def cancel_after(scope: anyio.CancelScope, spins: int) -> None:
    for _ in range(spins):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def read_canary(organization: UUID, fate: str, seen: Seen) -> None:
    async with db.transaction(organization) as session:
        rows = (await session.scalars(text("SELECT organization_id FROM outbox"))).all()
        if rows == [organization]:
            seen.right += 1
        else:
            seen.wrong.append(f"{organization} saw {rows}")
        if fate == "fail":
            raise PlannedError
        if fate == "kill":
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def left_in_the_pool() -> set[str | None]:
    """The organization that each connection of the pool would start its next work with."""
    engine = db.current().app
    settings: set[str | None] = set()
    async with anyio.create_task_group() as tasks:
        gathered = anyio.Event()
        waiting = 0

        async def look() -> None:
            nonlocal waiting
            async with engine.connect() as connection:
                query = text("SELECT current_setting('nimbus.organization_id', true)")
                settings.add(await connection.scalar(query))
                waiting += 1
                if waiting == 8:
                    gathered.set()
                await gathered.wait()

        for _ in range(8):
            tasks.start_soon(look)
    return settings


async def test_every_checkout_sees_its_own_canary_only(database) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    organizations = [new_id() for _ in range(ORGANIZATIONS)]
    with psycopg.connect(**database_login(database, "system")) as connection:
        schema.seed_canaries(connection, organizations)
    seen = Seen()
    limit = anyio.Semaphore(AT_ONCE)

    async def one(organization: UUID, fate: str, spins: int) -> None:
        async with limit:
            await check(organization, fate, spins, seen)

    async with anyio.create_task_group() as tasks:
        for _ in range(CHECKOUTS):
            spins = chance.randrange(SPINS_MAX)
            tasks.start_soon(one, chance.choice(organizations), chance.choice(FATES), spins)

    assert seen.wrong == []
    assert seen.right > CHECKOUTS * 0.9
    assert sum(seen.ends.values()) == CHECKOUTS
    assert await left_in_the_pool() <= {"", None}
