# SPDX-License-Identifier: Apache-2.0
"""Reads of subscriptions. Row-level security decides last; these filters say what is meant."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import Select, all_, and_, any_, case, exists, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.util import identity_key

from nimbus.base import clock
from nimbus.base.db import array_of, uuids
from nimbus.errors import Refusal
from nimbus.rules.periods import Period
from nimbus.subscriptions.models import (
    AddOnTerms,
    ConsumerBan,
    ContractAddOn,
    ContractTerms,
    PlanMove,
    Subscription,
    SubscriptionFacts,
    Terms,
)

# A suspended subscription waits, and one that is parked for a person to look at.
BILLABLE = and_(
    Subscription.next_billing_at.is_not(None),
    Subscription.status != "Suspended",
    Subscription.parked_reason.is_(None),
)
ENDING = and_(
    Subscription.status != "Expired",
    or_(Subscription.status == "Trial", Subscription.ends_at.is_not(None)),
)
# A trial that was cancelled may be one again: what was not told waits until then.
UNTOLD = and_(Subscription.status == "Trial", Subscription.trial_notice_at.is_not(None))
# What bill runs read of very many, without the objects that other changes go through.
FACTS = tuple(getattr(Subscription, name) for name in SubscriptionFacts.__dataclass_fields__)
TERMS = (
    ContractTerms.id,
    ContractTerms.subscription_id,
    ContractTerms.effective_at,
    ContractTerms.plan_id,
    ContractTerms.plan_version_id,
    ContractTerms.served,
    ContractTerms.reason,
)
ENDING_AT = func.coalesce(Subscription.ends_at, Subscription.trial_ends_at)


def of_organization(organization_id: UUID) -> Select[Subscription]:
    """The subscriptions that an organization consumes; not those to its own products."""
    return select(Subscription).where(Subscription.organization_id == organization_id)


async def own(session: AsyncSession, organization_id: UUID, subscription_id: UUID) -> Subscription:
    """A subscription of this consumer; 404 otherwise."""
    statement = of_organization(organization_id).where(Subscription.id == subscription_id)
    return _found(await session.scalar(statement))


async def lock(session: AsyncSession, subscription_id: UUID) -> Subscription:
    """A subscription that the transaction may change, locked; 404 otherwise."""
    statement = select(Subscription).where(Subscription.id == subscription_id).with_for_update()
    return _found(await session.scalar(statement.execution_options(populate_existing=True)))


async def lock_live(
    session: AsyncSession, organization_id: UUID, product_id: UUID
) -> Subscription | None:
    """The stored live subscription to a product, locked.

    Until the transaction ends nobody else begins one: two that start at once come one by one.
    """
    mark = hashlib.sha256(b"subscription" + organization_id.bytes + product_id.bytes).digest()[:8]
    await session.execute(
        text("SELECT pg_advisory_xact_lock(:lock)"),
        {"lock": int.from_bytes(mark, "big", signed=True)},
    )
    return await session.scalar(
        of_organization(organization_id)
        .where(Subscription.product_id == product_id, Subscription.status != "Expired")
        .with_for_update()
        .execution_options(populate_existing=True)
    )


async def latest(
    session: AsyncSession, organization_id: UUID, product_id: UUID
) -> Subscription | None:
    """The subscription to a product: the live one, else the one that began last."""
    expired = case((Subscription.status == "Expired", 1), else_=0)
    return await session.scalar(
        of_organization(organization_id)
        .where(Subscription.product_id == product_id)
        .order_by(expired, Subscription.id.desc())
        .limit(1)
    )


async def had_one(session: AsyncSession, organization_id: UUID, product_id: UUID) -> bool:
    """Whether the organization ever subscribed to the product."""
    return await latest(session, organization_id, product_id) is not None


async def subscription_facts(session: AsyncSession, subscription_id: UUID) -> SubscriptionFacts:
    """A subscription that the transaction may see, on either side; 404 otherwise."""
    statement = select(Subscription).where(Subscription.id == subscription_id)
    row = await session.scalar(statement.execution_options(populate_existing=True))
    return _found(row).facts()


async def facts_of(
    session: AsyncSession, subscription_ids: Collection[UUID]
) -> dict[UUID, SubscriptionFacts]:
    """The same of several by id; those that the transaction may not see are left out."""
    statement = select(Subscription).where(Subscription.id.in_(subscription_ids))
    rows = await session.scalars(statement.execution_options(populate_existing=True))
    return {row.id: row.facts() for row in rows}


async def lock_subscription(session: AsyncSession, subscription_id: UUID) -> SubscriptionFacts:
    """The same, with the subscription's row locked until the transaction ends."""
    return (await lock(session, subscription_id)).facts()


