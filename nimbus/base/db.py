# SPDX-License-Identifier: Apache-2.0
"""The database: one engine a role, one transaction a request or job.

`transaction()` works as `nimbus_app` under row-level security; `system_session()` as
`nimbus_system`, which sees all organizations, with a reason from the list that
tests/architecture/system_sessions.toml holds. Both write the announced facts and commit when
their block ends well, and roll back otherwise.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from pydantic_core import to_json
from sqlalchemy import ARRAY, ColumnElement, MetaData, Uuid, cast, event, literal, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import NULLTYPE

from nimbus.base import clock, events, metrics
from nimbus.base.config import Settings
from nimbus.base.ids import NIL
from nimbus.base.secrets import database_login

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Base(DeclarativeBase):
    """What every table's class derives from."""

    metadata = metadata


@dataclass(frozen=True, slots=True)
class Database:
    """The engines of this process and what it was opened with."""

    settings: Settings
    app: AsyncEngine
    system: AsyncEngine


_database: Database | None = None


async def open_database(settings: Settings, *, pool_size: int = 8) -> Database:
    """Make this process's engines; connections are opened when first needed."""
    global _database  # noqa: PLW0603 - one database a process
    assert _database is None, "the database is open already"
    _database = Database(
        settings=settings,
        app=_engine(settings, "app", pool_size),
        system=_engine(settings, "system", pool_size),
    )
    return _database


async def close_database() -> None:
    """Close every connection of this process."""
    global _database
    if _database is not None:
        database, _database = _database, None
        await database.app.dispose()
        await database.system.dispose()


def current() -> Database:
    """The open database of this process."""
    assert _database is not None, "open_database() comes first"
    return _database


@asynccontextmanager
async def transaction(
    organization_id: UUID = NIL, user_id: UUID = NIL
) -> AsyncIterator[AsyncSession]:
    """One transaction as `nimbus_app`, seeing what this organization and this user may see."""
    async with _session(current().app) as session:
        await _begin(session, organization_id, user_id)
        yield session
        await commit(session)


@asynccontextmanager
async def system_session(reason: str, *, snapshot: bool = False) -> AsyncIterator[AsyncSession]:
    """One transaction over all organizations as `nimbus_system`; `reason` is on a tested list.

    As a `snapshot` it sees one moment from its first statement on, whatever is committed meanwhile.
    """
    async with _session(current().system) as session:
        if snapshot:
            level = {"isolation_level": "REPEATABLE READ"}
            await session.connection(execution_options=level)
        session.info["reason"] = reason
        await _begin(session, NIL, NIL)
        yield session
        await commit(session)


async def insert_all(session: AsyncSession, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table in one statement; each has the same columns. Values are as JSON carries
    them, or ids, instants, days and decimals. `table` is a name of ours, never input.
    """
    if not rows:
        return
    columns = ", ".join(rows[0])
    statement = (
        f"INSERT INTO {table} ({columns}) SELECT {columns}"  # noqa: S608
        f" FROM jsonb_populate_recordset(NULL::{table}, CAST(:rows AS jsonb))"
    )
    await session.execute(text(statement), {"rows": json_of(rows)})


def json_of(rows: Any) -> str:
    """Values for a statement that takes them apart itself: as JSON carries them, or ids, instants,
    days and decimals. Ten times as fast as `json.dumps`, and for sets alone: how it writes an
    instant is its own affair.
    """
    return to_json(rows).decode()


def array_of(values: Iterable[UUID | datetime | int]) -> str:
    """Values as PostgreSQL writes an array, for a parameter that the statement casts to one: what
    thousands cost in a list, each by itself, they cost in one text.
    """
    return "{" + ",".join(map(str, values)) + "}"


def uuids(ids: Iterable[UUID]) -> ColumnElement[Any]:
    """Ids as one array, for `any_`: the statement is the same for one and for thousands."""
    return cast(literal(array_of(ids), NULLTYPE), ARRAY(Uuid))


async def act_for(
    session: AsyncSession, organization_id: UUID, user_id: UUID | None = None
) -> None:
    """From here on the transaction sees `organization_id`; and `user_id`, when one is given."""
    statement = "SELECT set_config('nimbus.organization_id', :organization_id, true)"
    values = {"organization_id": str(organization_id)}
    if user_id is not None:
        statement += ", set_config('nimbus.user_id', :user_id, true)"
        values["user_id"] = str(user_id)
    session.info["organization_id"] = organization_id
    await session.execute(text(statement), values)


async def commit(session: AsyncSession) -> None:
    """Write the announced facts and commit; the one place where a transaction ends well."""
    await events.settle(session)
    await session.commit()


async def _begin(session: AsyncSession, organization_id: UUID, user_id: UUID) -> None:
    await act_for(session, organization_id, user_id)
    if current().settings.test_clock:
        clock.set_instant(await session.scalar(text("SELECT instant FROM test_clock")))


@asynccontextmanager
async def _session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False, autoflush=True) as session:
        try:
            yield session
        except BaseException:
            await session.rollback()
            raise


def _engine(settings: Settings, role: str, pool_size: int) -> AsyncEngine:
    login = database_login(settings, role)

    async def connect() -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(**login)  # type: ignore[arg-type]

    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=4,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    _time(engine, role)
    return engine


def _time(engine: AsyncEngine, role: str) -> None:
    """Measure how long each statement takes."""
    seconds = metrics.query_seconds.labels(role)

    def begins(_: Any, __: Any, ___: Any, ____: Any, context: Any, _____: Any) -> None:
        context.nimbus_began = clock.monotonic()

    def ends(_: Any, __: Any, ___: Any, ____: Any, context: Any, _____: Any) -> None:
        seconds.observe(clock.monotonic() - context.nimbus_began)

    event.listen(engine.sync_engine, "before_cursor_execute", begins)
    event.listen(engine.sync_engine, "after_cursor_execute", ends)
