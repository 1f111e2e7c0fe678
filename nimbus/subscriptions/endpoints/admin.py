# SPDX-License-Identifier: Apache-2.0
"""HTTP for the operator: every subscription of the platform."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, mutates, paginate, unit_of
from nimbus.identity import platform_admin, platform_reader
from nimbus.subscriptions import events, queries, schemas
from nimbus.subscriptions.endpoints.consumers import consumer_shapes
from nimbus.subscriptions.models import Subscription
from nimbus.subscriptions.service import changes, consumers, lives

SUBSCRIPTIONS = "/api/admin/subscriptions"
ONE = f"{SUBSCRIPTIONS}/{{subscription_id}}"
REFUSALS = documented(401, 403, 404, 409, 415, 422)
SETTLED = [events.SubscriptionChanged, events.SubscriptionExpired]

router = Router(tags=["admin"])
Admin = Annotated[Actor, platform_admin()]
Reader = Annotated[Actor, platform_reader()]


@router.get(
    SUBSCRIPTIONS, operation_id="admin_list_subscriptions", responses=documented(401, 403, 422)
)
async def list_subscriptions(
    request: Request,
    _: Reader,
    organization_id: Annotated[UUID | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.ConsumerShape]:
    """All subscriptions, newest first; of one organization where it is named."""
    session = await unit_of(request).open_system("platform pages")
    rows, next_cursor = await paginate(
        session, queries.of_anyone(organization_id), Subscription.id, limit, cursor
    )
    return Page(data=await consumer_shapes(session, rows), next_cursor=next_cursor)


@router.put(
    ONE,
    operation_id="admin_change_subscription",
    responses=REFUSALS,
    **mutates(permission="platform_admin", events=SETTLED, idempotency="version"),
)
async def change(
    subscription_id: UUID, body: schemas.PlanBody, request: Request, actor: Admin
) -> schemas.ConsumerShape:
    """Put a subscription on another plan, now or at the period's end."""
    session = await unit_of(request).open_system("platform pages")
    changed = await changes.change_plan(
        session,
        actor,
        subscription_id,
        body.plan,
        direction="any",
        version=body.version,
        as_of=clock.now(),
        at_once=body.at_once,
        side="operator",
    )
    return (await consumer_shapes(session, [changed]))[0]


@router.post(
    f"{ONE}/contract",
    operation_id="admin_set_contract",
    responses=REFUSALS,
    **mutates(permission="platform_admin", events=SETTLED, idempotency="version"),
)
async def set_contract(
    subscription_id: UUID, body: schemas.ContractBody, request: Request, actor: Admin
) -> schemas.ConsumerShape:
    """Agree other terms with one subscriber."""
    session = await unit_of(request).open_system("platform pages")
    changed = await consumers.set_contract(
        session,
        actor,
        subscription_id,
        body.terms,
        version=body.version,
        as_of=clock.now(),
        side="operator",
    )
    return (await consumer_shapes(session, [changed]))[0]


@router.post(
    f"{ONE}/cancel",
    operation_id="admin_cancel_subscription",
    responses=REFUSALS,
    **mutates(
        permission="platform_admin",
        events=[*SETTLED, events.SubscriptionCancelled],
        idempotency="version",
    ),
)
async def cancel(
    subscription_id: UUID, body: schemas.AdminCancelBody, request: Request, actor: Admin
) -> schemas.ConsumerShape:
    """End a subscription, at its period's end or at once."""
    session = await unit_of(request).open_system("platform pages")
    ended = await lives.cancel(
        session,
        actor,
        subscription_id,
        reason=body.reason,
        as_of=clock.now(),
        at_once=body.at_once,
        version=body.version,
        side="operator",
    )
    return (await consumer_shapes(session, [ended]))[0]
