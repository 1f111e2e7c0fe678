# SPDX-License-Identifier: Apache-2.0
"""Host names at which products are served.

A name leads to one product of the installation: the first who asks for it gets it, and it is free
again once it is removed. That the provider owns the name can't be proven here: its DNS has to lead
to this installation before anything comes of it, and a name that somebody else claims is taken away
by the operator.
"""

import re
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import idna
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import db
from nimbus.base.actors import Actor
from nimbus.base.constraints import refused_by
from nimbus.base.events import announce
from nimbus.catalog import queries
from nimbus.catalog.events import HostAdded, HostRemoved
from nimbus.catalog.models import Product, ProductHost
from nimbus.errors import field_error

MAX_HOSTS = 20
# Two labels at least, and a last one that no number begins: an address is no name.
NAME = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII
)
# Names that are never out in the world: RFC 6761, RFC 6762 and what private networks use.
PRIVATE = frozenset(("arpa", "internal", "invalid", "local", "localhost"))


async def add_host(
    session: AsyncSession, actor: Actor, product_id: UUID, given: str
) -> ProductHost:
    """Serve a product at a host name as well.

    Raises 422 on `name` for one that is none, that is private or the installation's own, or that
    any product has; when the product has too many.
    """
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    name = usual_name(given)
    own = usual_public_host()
    if name == own or (name.endswith(f".{own}") and actor.platform_role != "admin"):
        text = "The installation's own host, and names below it, are the operator's."
        raise field_error("name", "reserved", text)
    count = select(func.count()).select_from(ProductHost)
    if (await session.scalar(count.where(ProductHost.product_id == product.id)) or 0) >= MAX_HOSTS:
        raise field_error("name", "too_many", f"A product has at most {MAX_HOSTS}.")
    host = ProductHost(organization_id=product.organization_id, product_id=product.id, name=name)
    taken = field_error("name", "taken", "Another product is served at this host.")
    async with refused_by(session, {"uq_product_hosts_name": taken}):
        session.add(host)
    announce(session, actor, _event(HostAdded, host, after=_facts(product, host)))
    return host


async def remove_host(session: AsyncSession, actor: Actor, product_id: UUID, host_id: UUID) -> None:
    """Serve a product at a host name no more; the name is free for anyone from then on."""
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    await _remove(session, actor, product, await queries.host_by_id(session, product.id, host_id))


async def take_host_away(session: AsyncSession, actor: Actor, host_id: UUID) -> None:
    """The operator's way: remove a host name of anybody's product, because it is not theirs."""
    found = await session.execute(
        select(Product, ProductHost)
        .join(ProductHost, ProductHost.product_id == Product.id)
        .where(ProductHost.id == host_id)
    )
    product, host = queries.one(found.first())
    await _remove(session, actor, product, host)


def usual_name(given: str) -> str:
    """A host name as callers' Host fields say it: `Straße.Example.` → `xn--strae-oqa.example`.

    Raises 422 on `name` for what is no name of the public DNS: addresses, single labels, names
    with a port, private names.
    """
    refusal = field_error("name", "invalid_host", "A public host name such as api.example.com.")
    try:
        name = idna.encode(given.strip().rstrip("."), uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        raise refusal from None
    if len(name) > 253 or not NAME.fullmatch(name) or name.rpartition(".")[2] in PRIVATE:
        raise refusal
    return name


def usual_public_host() -> str:
    """The host of the installation's own address, in the same form where it is a name."""
    host = (urlsplit(db.current().settings.public_url).hostname or "").rstrip(".")
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        return host


async def _remove(session: AsyncSession, actor: Actor, product: Product, host: ProductHost) -> None:
    await session.delete(host)
    announce(session, actor, _event(HostRemoved, host, before=_facts(product, host)))


def _facts(product: Product, host: ProductHost) -> dict[str, str]:
    return {"product": product.slug, "name": host.name}


def _event(kind: Any, host: ProductHost, **values: Any) -> Any:
    return kind(organization_id=host.organization_id, entity_id=host.id, **values)
