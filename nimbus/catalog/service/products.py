# SPDX-License-Identifier: Apache-2.0
"""Products and where their calls go."""

import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv6Address
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db
from nimbus.base.actors import Actor
from nimbus.base.constraints import refused_by
from nimbus.base.events import announce
from nimbus.base.reach import why_unreachable
from nimbus.base.secrets import seal
from nimbus.catalog import queries
from nimbus.catalog.events import (
    ProductChanged,
    ProductCreated,
    ProductDeleted,
    ProductPublished,
    ProductUnpublished,
)
from nimbus.catalog.models import Meter, Plan, Product, Route, Upstream
from nimbus.catalog.schemas import ChangedProduct, NewProduct, ProductFields, UpstreamInput
from nimbus.catalog.service.shapes import plain
from nimbus.errors import FieldError, Refusal, field_error

COLUMNS = (
    "name", "category", "short_description", "description", "version_label", "visibility",
    "key_in_query", "ip_allow", "ip_deny", "parameter_check", "billable_statuses", "websockets",
)  # fmt: skip
BASE_URL = re.compile(
    r"https?://(?:[A-Z0-9](?:[A-Z0-9._-]{0,251}[A-Z0-9])?|\[[0-9A-F:.]{2,45}\])(?::[0-9]{1,5})?"
    r"(?:/[A-Z0-9._~!$&'()*+,;=:@-]+)*/?",
    re.ASCII | re.IGNORECASE,
)
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
# Headers that say how a message is framed or what the gateway itself tells the upstream.
RESERVED_HEADERS = frozenset(
    [
        *("connection", "content-length", "content-type", "date", "expect", "host", "keep-alive"),
        *("proxy-authenticate", "proxy-authorization", "te", "trailer", "traceparent"),
        *("transfer-encoding", "upgrade", "x-request-id"),
    ]
)
RESERVED_PREFIXES = ("x-nimbus-", "x-forwarded-")
UNREACHABLE = {
    "missing": "A published product needs a live upstream.",
    "unresolved": "The host's name has no address.",
    "not_allowed": "The host is not at a public address.",
    "no_answer": "The host takes no connection.",
}


async def create_product(session: AsyncSession, actor: Actor, given: NewProduct) -> Product:
    """Make a draft product of the actor's organization, with the meter `api_calls`.

    Raises 422 on `slug` when it is taken by any provider, 400 `invalid_url` for an upstream's
    address, 422 on `upstreams.…` for its credential.
    """
    product = Product(
        organization_id=actor.organization_id,
        slug=given.slug,
        **{name: getattr(given, name) for name in COLUMNS},
    )
    taken = field_error("slug", "taken", "Another product has this slug.")
    async with refused_by(session, {"uq_products_slug": taken}):
        session.add(product)
    session.add(
        Meter(
            organization_id=product.organization_id,
            product_id=product.id,
            key="api_calls",
            unit="call",
            aggregation="count",
        )
    )
    await _set_upstreams(session, product, given.upstreams)
    await session.flush()
    after = {"slug": product.slug, "name": product.name, **_addresses(given)}
    announce(session, actor, _event(ProductCreated, product, after=after))
    return product


async def change_product(
    session: AsyncSession, actor: Actor, product_id: UUID, given: ChangedProduct
) -> Product:
    """Say everything about a product anew; 409 for a stale version.

    A published product keeps a live upstream that may be reached, else 422 on `upstreams.Live`.
    """
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    _check_version(product.version, given.version)
    before = {name: getattr(product, name) for name in COLUMNS}
    changed = {name: new for name in COLUMNS if before[name] != (new := getattr(given, name))}
    for name, value in changed.items():
        setattr(product, name, value)
    await _set_upstreams(session, product, given.upstreams)
    await session.flush()
    if product.status == "published":
        problem = await _live_problem(session, product)
        if problem is not None:
            raise Refusal("validation_failed", problem.message, fields=(problem,))
    product.version += 1
    event = _event(
        ProductChanged,
        product,
        before={name: plain(before[name]) for name in changed},
        after={**{name: plain(new) for name, new in changed.items()}, **_addresses(given)},
    )
    announce(session, actor, event)
    return product


async def delete_product(session: AsyncSession, actor: Actor, product_id: UUID) -> None:
    """Delete a product and all that belongs to it, while nobody ever subscribed: 422 otherwise."""
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    subscribed = field_error("product", "has_subscribers", "Somebody subscribed to this product.")
    async with refused_by(session, dict.fromkeys(SUBSCRIBED, subscribed)):
        await session.delete(product)
    announce(session, actor, _event(ProductDeleted, product, before={"slug": product.slug}))


SUBSCRIBED = ("fk_subscriptions_product", "fk_subscriptions_plan_version")
"""The constraints by which a signed contract holds on to what was signed."""


