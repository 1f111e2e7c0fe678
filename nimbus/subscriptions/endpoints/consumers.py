# SPDX-License-Identifier: Apache-2.0
"""HTTP for providers: who subscribed to their products, and what they do about it."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, identity
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Money, Page, Router, Session, mutates, paginate, unit_of
from nimbus.identity import Permission, allowed
from nimbus.subscriptions import events, queries, schemas
from nimbus.subscriptions.models import PlanMove, Subscription
from nimbus.subscriptions.service import changes, consumers, lives
from nimbus.subscriptions.service.shapes import add_on_shapes, instants, scheduled_shape

CONSUMERS = "/api/provider/consumers"
CONSUMER = f"{CONSUMERS}/{{subscription_id}}"
MOVES = "/api/provider/products/{product_id}/plans/{plan_id}/moves"
MANAGE = Permission.MANAGE_CONSUMERS
REFUSALS = documented(401, 403, 404, 409, 415, 422)
SETTLED = [events.SubscriptionChanged, events.SubscriptionExpired]

router = Router(tags=["provider"])
Provider = Annotated[Actor, allowed(MANAGE)]


@router.get(CONSUMERS, operation_id="list_consumers", responses=documented(401, 403, 422))
async def list_consumers(
    request: Request, actor: Provider, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.ConsumerShape]:
    """Who subscribed to my products, newest first; ended subscriptions too."""
    session = await _system(request)
    own = queries.of_provider(actor.organization_id)
    rows, next_cursor = await paginate(session, own, Subscription.id, limit, cursor)
    return Page(data=await consumer_shapes(session, rows), next_cursor=next_cursor)


@router.post(
    f"{CONSUMER}/plan",
    operation_id="set_consumer_plan",
    responses=REFUSALS,
    **mutates(permission=MANAGE, events=SETTLED, idempotency="version"),
)
async def set_plan(
    subscription_id: UUID, body: schemas.PlanBody, request: Request, actor: Provider
) -> schemas.ConsumerShape:
    """Put a subscriber on another plan, now or at the period's end."""
    session = await _system(request)
    changed = await changes.change_plan(
        session,
        actor,
        subscription_id,
        body.plan,
        direction="any",
        version=body.version,
        as_of=clock.now(),
        at_once=body.at_once,
        side="provider",
    )
    return await _shown(session, changed)


@router.post(
    f"{CONSUMER}/contract",
    operation_id="set_consumer_contract",
    responses=REFUSALS,
    **mutates(permission=MANAGE, events=SETTLED, idempotency="version"),
)
async def set_contract(
    subscription_id: UUID, body: schemas.ContractBody, request: Request, actor: Provider
) -> schemas.ConsumerShape:
    """Agree a fee, prices, included amounts, quotas or a rate limit with one subscriber."""
    session = await _system(request)
    changed = await consumers.set_contract(
        session,
        actor,
        subscription_id,
        body.terms,
        version=body.version,
        as_of=clock.now(),
        side="provider",
    )
    return await _shown(session, changed)


@router.post(
    f"{CONSUMER}/revoke",
    operation_id="revoke_consumer",
    responses=REFUSALS,
    **mutates(
        permission=MANAGE,
        events=[*SETTLED, events.SubscriptionCancelled],
        idempotency="version",
    ),
)
async def revoke(
    subscription_id: UUID, body: schemas.RevokeBody, request: Request, actor: Provider
) -> schemas.ConsumerShape:
    """End a subscription at once. The subscriber may come back."""
    session = await _system(request)
    ended = await lives.cancel(
        session,
        actor,
        subscription_id,
        reason=body.reason,
        as_of=clock.now(),
        at_once=True,
        version=body.version,
        side="provider",
    )
    return await _shown(session, ended)


@router.post(
    f"{CONSUMER}/ban",
    operation_id="ban_consumer",
    responses=REFUSALS,
    **mutates(
        permission=MANAGE,
        events=[*SETTLED, events.SubscriptionCancelled, events.ConsumerBanned],
        idempotency="natural",
    ),
)
async def ban(
    subscription_id: UUID, body: schemas.BanBody, request: Request, actor: Provider
) -> schemas.ConsumerShape:
    """End all of a subscriber's subscriptions to my products at once, and sell it no more."""
    session = await _system(request)
    await consumers.ban(session, actor, subscription_id, body.reason, clock.now())
    return await _shown(session, await queries.lock(session, subscription_id))


@router.delete(
    f"{CONSUMER}/ban",
    operation_id="readmit_consumer",
    status_code=204,
    responses=documented(401, 403, 404, 422),
    **mutates(permission=MANAGE, events=[events.ConsumerReadmitted], idempotency="natural"),
)
async def readmit(subscription_id: UUID, request: Request, actor: Provider) -> Response:
    """Sell to a subscriber again."""
    session = await _system(request)
    await consumers.readmit(session, actor, subscription_id)
    return Response(status_code=204)