async def lock_due(
    session: AsyncSession, as_of: datetime, limit: int, but: Collection[UUID] = ()
) -> list[SubscriptionFacts]:
    """The subscriptions that are to be billed by `as_of`, the earliest first, locked; those that
    somebody else holds, and those in `but`, are passed over.
    """
    rows = await session.execute(
        select(*FACTS)
        .where(
            BILLABLE,
            Subscription.next_billing_at <= as_of,
            Subscription.id != all_(uuids(but)),
        )
        .order_by(Subscription.next_billing_at, Subscription.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Subscription)
    )
    return [SubscriptionFacts(**row) for row in rows.mappings()]


async def move_periods(session: AsyncSession, moved: Sequence[SubscriptionFacts]) -> None:
    """Write down the running periods of locked subscriptions; the session forgets its rows."""
    names = ("id", "period_number", "period_starts_at", "period_ends_at", "next_billing_at")
    columns = {name: array_of(getattr(one, name) for one in moved) for name in names}
    await session.execute(_MOVE, {**columns, "moment": clock.now()})
    known = session.sync_session.identity_map
    for one in moved:
        row = known.get(identity_key(Subscription, one.id))
        if row is not None:
            session.expunge(row)


_MOVE = text(
    """
    UPDATE subscriptions s SET period_number = m.period_number,
        period_starts_at = m.period_starts_at, period_ends_at = m.period_ends_at,
        next_billing_at = m.next_billing_at, updated_at = m.moment
    FROM (SELECT *, CAST(:moment AS timestamptz) AS moment FROM unnest(CAST(:id AS uuid[]),
        CAST(:period_number AS integer[]), CAST(:period_starts_at AS timestamptz[]),
        CAST(:period_ends_at AS timestamptz[]), CAST(:next_billing_at AS timestamptz[]))
        AS u (id, period_number, period_starts_at, period_ends_at, next_billing_at)) m
    WHERE s.id = m.id
    """
)


async def park(session: AsyncSession, subscription_id: UUID, reason: str | None) -> None:
    """Keep a subscription from being billed until a person has looked; None lets it go again."""
    subscription = await lock(session, subscription_id)
    subscription.parked_reason = reason


async def live_subscriptions(
    session: AsyncSession, organization_id: UUID, as_of: datetime | None = None
) -> list[SubscriptionFacts]:
    """What an organization consumes and has not ended, oldest first.

    Stored ones; with `as_of` those that have ended by then are left out, whatever is stored.
    """
    rows = await session.scalars(
        of_organization(organization_id)
        .where(Subscription.status != "Expired")
        .order_by(Subscription.id)
    )
    return [row.facts() for row in rows if as_of is None or row.status_at(as_of) != "Expired"]