async def publish(session: AsyncSession, actor: Actor, product_id: UUID) -> Product:
    """Offer a product: a plan, a route and a live upstream that may be reached must be there.

    What is missing is a 422 with a field for each. Publishing a published one changes nothing.
    """
    product = await queries.own_product(session, actor.organization_id, product_id)
    if product.status == "published":
        return product
    missing = await _missing(session, product)
    if missing:
        raise Refusal("validation_failed", "Something is missing.", fields=tuple(missing))
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    if product.status == "retired":
        raise field_error("status", "retired", "A retired product does not come back.")
    product.status = "published"
    product.published_at = product.published_at or clock.now()
    product.version += 1
    announce(session, actor, _event(ProductPublished, product, after={"slug": product.slug}))
    return product


async def unpublish(session: AsyncSession, actor: Actor, product_id: UUID) -> Product:
    """Make a product a draft again: not found, not sold, and calls to it are 404."""
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    if product.status == "published":
        product.status = "draft"
        product.version += 1
        announce(session, actor, _event(ProductUnpublished, product, after={"slug": product.slug}))
    return product


def check_base_url(url: str, field: str) -> str:
    """An upstream's usual address: `HTTP://Wind.Example/v1/` → `http://wind.example/v1`.

    Raises 400 `invalid_url`, naming the field, for another scheme than http and https, no host, a
    name or password, a query, a fragment, a port that is none, or dot segments.
    """
    reason = "An http or https address without credentials, query or fragment is expected."
    refusal = Refusal("invalid_url", reason, fields=(FieldError(field, "invalid_url", reason),))
    if not BASE_URL.fullmatch(url):
        raise refusal
    try:
        parts = urlsplit(url)
        port = parts.port
        if "[" in parts.netloc:
            IPv6Address(parts.hostname or "")
    except (ValueError, AddressValueError):
        raise refusal from None
    if port == 0 or {".", ".."} & set(parts.path.split("/")):
        raise refusal
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


async def _missing(session: AsyncSession, product: Product) -> list[FieldError]:
    missing = []
    plan = select(exists(queries.plans_of(product).where(Plan.status == "active")))
    if not await session.scalar(plan):
        missing.append(FieldError("plans", "missing", "The product has no active plan."))
    if not await session.scalar(select(exists(queries.routes_of(product).where(Route.public)))):
        missing.append(FieldError("routes", "missing", "The product has no public route."))
    problem = await _live_problem(session, product)
    return missing if problem is None else [*missing, problem]


async def _live_problem(session: AsyncSession, product: Product) -> FieldError | None:
    live = [
        upstream
        for upstream in await queries.upstreams_of(session, [product.id])
        if upstream.environment == "Live"
    ]
    networks = db.current().settings.private_networks
    code = await why_unreachable(live[0].base_url, networks) if live else "missing"
    return code and FieldError("upstreams.Live", code, UNREACHABLE[code])


async def _set_upstreams(
    session: AsyncSession, product: Product, given: Mapping[Any, UpstreamInput]
) -> None:
    known = {
        upstream.environment: upstream
        for upstream in await queries.upstreams_of(session, [product.id])
    }
    for environment in known.keys() - given.keys():
        await session.delete(known[environment])
    for environment, settings in given.items():
        path = f"upstreams.{environment}"
        upstream = known.get(environment)
        values = {
            "base_url": check_base_url(settings.base_url, f"{path}.base_url"),
            "connect_timeout_ms": settings.connect_timeout_ms,
            "answer_timeout_ms": settings.answer_timeout_ms,
            "max_concurrent": settings.max_concurrent,
            "auth_header": settings.auth_header,
            "auth_secret_sealed": _sealed(settings, upstream, path),
        }
        if upstream is None:
            upstream = Upstream(
                organization_id=product.organization_id,
                product_id=product.id,
                environment=environment,
            )
            session.add(upstream)
        for name, value in values.items():
            setattr(upstream, name, value)


def _sealed(settings: UpstreamInput, known: Upstream | None, path: str) -> bytes | None:
    if settings.auth_header is None:
        if settings.auth_secret is not None:
            raise field_error(f"{path}.auth_header", "missing", "Which header carries the secret?")
        return None
    header = settings.auth_header.lower()
    if (
        not HEADER.fullmatch(header)
        or header in RESERVED_HEADERS
        or header.startswith(RESERVED_PREFIXES)
    ):
        raise field_error(f"{path}.auth_header", "not_allowed", "Not a header for a credential.")
    if settings.auth_secret is None:
        if known is None or known.auth_secret_sealed is None:
            raise field_error(f"{path}.auth_secret", "missing", "The header needs its secret.")
        return known.auth_secret_sealed
    value = settings.auth_secret.get_secret_value()
    if not HEADER_VALUE.fullmatch(value):
        raise field_error(f"{path}.auth_secret", "invalid", "Printable ASCII characters only.")
    return seal(db.current().settings, value.encode())


def _check_version(current: int, given: int) -> None:
    if current != given:
        raise Refusal("stale_version", "Read it again, then change it.")


def _addresses(given: ProductFields) -> dict[str, Any]:
    return {"upstreams": {name: upstream.base_url for name, upstream in given.upstreams.items()}}


def _event(kind: Any, product: Product, **values: Any) -> Any:
    return kind(organization_id=product.organization_id, entity_id=product.id, **values)