@router.get(MOVES, operation_id="list_plan_moves", responses=documented(401, 403, 404, 422))
async def list_moves(
    product_id: UUID,
    plan_id: UUID,
    actor: Provider,
    session: Session,
    *,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.PlanMoveShape]:
    """How far the moves of a plan's subscribers are, newest first."""
    await catalog.own_plan(session, actor.organization_id, product_id, plan_id)
    mine = queries.moves_of(product_id, plan_id)
    rows, next_cursor = await paginate(session, mine, PlanMove.id, limit, cursor)
    return Page(data=[await _move_shape(session, row) for row in rows], next_cursor=next_cursor)


@router.get(
    f"{MOVES}/preview",
    operation_id="preview_plan_move",
    responses=documented(401, 403, 404, 422),
)
async def preview_move(
    product_id: UUID,
    plan_id: UUID,
    request: Request,
    actor: Provider,
    to_plan: Annotated[str | None, Query(max_length=63, pattern=r"^[a-z0-9-]+$")] = None,
) -> schemas.MovePreview:
    """Whom a move would take to which version, from which fees to which; nothing is changed.
    Without `to_plan`: to the plan's own current version.
    """
    session = await _system(request)
    target, groups = await consumers.would_move(session, actor, product_id, plan_id, to_plan)
    return schemas.MovePreview(
        to_plan=target.slug,
        to_plan_version=target.number,
        total=sum(group.subscribers for group in groups),
        left_out=sum(group.left_out for group in groups),
        versions=[
            schemas.MovedVersion(
                plan_version=group.plan.number,
                subscribers=group.subscribers,
                left_out=group.left_out,
                contract=group.plan.contract,
                fee=await _fee(session, group.plan, group.currency),
                fee_then=await _fee(session, target, group.currency),
            )
            for group in groups
        ],
    )


@router.post(
    MOVES,
    operation_id="move_plan_subscribers",
    status_code=202,
    responses=REFUSALS,
    **mutates(permission=MANAGE, events=[events.PlanMoveStarted], idempotency="key"),
)
async def move(
    product_id: UUID, plan_id: UUID, body: schemas.MoveBody, request: Request, actor: Provider
) -> schemas.PlanMoveShape:
    """Move a plan's subscribers to its current version, or to another plan: each is told now, and
    moves at the first end of its period from `not_before` on.
    """
    session = await _system(request)
    started = await consumers.start_move(
        session,
        actor,
        product_id,
        plan_id,
        to_plan=body.to_plan,
        not_before=body.not_before,
        reason=body.reason,
        as_of=clock.now(),
    )
    return await _move_shape(session, started)


async def consumer_shapes(
    session: AsyncSession, rows: Sequence[Subscription]
) -> list[schemas.ConsumerShape]:
    """Subscriptions as their provider and the operator see them; a system session."""
    await session.flush()
    moment = clock.now()
    names = await identity.facts_of_organizations(session, {row.organization_id for row in rows})
    shown = []
    for row in rows:
        plan = await catalog.plan_facts(session, row.plan_version_id)
        bans = await queries.banned(session, row.provider_organization_id, [row.organization_id])
        fee, _ = await catalog.shown_price(session, row.plan_version_id, row.currency)
        add_ons = await add_on_shapes(session, row)
        shown.append(
            schemas.ConsumerShape(
                id=row.id,
                organization_id=row.organization_id,
                name=names[row.organization_id].name,
                country=names[row.organization_id].country,
                product=schemas.ProductShape(slug=plan.product.slug, name=plan.product.name),
                plan=schemas.PlanShape(
                    slug=plan.slug, name=plan.name, rank=plan.rank, plan_version=plan.number
                ),
                contract=plan.contract,
                base_fee=Money(amount_minor=fee, currency=row.currency),
                add_ons=add_ons,
                status=row.status_at(moment),
                cancel_reason=row.cancel_reason,
                scheduled_change=scheduled_shape(row.scheduled_change, add_ons),
                banned=row.organization_id in bans,
                version=row.version,
                **instants(row, schemas.ConsumerShape),
            )
        )
    return shown


async def _system(request: Request) -> AsyncSession:
    """The request's transaction over both sides of the contract."""
    unit = unit_of(request)
    await unit.close()
    return await unit.open_system("a provider's subscribers")


async def _shown(session: AsyncSession, row: Subscription) -> schemas.ConsumerShape:
    return (await consumer_shapes(session, [row]))[0]


async def _fee(session: AsyncSession, plan: catalog.PlanFacts, currency: str) -> Money | None:
    if currency not in plan.currencies:
        return None
    fee, _ = await catalog.shown_price(session, plan.plan_version_id, currency)
    return Money(amount_minor=fee, currency=currency)


async def _move_shape(session: AsyncSession, row: PlanMove) -> schemas.PlanMoveShape:
    target = await catalog.plan_facts(session, row.to_plan_version_id)
    return schemas.PlanMoveShape(
        id=row.id,
        to_plan=target.slug,
        to_plan_version=target.number,
        not_before=clock.to_wire(row.not_before),
        reason=row.reason,
        status=row.status,
        total=row.total,
        moved=row.moved,
        left_out=row.left_out,
        created_at=clock.to_wire(row.created_at),
        finished_at=row.finished_at and clock.to_wire(row.finished_at),
    )
