# SPDX-License-Identifier: Apache-2.0
"""HTTP of products' host names: for their providers, and for the operator."""

from typing import Annotated
from uuid import UUID

from fastapi import Request, Response

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, Session, mutates, paginate, unit_of
from nimbus.catalog import events, queries, schemas
from nimbus.catalog.endpoints.provider import MANAGE, PRODUCT, Provider
from nimbus.catalog.models import ProductHost
from nimbus.catalog.service import hosts
from nimbus.catalog.service.shapes import host_shape
from nimbus.identity import platform_admin, platform_reader

router = Router(tags=["provider"])


@router.get(
    f"{PRODUCT}/hosts", operation_id="list_product_hosts", responses=documented(401, 403, 404, 422)
)
async def list_hosts(
    product_id: UUID, actor: Provider, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.HostShape]:
    """The host names at which the product is served, newest first."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    rows, next_cursor = await paginate(
        session, queries.hosts_of(product.id), ProductHost.id, limit, cursor
    )
    return Page(data=[host_shape(row) for row in rows], next_cursor=next_cursor)


@router.post(
    f"{PRODUCT}/hosts",
    operation_id="add_product_host",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.HostAdded], idempotency="key"),
)
async def add_host(
    product_id: UUID, body: schemas.NewHost, actor: Provider, session: Session
) -> schemas.HostShape:
    """Serve the product at a host name of its own as well."""
    return host_shape(await hosts.add_host(session, actor, product_id, body.name))


@router.delete(
    f"{PRODUCT}/hosts/{{host_id}}",
    operation_id="remove_product_host",
    status_code=204,
    responses=documented(401, 403, 404, 422),
    **mutates(permission=MANAGE, events=[events.HostRemoved], idempotency="natural"),
)
async def remove_host(
    product_id: UUID, host_id: UUID, actor: Provider, session: Session
) -> Response:
    """Serve the product there no more; the name is free for others."""
    await hosts.remove_host(session, actor, product_id, host_id)
    return Response(status_code=204)


@router.get(
    "/api/admin/product-hosts",
    operation_id="admin_list_product_hosts",
    responses=documented(401, 403, 422),
)
async def admin_list_hosts(
    request: Request,
    _: Annotated[Actor, platform_reader()],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.AdminHostShape]:
    """The host names of all products, newest first, and whose they are."""
    session = await unit_of(request).open_system("platform pages")
    rows, next_cursor = await paginate(session, queries.all_hosts(), ProductHost.id, limit, cursor)
    slugs = await queries.slugs_of(session, [row.product_id for row in rows])
    data = [
        schemas.AdminHostShape(
            id=row.id,
            name=row.name,
            created_at=clock.to_wire(row.created_at),
            product=slugs[row.product_id],
            organization_id=row.organization_id,
        )
        for row in rows
    ]
    return Page(data=data, next_cursor=next_cursor)


@router.delete(
    "/api/admin/product-hosts/{host_id}",
    operation_id="admin_remove_product_host",
    status_code=204,
    responses=documented(401, 403, 404, 422),
    **mutates(permission="platform_admin", events=[events.HostRemoved], idempotency="natural"),
)
async def admin_remove_host(
    host_id: UUID, request: Request, actor: Annotated[Actor, platform_admin()]
) -> Response:
    """Take a host name from a product whose provider it is not."""
    session = await unit_of(request).open_system("platform pages")
    await hosts.take_host_away(session, actor, host_id)
    return Response(status_code=204)
