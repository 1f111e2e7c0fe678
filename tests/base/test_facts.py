# SPDX-License-Identifier: Apache-2.0
"""A fact, its audit row, outbox row and jobs are one transaction or nothing (W-01, A-01)."""

import asyncio
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db, jobs
from nimbus.base.actors import SYSTEM
from nimbus.base.audit import verify
from nimbus.base.config import Settings
from nimbus.base.events import Event, announce, on
from nimbus.base.ids import new_id

REASON = "platform pages"
SYSTEM_TIME = datetime(2026, 6, 1, tzinfo=UTC)


class Ticked(Event):
    """Something a test made happen."""

    __slots__ = ()
    name: ClassVar[str] = "test.ticked"
    action: ClassVar[str] = "Ticked"
    entity_type: ClassVar[str] = "test"


class Echoed(Ticked):
    """What the reaction to `Ticked` announces."""

    __slots__ = ()
    name: ClassVar[str] = "test.echoed"
    action: ClassVar[str] = "Echoed"


@jobs.job("test.work")
async def work(entity_id: str, as_of: str) -> None:
    raise AssertionError((entity_id, as_of))


async def echo(session: Any, actor: Any, event: Any) -> None:
    if type(event) is Ticked:
        announce(
            session, actor, Echoed(organization_id=event.organization_id, entity_id=event.entity_id)
        )


on(Ticked)(echo)


async def counts() -> tuple[int, int, int]:
    async with db.system_session(REASON) as session:
        row = (
            await session.execute(
                text(
                    "SELECT (SELECT count(*) FROM audit_log), (SELECT count(*) FROM outbox),"
                    " (SELECT count(*) FROM procrastinate_jobs)"
                )
            )
        ).one()
    return row[0], row[1], row[2]


async def tick(organization: Any, *, fail: bool = False) -> None:
    async with db.transaction(organization) as session:
        announce(session, SYSTEM, Ticked(organization_id=organization, entity_id=new_id()))
        await jobs.defer(session, work, entity_id="1", as_of="now")
        if fail:
            raise ValueError("after the announcement")


async def test_a_fact_and_its_reaction_are_written_with_the_change(database: Settings) -> None:
    await tick(new_id())
    assert await counts() == (2, 2, 1)
    async with db.system_session(REASON) as session:
        ids = await session.execute(
            text(
                "SELECT transaction_id::text FROM audit_log"
                " UNION SELECT transaction_id::text FROM outbox"
            )
        )
        assert len(ids.all()) == 1


async def test_a_failure_leaves_neither_fact_nor_job(database: Settings) -> None:
    with pytest.raises(ValueError, match="after the announcement"):
        await tick(new_id(), fail=True)
    assert await counts() == (0, 0, 0)


async def test_concurrent_facts_of_one_organization_form_one_unbroken_chain(
    database: Settings,
) -> None:
    organization = new_id()
    await asyncio.gather(*(tick(organization) for _ in range(20)))
    async with db.system_session(REASON) as session:
        report = await verify(session)
    assert (report.checked, report.ok) == (40, True)


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE audit_log SET body = replace(body, 'Ticked', 'Tickled') WHERE sequence = 3",
        "UPDATE audit_log SET action = 'Other' WHERE sequence = 3",
        "UPDATE audit_log SET at = at + interval '1 second' WHERE sequence = 3",
        "UPDATE audit_log SET hash = sha256(hash) WHERE sequence = 3",
        "DELETE FROM audit_log WHERE sequence = 3",
        "DELETE FROM audit_log WHERE sequence = 6",
    ],
)
async def test_a_changed_or_removed_audit_row_is_found(
    database: Settings, owner: Any, tamper: str
) -> None:
    organization = new_id()
    for _ in range(3):
        await tick(organization)
    owner(tamper)
    async with db.system_session(REASON) as session:
        report = await verify(session)
    assert not report.ok
    assert {item["organization_id"] for item in report.differences} == {str(organization)}


@pytest.mark.parametrize(
    "change", ["UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log", "DELETE FROM outbox"]
)
async def test_no_role_of_the_product_changes_the_trail(database: Settings, change: str) -> None:
    organization = new_id()
    await tick(organization)
    with pytest.raises(Exception, match="permission denied"):
        async with db.transaction(organization) as session:
            await session.execute(text(change))
    if "audit" in change:
        with pytest.raises(Exception, match="permission denied"):
            async with db.system_session(REASON) as session:
                await session.execute(text(change))


async def defer(session: AsyncSession, entity: UUID) -> None:
    at = clock.to_wire(SYSTEM_TIME)
    await jobs.defer_once(session, work, f"work/{entity}", entity_id=str(entity), as_of=at)


async def test_a_row_that_falls_due_waits_in_the_queue_once(database: Settings) -> None:
    async with db.system_session(REASON) as session:
        for _ in range(3):
            await defer(session, new_id())
    entity = new_id()
    for _ in range(3):
        async with db.system_session(REASON) as session:
            await defer(session, entity)
    assert (await counts())[2] == 4