async def due_for_billing(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    """Subscriptions whose running period is to be billed by `as_of`, the earliest first."""
    rows = await session.execute(
        select(Subscription.id, Subscription.next_billing_at)
        .where(BILLABLE, Subscription.next_billing_at <= as_of)
        .order_by(Subscription.next_billing_at, Subscription.id)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows if row[1] is not None]


async def next_billing(session: AsyncSession) -> datetime | None:
    """When the next period is to be billed, over all subscriptions."""
    return await session.scalar(select(func.min(Subscription.next_billing_at)).where(BILLABLE))


async def due_to_advance(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    """Subscriptions whose trial or service has come to its end by `as_of`, the earliest first."""
    rows = await session.execute(
        select(Subscription.id, ENDING_AT)
        .where(ENDING, as_of >= ENDING_AT)
        .order_by(ENDING_AT, Subscription.id)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows]


async def next_to_advance(session: AsyncSession) -> datetime | None:
    """When the next trial or service comes to its end."""
    return await session.scalar(select(func.min(ENDING_AT)).where(ENDING))


async def due_trial_notices(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    """Trials whose coming end is to be told of by `as_of`, the earliest first."""
    rows = await session.execute(
        select(Subscription.id, Subscription.trial_notice_at)
        .where(UNTOLD, as_of >= Subscription.trial_notice_at)
        .order_by(Subscription.trial_notice_at, Subscription.id)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows if row[1] is not None]


async def next_trial_notice(session: AsyncSession) -> datetime | None:
    """When the end of a trial is to be told of next."""
    return await session.scalar(select(func.min(Subscription.trial_notice_at)).where(UNTOLD))


async def is_banned(session: AsyncSession, provider: UUID, consumer: UUID) -> bool:
    """Whether a provider does not sell to an organization."""
    banned = exists().where(
        ConsumerBan.organization_id == provider, ConsumerBan.consumer_organization_id == consumer
    )
    return bool(await session.scalar(select(banned)))


async def ban_of(session: AsyncSession, provider: UUID, consumer: UUID) -> ConsumerBan:
    """The ban of an organization by a provider; 404 when there is none."""
    statement = select(ConsumerBan).where(
        ConsumerBan.organization_id == provider, ConsumerBan.consumer_organization_id == consumer
    )
    found = await session.scalar(statement)
    if found is None:
        raise Refusal("not_found")
    return found


async def banned(
    session: AsyncSession, provider: UUID, consumers: Collection[UUID]
) -> dict[UUID, ConsumerBan]:
    """Those of these organizations that a provider banned."""
    statement = select(ConsumerBan).where(
        ConsumerBan.organization_id == provider,
        ConsumerBan.consumer_organization_id.in_(consumers),
    )
    return {row.consumer_organization_id: row for row in await session.scalars(statement)}


async def of_pair(session: AsyncSession, provider: UUID, consumer: UUID) -> list[Subscription]:
    """An organization's subscriptions to a provider's products that are not stored as ended."""
    statement = of_organization(consumer).where(
        Subscription.provider_organization_id == provider, Subscription.status != "Expired"
    )
    return list(await session.scalars(statement.order_by(Subscription.id)))


def of_provider(provider: UUID) -> Select[Subscription]:
    """All subscriptions to a provider's products, its own left out."""
    return select(Subscription).where(
        Subscription.provider_organization_id == provider,
        Subscription.organization_id != provider,
    )


def of_anyone(organization_id: UUID | None) -> Select[Subscription]:
    """All subscriptions, or those of one organization, for the operator's eyes."""
    if organization_id is None:
        return select(Subscription)
    return of_organization(organization_id)


def to_move(plan_id: UUID, version_id: UUID) -> Select[Subscription]:
    """The live subscriptions to a plan in another version than this one."""
    return select(Subscription).where(
        Subscription.plan_id == plan_id,
        Subscription.plan_version_id != version_id,
        Subscription.status.not_in(("Cancelled", "Expired")),
    )


async def next_to_move(session: AsyncSession, move: PlanMove, limit: int) -> list[Subscription]:
    """The next subscriptions of a move that were there when it began, locked."""
    statement = to_move(move.plan_id, move.to_plan_version_id).where(
        Subscription.created_at <= move.created_at
    )
    if move.last_subscription_id is not None:
        statement = statement.where(Subscription.id > move.last_subscription_id)
    rows = await session.scalars(
        statement.order_by(Subscription.id)
        .limit(limit)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(rows)


async def lock_move(session: AsyncSession, move_id: UUID) -> PlanMove:
    """A move of subscribers, locked; 404 otherwise."""
    statement = select(PlanMove).where(PlanMove.id == move_id).with_for_update()
    found = await session.scalar(statement.execution_options(populate_existing=True))
    if found is None:
        raise Refusal("not_found")
    return found


def moves_of(product_id: UUID, plan_id: UUID) -> Select[PlanMove]:
    """The moves of a plan's subscribers."""
    return select(PlanMove).where(PlanMove.product_id == product_id, PlanMove.plan_id == plan_id)


async def add_ons_of(session: AsyncSession, terms_id: UUID) -> tuple[AddOnTerms, ...]:
    """The add-ons that belong to one row of terms."""
    rows = await session.scalars(
        select(ContractAddOn)
        .where(ContractAddOn.terms_id == terms_id)
        .order_by(ContractAddOn.plan_id)
    )
    return tuple(row.terms() for row in rows)


async def last_terms(session: AsyncSession, subscription_id: UUID) -> ContractTerms | None:
    """The terms that hold now, None before the first are written."""
    return await session.scalar(
        select(ContractTerms)
        .where(ContractTerms.subscription_id == subscription_id)
        .order_by(ContractTerms.number.desc())
        .limit(1)
    )


async def terms_between(
    session: AsyncSession, subscription_id: UUID, period: Period
) -> tuple[Terms, ...]:
    """What a subscription was under during `period`, in order of time.

    The parts tile `period` from the subscription's start to its end (`ends_at`, whether it has
    come or will): nothing before and after. Two changes at the same instant: the later one holds.
    Empty for one that the transaction may not see.
    """
    found = await terms_of_periods(session, {subscription_id: period})
    return found.get(subscription_id, ())


async def terms_of_periods(
    session: AsyncSession, periods: Mapping[UUID, Period]
) -> dict[UUID, tuple[Terms, ...]]:
    """The same of many subscriptions, each in its own period; three statements however many."""
    ids = list(periods)
    rows: defaultdict[UUID, list[Any]] = defaultdict(list)
    for row in await session.execute(
        select(*TERMS)
        .where(ContractTerms.subscription_id == any_(uuids(ids)))
        .order_by(ContractTerms.number)
    ):
        rows[row.subscription_id].append(row)
    add_ons: defaultdict[UUID, list[AddOnTerms]] = defaultdict(list)
    for taken in await session.scalars(
        select(ContractAddOn)
        .join(ContractTerms, ContractTerms.id == ContractAddOn.terms_id)
        .where(ContractTerms.subscription_id == any_(uuids(ids)))
        .order_by(ContractAddOn.plan_id)
    ):
        add_ons[taken.terms_id].append(taken.terms())
    ends = await session.execute(
        select(Subscription.id, Subscription.ends_at).where(Subscription.id == any_(uuids(ids)))
    )
    return {
        subscription_id: _tiles(rows[subscription_id], add_ons, periods[subscription_id], ends_at)
        for subscription_id, ends_at in ends
    }


def _tiles(
    rows: Sequence[Any],
    add_ons: Mapping[UUID, list[AddOnTerms]],
    period: Period,
    ends_at: datetime | None,
) -> tuple[Terms, ...]:
    last = period.ends_at if ends_at is None else min(period.ends_at, ends_at)
    starts = [*(row.effective_at for row in rows), last]
    parts = []
    for row, (begins, ends) in zip(rows, pairwise(starts), strict=True):
        part = Period(max(begins, period.starts_at), min(ends, last))
        if part.starts_at < part.ends_at:
            parts.append(
                Terms(
                    period=part,
                    plan_id=row.plan_id,
                    plan_version_id=row.plan_version_id,
                    add_ons=tuple(add_ons.get(row.id, ())),
                    served=row.served,
                    reason=row.reason,
                )
            )
    return tuple(parts)


def _found(row: Subscription | None) -> Subscription:
    if row is None:
        raise Refusal("not_found")
    return row
