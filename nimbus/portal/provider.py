# SPDX-License-Identifier: Apache-2.0
"""A subscriber's page for the provider: who it is, what was agreed, how its quotas stand."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Router, unit_of
from nimbus.catalog import ContractShape
from nimbus.errors import Refusal
from nimbus.identity import Permission, allowed
from nimbus.subscriptions import Subscription, queries
from nimbus.subscriptions.endpoints.consumers import consumer_shapes
from nimbus.subscriptions.schemas import ConsumerShape
from nimbus.usage.endpoints.shown_quotas import quota_shape
from nimbus.usage.schemas import NamedShape, QuotaShape
from nimbus.usage.service.readings import current_use

router: APIRouter = Router(tags=["provider"])


class ConsumerDetail(BaseModel):
    """A subscriber; `terms` are what its plan or its contract says, `quotas` those that run now."""

    consumer: ConsumerShape
    terms: ContractShape
    quotas: list[QuotaShape]


@router.get(
    "/api/provider/consumers/{subscription_id}",
    operation_id="read_consumer",
    responses=documented(401, 403, 404, 422),
)
async def read_consumer(
    subscription_id: UUID,
    request: Request,
    actor: Annotated[Actor, allowed(Permission.MANAGE_CONSUMERS)],
) -> ConsumerDetail:
    """One subscriber to my products, with its prices and quotas."""
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system("a provider's subscribers")
    row = await session.scalar(
        queries.of_provider(actor.organization_id).where(Subscription.id == subscription_id)
    )
    if row is None:
        raise Refusal("not_found")
    [consumer] = await consumer_shapes(session, [row])
    uses = await current_use(session, row.organization_id, clock.now(), row.product_id)
    product = NamedShape(slug=consumer.product.slug, name=consumer.product.name)
    return ConsumerDetail(
        consumer=consumer,
        terms=await catalog.contract_terms(session, row.plan_version_id, row.currency),
        quotas=[
            quota_shape(product, state)
            for use in uses
            for state in use.quotas
            if state.subscription_id == row.id
        ],
    )
