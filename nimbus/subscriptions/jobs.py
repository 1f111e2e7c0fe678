# SPDX-License-Identifier: Apache-2.0
"""Subscriptions that come to their end, and subscribers who are moved."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db, jobs
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.events import on
from nimbus.subscriptions import queries
from nimbus.subscriptions.events import PlanMoveStarted
from nimbus.subscriptions.service import consumers, lives


@jobs.job("subscriptions.advance")
async def advance(entity_id: str, as_of: str) -> None:
    """Write down that a subscription's end has come: a trial converts or expires."""
    async with db.system_session("advance subscriptions") as session:
        await lives.advance(session, UUID(entity_id), clock.from_wire(as_of))


@jobs.job("subscriptions.tell_of_trial")
async def tell_of_trial(entity_id: str, as_of: str) -> None:  # noqa: ARG001 - it is told as of now
    """Say that a trial comes to its end."""
    async with db.system_session("advance subscriptions") as session:
        await lives.tell_of_trial(session, UUID(entity_id))


@jobs.job("subscriptions.move")
async def move_subscribers(move_id: str) -> None:
    """Tell the next subscribers of a move, then those after them."""
    async with db.system_session("move subscribers") as session:
        if await consumers.go_on_moving(session, SYSTEM, UUID(move_id)):
            await jobs.defer(session, move_subscribers, move_id=move_id)


@on(PlanMoveStarted)
async def begin_to_move(session: AsyncSession, _: Actor, event: PlanMoveStarted) -> None:
    """A move that was asked for begins."""
    await jobs.defer(session, move_subscribers, move_id=str(event.entity_id))


jobs.due_source(jobs.DueSource(advance, queries.next_to_advance, queries.due_to_advance))
jobs.due_source(jobs.DueSource(tell_of_trial, queries.next_trial_notice, queries.due_trial_notices))
