# SPDX-License-Identifier: Apache-2.0
"""What a provider does about its subscribers: contract prices, bans, moves to another version."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.catalog import ContractShape, PlanFacts
from nimbus.errors import field_error
from nimbus.rules import lifecycles
from nimbus.rules.periods import period
from nimbus.subscriptions import queries
from nimbus.subscriptions.events import (
    ConsumerBanned,
    ConsumerReadmitted,
    PlanMoveStarted,
    SubscriptionChangeAnnounced,
    SubscriptionChanged,
)
from nimbus.subscriptions.models import ConsumerBan, PlanMove, Subscription
from nimbus.subscriptions.service.changes import waiting_plan
from nimbus.subscriptions.service.lives import cancel
from nimbus.subscriptions.service.records import (
    Side,
    current_add_ons,
    lock_for,
    plan_part,
    settle,
    state,
    tell,
    write_terms,
)

MOVED_AT_ONCE = 200
"""How many subscribers one transaction of a move takes."""


@dataclass(frozen=True, slots=True)
class MoveGroup:
    """Subscribers who signed the same version of a plan, in one currency."""

    plan: PlanFacts
    currency: str
    subscribers: int
    left_out: int


async def set_contract(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    given: ContractShape,
    *,
    version: int,
    as_of: datetime,
    side: Side,
) -> Subscription:
    """Agree other terms with one subscriber, from now on; a system session.

    They are a version of the plan for that organization alone, and hold until the plan changes.
    Raises 404 for another's subscription, 409 for a stale version, 422 on the field of the terms
    or on `status` where the state does not allow it.
    """
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    await settle(session, actor, subscription, as_of)
    subscription.status = lifecycles.subscription(state(subscription), "change_plan")
    before = await catalog.plan_facts(session, subscription.plan_version_id)
    subscription.plan_version_id = await catalog.write_contract(
        session,
        subscription.plan_version_id,
        given,
        consumer=subscription.organization_id,
        currency=subscription.currency,
    )
    subscription.version += 1
    add_ons = await current_add_ons(session, subscription)
    await write_terms(session, subscription, as_of, "contract", add_ons)
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    said = {"plan_version": before.number}
    tell(session, actor, SubscriptionChanged, subscription, plan, before=said)
    return subscription


async def ban(
    session: AsyncSession, actor: Actor, subscription_id: UUID, reason: str, as_of: datetime
) -> ConsumerBan:
    """End every subscription of a subscriber to the provider's products, and sell it no more.

    A system session. Raises 404 for another provider's subscription; again answers the first ban.
    """
    subscription = await lock_for(session, actor, subscription_id, side="provider", version=None)
    provider, consumer = subscription.provider_organization_id, subscription.organization_id
    written = await session.scalar(
        insert(ConsumerBan)
        .values(
            id=new_id(),
            organization_id=provider,
            consumer_organization_id=consumer,
            reason=reason,
            created_at=clock.now(),
        )
        .on_conflict_do_nothing()
        .returning(ConsumerBan.id)
    )
    for one in await queries.of_pair(session, provider, consumer):
        if one.status_at(as_of) == "Expired":
            continue
        await cancel(
            session,
            actor,
            one.id,
            reason=reason,
            as_of=as_of,
            at_once=True,
            version=None,
            side="provider",
        )
    found = await queries.ban_of(session, provider, consumer)
    if written is not None:
        event = ConsumerBanned(
            organization_id=provider,
            entity_id=found.id,
            after={"consumer_organization_id": str(consumer)},
            reason=reason,
        )
        announce(session, actor, event)
    return found


async def readmit(session: AsyncSession, actor: Actor, subscription_id: UUID) -> None:
    """Sell to a subscriber again; a system session. 404 for another provider's."""
    subscription = await lock_for(session, actor, subscription_id, side="provider", version=None)
    provider, consumer = subscription.provider_organization_id, subscription.organization_id
    lifted = await session.scalar(
        delete(ConsumerBan)
        .where(
            ConsumerBan.organization_id == provider,
            ConsumerBan.consumer_organization_id == consumer,
        )
        .returning(ConsumerBan.id)
    )
    if lifted is not None:
        event = ConsumerReadmitted(
            organization_id=provider,
            entity_id=lifted,
            before={"consumer_organization_id": str(consumer)},
        )
        announce(session, actor, event)


