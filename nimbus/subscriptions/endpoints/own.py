# SPDX-License-Identifier: Apache-2.0
"""HTTP of subscriptions: reading them. Starting and changing one is `payments`'."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, Session, paginate
from nimbus.errors import Refusal
from nimbus.identity import Permission, allowed
from nimbus.subscriptions import queries, schemas
from nimbus.subscriptions.models import Subscription
from nimbus.subscriptions.service.shapes import shapes

SUBSCRIPTIONS = "/api/billing/subscriptions"
SEE = Permission.SEE_SUBSCRIPTION

router = Router(tags=["subscriptions"])
Member = Annotated[Actor, allowed(Permission.SEE_PLAN, scope="billing.read")]
Reader = Annotated[Actor, allowed(SEE, scope="billing.read")]
ProductSlug = Annotated[str | None, Query(max_length=63, pattern=r"^[a-z0-9-]+$")]


@router.get(
    "/api/billing/subscription",
    operation_id="read_current_subscription",
    responses=documented(401, 403, 404, 422),
)
async def read_current(
    actor: Member, session: Session, product: ProductSlug = None
) -> schemas.SubscriptionShape:
    """The subscription to a product, the operator's own where none is named: the live one, else
    the last one. Every member sees plan and status; the price takes its permission.
    """
    sold = await catalog.product_or_operators(session, product)
    found = await queries.latest(session, actor.organization_id, sold.id)
    if found is None:
        raise Refusal("not_found", "There is no subscription to this product.")
    return (await shapes(session, actor, [found], clock.now()))[0]


@router.get(SUBSCRIPTIONS, operation_id="list_subscriptions", responses=documented(401, 403, 422))
async def list_subscriptions(
    actor: Reader, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.SubscriptionShape]:
    """What my organization subscribed to, newest first."""
    own = queries.of_organization(actor.organization_id)
    rows, next_cursor = await paginate(session, own, Subscription.id, limit, cursor)
    return Page(data=await shapes(session, actor, rows, clock.now()), next_cursor=next_cursor)


@router.get(
    f"{SUBSCRIPTIONS}/{{subscription_id}}",
    operation_id="read_subscription",
    responses=documented(401, 403, 404, 422),
)
async def read_subscription(
    subscription_id: UUID, actor: Reader, session: Session
) -> schemas.SubscriptionShape:
    """One subscription."""
    found = await queries.own(session, actor.organization_id, subscription_id)
    return (await shapes(session, actor, [found], clock.now()))[0]
