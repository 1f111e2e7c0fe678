# SPDX-License-Identifier: Apache-2.0
"""What provider and operator do to the quotas of a subscription."""

from typing import Annotated
from uuid import UUID

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Router, mutates, unit_of
from nimbus.identity import Permission, allowed, platform_admin, platform_reader
from nimbus.usage.endpoints.shown import plain
from nimbus.usage.events import QuotaIncreased, QuotaReset
from nimbus.usage.models import QuotaState
from nimbus.usage.quota_schemas import AdjustedList, AdjustedShape, IncreaseBody, ResetBody
from nimbus.usage.service import adjustments

CONSUMER = "/api/provider/consumers/{subscription_id}"
SUBSCRIPTION = "/api/admin/subscriptions/{subscription_id}"
REASON = "adjust quotas"

router = Router(tags=["quotas"])
MANAGE = Permission.MANAGE_CONSUMERS
Provider = Annotated[Actor, allowed(MANAGE)]


@router.post(
    f"{CONSUMER}/reset-quota",
    operation_id="provider_reset_quota",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[QuotaReset], idempotency="key"),
)
async def provider_reset_quota(
    subscription_id: UUID, body: ResetBody, request: Request, actor: Provider
) -> AdjustedList:
    """Count a consumer's quotas anew; in force at every gateway within a second. No event changes,
    and nor does the bill.
    """
    session = await _of_provider(request, actor, subscription_id)
    return await _reset(session, actor, subscription_id, body)


@router.post(
    f"{CONSUMER}/increase-quota",
    operation_id="provider_increase_quota",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[QuotaIncreased], idempotency="key"),
)
async def provider_increase_quota(
    subscription_id: UUID, body: IncreaseBody, request: Request, actor: Provider
) -> AdjustedList:
    """Give a consumer units beyond a quota for a time; in force within a second."""
    session = await _of_provider(request, actor, subscription_id)
    return await _increase(session, actor, subscription_id, body)


@router.post(
    f"{SUBSCRIPTION}/reset-quota",
    operation_id="admin_reset_quota",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission="support", events=[QuotaReset], idempotency="key"),
)
async def admin_reset_quota(
    subscription_id: UUID,
    body: ResetBody,
    request: Request,
    actor: Annotated[Actor, platform_reader()],
) -> AdjustedList:
    """Count the quotas of any subscription anew: the one thing that support may change."""
    session = await unit_of(request).open_system(REASON)
    return await _reset(session, actor, subscription_id, body)


@router.post(
    f"{SUBSCRIPTION}/increase-quota",
    operation_id="admin_increase_quota",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission="platform_admin", events=[QuotaIncreased], idempotency="key"),
)
async def admin_increase_quota(
    subscription_id: UUID,
    body: IncreaseBody,
    request: Request,
    actor: Annotated[Actor, platform_admin()],
) -> AdjustedList:
    """Give any subscription units beyond a quota for a time."""
    session = await unit_of(request).open_system(REASON)
    return await _increase(session, actor, subscription_id, body)


async def _of_provider(request: Request, actor: Actor, subscription_id: UUID) -> AsyncSession:
    """A session over both sides, once the subscription is one to a product of the actor's."""
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system(REASON)
    await adjustments.of_provider(session, actor.organization_id, subscription_id)
    return session


async def _reset(
    session: AsyncSession, actor: Actor, subscription_id: UUID, body: ResetBody
) -> AdjustedList:
    states = await adjustments.reset(
        session,
        actor,
        subscription_id,
        meter_key=body.meter,
        period=body.period,
        reason=body.reason,
        as_of=clock.now(),
    )
    return _shape(subscription_id, states)


async def _increase(
    session: AsyncSession, actor: Actor, subscription_id: UUID, body: IncreaseBody
) -> AdjustedList:
    states = await adjustments.increase(
        session,
        actor,
        subscription_id,
        meter_key=body.meter,
        period=body.period,
        units=body.units,
        ends_at=body.ends_at,
        reason=body.reason,
        as_of=clock.now(),
    )
    return _shape(subscription_id, states)


def _shape(subscription_id: UUID, states: list[QuotaState]) -> AdjustedList:
    return AdjustedList(
        subscription_id=subscription_id,
        quotas=[
            AdjustedShape(
                meter=state.meter_key,
                period=state.period,
                used=plain(state.used),
                limit=None if state.limit is None else str(state.limit),
                remaining=None if state.remaining is None else plain(state.remaining),
                behavior=state.behavior,
                resets_at=clock.to_wire(state.window.ends_at),
            )
            for state in states
        ],
    )
