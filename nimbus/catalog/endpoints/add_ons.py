# SPDX-License-Identifier: Apache-2.0
"""HTTP of add-ons for providers."""

from typing import Annotated
from uuid import UUID

from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, Session, mutates, paginate
from nimbus.catalog import events, queries, schemas
from nimbus.catalog.models import Plan
from nimbus.catalog.service import add_ons
from nimbus.catalog.service.shapes import add_on_shape
from nimbus.identity import Permission, allowed

ADD_ONS = "/api/provider/products/{product_id}/add-ons"
MANAGE = Permission.MANAGE_PRODUCTS

router = Router(tags=["provider"])
Provider = Annotated[Actor, allowed(MANAGE)]


@router.get(ADD_ONS, operation_id="list_add_ons", responses=documented(401, 403, 404, 422))
async def list_add_ons(
    product_id: UUID, actor: Provider, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.AddOnShape]:
    """The product's add-ons with what they say now, newest first."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    own = queries.plans_of(product, "add_on").order_by(None)
    rows, next_cursor = await paginate(session, own, Plan.id, limit, cursor)
    versions = await queries.versions(session, [row.current_version_id for row in rows])
    return Page(
        data=[add_on_shape(row, versions[row.current_version_id]) for row in rows],
        next_cursor=next_cursor,
    )


@router.post(
    ADD_ONS,
    operation_id="create_add_on",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.AddOnCreated], idempotency="key"),
)
async def create_add_on(
    product_id: UUID, body: schemas.NewAddOn, actor: Provider, session: Session
) -> schemas.AddOnShape:
    """Offer something beside the plans: a fee, charges, quotas; taken once or several times."""
    return add_on_shape(*await add_ons.create_add_on(session, actor, product_id, body))


@router.put(
    f"{ADD_ONS}/{{add_on_id}}",
    operation_id="change_add_on",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.AddOnChanged], idempotency="version"),
)
async def change_add_on(
    product_id: UUID,
    add_on_id: UUID,
    body: schemas.ChangedAddOn,
    actor: Provider,
    session: Session,
) -> schemas.AddOnShape:
    """Say everything about an add-on anew; who took it keeps what was signed."""
    changed = await add_ons.change_add_on(session, actor, product_id, add_on_id, body)
    return add_on_shape(*changed)
