# SPDX-License-Identifier: Apache-2.0
"""Routes of a product."""

import re
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.actors import Actor
from nimbus.base.constraints import refused_by
from nimbus.base.events import announce
from nimbus.catalog import queries
from nimbus.catalog.events import RouteChanged, RouteCreated, RouteDeleted
from nimbus.catalog.models import Plan, Product, Route
from nimbus.catalog.schemas import ChangedRoute, ParameterShape, RouteFields
from nimbus.catalog.service.shapes import plain, rate_columns
from nimbus.errors import Refusal, field_error
from nimbus.rules.metering import CALLS, MAX_HOLDS_TEXT, holds_text
from nimbus.rules.meters import FED_BY_CALLS

SEGMENT = re.compile(
    r"(?:\{(?P<name>[A-Za-z_][A-Za-z0-9_]{0,49})\}|(?!\.{1,2}$)[A-Za-z0-9._~!$&'()+,;=:@-]+)",
    re.ASCII,
)
COLUMNS = (
    "method", "path", "title", "description", "scope", "weight", "ip_allow", "ip_deny",
    "strict_journal", "holds", "public",
)  # fmt: skip
KEY_PARAMETER = "api_key"
PATH_TAKEN = {
    "uq_routes_path": field_error("path", "taken", "Another route answers the same calls.")
}


async def create_route(
    session: AsyncSession, actor: Actor, product_id: UUID, given: RouteFields
) -> Route:
    """Add an operation to a product.

    Raises 422 on `path` or `upstream_path` for a template that is none or that another route has,
    on `minimum_plan` for a slug that is no plan of the product, on `parameters.…` for a parameter
    that is there twice, not in the path, or the gateway's own, on `holds.…` for a meter that no
    answer reports.
    """
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    await queries.check_room(session, Route, product, "routes")
    route = Route(
        organization_id=product.organization_id,
        product_id=product.id,
        **await _values(session, product, given),
    )
    async with refused_by(session, PATH_TAKEN):
        session.add(route)
    announce(session, actor, _event(RouteCreated, route, after=_facts(route)))
    return route


async def change_route(
    session: AsyncSession, actor: Actor, product_id: UUID, route_id: UUID, given: ChangedRoute
) -> Route:
    """Say everything about a route anew; 409 for a stale version, else as `create_route`."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    route = await queries.own_route(session, product, route_id)
    if route.version != given.version:
        raise Refusal("stale_version", "Read it again, then change it.")
    before = _facts(route)
    values = await _values(session, product, given)
    async with refused_by(session, PATH_TAKEN):
        for name, value in values.items():
            setattr(route, name, value)
        route.version += 1
    announce(session, actor, _event(RouteChanged, route, before=before, after=_facts(route)))
    return route


async def delete_route(
    session: AsyncSession, actor: Actor, product_id: UUID, route_id: UUID
) -> None:
    """Take an operation away; calls to it are 404 from then on."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    route = await queries.own_route(session, product, route_id)
    await session.delete(route)
    announce(session, actor, _event(RouteDeleted, route, before=_facts(route)))


def check_template(path: str, field: str) -> set[str]:
    """The parameters of a path template: `/farms/{farm}/turbines/{id}` → farm, id; `/files/*` → *.

    `*` stands for all the rest and comes last. Raises 422 on `field` for a path that does not
    begin with `/`, has empty or dot segments, a brace that is not a whole `{name}`, a parameter
    twice, or characters that need escaping.
    """
    text = "A path such as /farms/{id}: plain segments, none of them . or .., names once."
    refusal = field_error(field, "invalid_path", text)
    if path == "/":
        return set()
    head, *segments = path.split("/")
    tail = segments[-1:] if segments[-1:] == ["*"] else []
    matches = [SEGMENT.fullmatch(segment) for segment in segments[: len(segments) - len(tail)]]
    if head or not segments or not all(matches):
        raise refusal
    names = [match["name"] for match in matches if match and match["name"]] + tail
    if len(set(names)) < len(names):
        raise refusal
    return set(names)


async def _values(session: AsyncSession, product: Product, given: RouteFields) -> dict[str, Any]:
    known = check_template(given.path, "path")
    upstream_path = given.upstream_path or given.path
    if not check_template(upstream_path, "upstream_path") <= known:
        text = "It names a parameter that the path does not have."
        raise field_error("upstream_path", "unknown_parameter", text)
    _check_parameters(given.parameters, known)
    await _check_holds(session, product, given.holds)
    return {
        **{name: getattr(given, name) for name in COLUMNS},
        "parameters": [parameter.model_dump() for parameter in given.parameters],
        **rate_columns(given.rate_limit),
        "upstream_path": upstream_path,
        "minimum_plan_id": await _minimum_plan(session, product, given.minimum_plan),
    }


async def _check_holds(session: AsyncSession, product: Product, given: dict[str, int]) -> None:
    if not given:
        return
    meters = await session.scalars(queries.meters_of(product.id))
    reported = {row.key for row in meters if row.aggregation in FED_BY_CALLS} - {CALLS}
    for meter_key in given:
        if meter_key not in reported:
            text = "The product has no meter of this key that an answer reports."
            raise field_error(f"holds.{meter_key}", "unknown_meter", text)
    if len(holds_text(given.items())) > MAX_HOLDS_TEXT:
        text = f"Written as `meter=units,…` they take at most {MAX_HOLDS_TEXT} characters."
        raise field_error("holds", "too_long", text)


def _check_parameters(given: list[ParameterShape], in_path: set[str]) -> None:
    seen = set()
    for number, parameter in enumerate(given):
        field = f"parameters.{number}"
        if (parameter.place, parameter.name) in seen:
            raise field_error(f"{field}.name", "twice", "The parameter is there twice.")
        seen.add((parameter.place, parameter.name))
        if parameter.place == "path" and parameter.name not in in_path - {"*"}:
            raise field_error(f"{field}.name", "unknown_parameter", "The path does not have it.")
        if parameter.place == "path" and not parameter.required:
            text = "A parameter in the path is always required."
            raise field_error(f"{field}.required", "always_required", text)
        if parameter.place == "query" and parameter.name == KEY_PARAMETER:
            text = "This name is the key's, which upstreams never see."
            raise field_error(f"{field}.name", "reserved", text)


async def _minimum_plan(session: AsyncSession, product: Product, slug: str | None) -> UUID | None:
    if slug is None:
        return None
    plan = await session.scalar(queries.plans_of(product).where(Plan.slug == slug))
    if plan is None or plan.status == "archived":
        raise field_error("minimum_plan", "unknown_plan", "The product has no such plan.")
    return plan.id


def _facts(route: Route) -> dict[str, Any]:
    names = (*COLUMNS, "upstream_path", "minimum_plan_id", "parameters")
    return {name: plain(getattr(route, name)) for name in names}


def _event(kind: Any, row: Route, **values: Any) -> Any:
    return kind(organization_id=row.organization_id, entity_id=row.id, **values)