async def start_move(
    session: AsyncSession,
    actor: Actor,
    product_id: UUID,
    plan_id: UUID,
    *,
    to_plan: str,
    not_before: datetime | None,
    reason: str,
    as_of: datetime,
) -> PlanMove:
    """Begin to move all subscribers of a plan to the current version of it, or of another.

    Each is told at once, and moves at the first end of its period from `not_before` on. Who has a
    contract, or waits for a change of its own, is left out. Raises 404 for another's plan, 422 on
    `to_plan` for one that is unknown or has other periods, on `not_before` for the past.
    """
    plan, target = await _from_and_to(session, actor, product_id, plan_id, to_plan)
    if not_before is not None and not_before < as_of:
        raise field_error("not_before", "in_the_past", "Nobody is moved before today.")
    total = await session.scalar(
        select(func.count()).select_from(
            queries.to_move(plan_id, target.plan_version_id).subquery()
        )
    )
    move = PlanMove(
        id=new_id(),
        organization_id=actor.organization_id,
        product_id=product_id,
        plan_id=plan_id,
        to_plan_id=target.plan_id,
        to_plan_version_id=target.plan_version_id,
        not_before=not_before or as_of,
        reason=reason,
        total=total or 0,
        moved=0,
        left_out=0,
        created_at=clock.now(),
    )
    session.add(move)
    await session.flush()
    event = PlanMoveStarted(
        organization_id=move.organization_id,
        entity_id=move.id,
        after={"plan": plan.slug, "to_plan": target.slug, "total": move.total},
        reason=reason,
    )
    announce(session, actor, event)
    return move


async def would_move(
    session: AsyncSession, actor: Actor, product_id: UUID, plan_id: UUID, to_plan: str | None
) -> tuple[PlanFacts, list[MoveGroup]]:
    """Where `start_move` would take a plan's subscribers, and whom, by what they signed.

    A system session. Raises what `start_move` raises for plan and target.
    """
    _, target = await _from_and_to(session, actor, product_id, plan_id, to_plan)
    found = queries.to_move(plan_id, target.plan_version_id).subquery()
    waiting = func.count().filter(found.c.scheduled_change.has_key("at"))
    by = (found.c.plan_version_id, found.c.currency)
    rows = await session.execute(
        select(*by, func.count().label("subscribers"), waiting.label("waiting")).group_by(*by)
    )
    groups = []
    for row in rows:
        plan = await catalog.plan_facts(session, row.plan_version_id)
        stay = plan.contract or row.currency not in target.currencies
        left_out = row.subscribers if stay else row.waiting
        groups.append(MoveGroup(plan, row.currency, row.subscribers, left_out))
    return target, sorted(groups, key=lambda group: (group.plan.number, group.currency))


async def _from_and_to(
    session: AsyncSession, actor: Actor, product_id: UUID, plan_id: UUID, to_plan: str | None
) -> tuple[PlanFacts, PlanFacts]:
    plan = await catalog.own_plan(session, actor.organization_id, product_id, plan_id)
    target = await catalog.published_plan(session, plan.product.slug, to_plan or plan.slug)
    if _periods(plan) != _periods(target):
        raise field_error("to_plan", "other_periods", "It is billed in other periods.")
    return plan, target


async def go_on_moving(session: AsyncSession, actor: Actor, move_id: UUID) -> bool:
    """Tell the next subscribers of a move; a system session. True while there are more.

    Killed at any point, it goes on where it was: who was told is not told again.
    """
    move = await queries.lock_move(session, move_id)
    if move.status == "Done":
        return False
    target = await catalog.plan_facts(session, move.to_plan_version_id)
    rows = await queries.next_to_move(session, move, MOVED_AT_ONCE)
    await _announce_to(session, actor, move, target, rows)
    if rows:
        move.last_subscription_id = rows[-1].id
    if len(rows) < MOVED_AT_ONCE:
        move.status, move.finished_at = "Done", clock.now()
        move.total = move.moved + move.left_out
        return False
    return True


async def _announce_to(
    session: AsyncSession,
    actor: Actor,
    move: PlanMove,
    target: PlanFacts,
    rows: Sequence[Subscription],
) -> None:
    for row in rows:
        current = await catalog.plan_facts(session, row.plan_version_id)
        waits = "at" in plan_part(row.scheduled_change)
        if waits or current.contract or row.currency not in target.currencies:
            move.left_out += 1
            continue
        anchor = current.anchor(row.anchor_at, row.time_zone)
        at, number = row.period_ends_at, row.period_number
        while at < move.not_before:
            number += 1
            at = period(anchor, number).ends_at
        told = {"by": "provider", "reason": move.reason}
        row.scheduled_change = (row.scheduled_change or {}) | waiting_plan(target, at) | told
        row.version += 1
        move.moved += 1
        tell(session, actor, SubscriptionChangeAnnounced, row, current, reason=move.reason)


def _periods(plan: PlanFacts) -> tuple[str, int, bool]:
    return plan.interval, plan.interval_count, plan.calendar_anchor
