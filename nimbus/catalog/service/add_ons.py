# SPDX-License-Identifier: Apache-2.0
"""Add-ons: what is taken beside a plan. Each is a plan of its own kind, with versions as such."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.actors import Actor
from nimbus.base.constraints import refused_by
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.catalog import queries
from nimbus.catalog.events import AddOnChanged, AddOnCreated
from nimbus.catalog.models import Plan, PlanVersion
from nimbus.catalog.schemas import AddOnTermsShape, ChangedAddOn, NewAddOn, VersionShape
from nimbus.catalog.service.plans import MAX_PLANS, TAKEN, checked_terms, write_version
from nimbus.catalog.service.shapes import terms_shape
from nimbus.errors import Refusal, field_error


async def create_add_on(
    session: AsyncSession, actor: Actor, product_id: UUID, given: NewAddOn
) -> tuple[Plan, PlanVersion]:
    """Make an add-on with its first version; 404 for another's product, 422 on the field."""
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    count = select(func.count()).select_from(queries.plans_of(product, "add_on").subquery())
    if (await session.scalar(count) or 0) >= MAX_PLANS:
        raise field_error("add_ons", "too_many", f"A product has at most {MAX_PLANS}.")
    terms = await checked_terms(session, product, _version(given))
    version_id = new_id()
    add_on = Plan(
        organization_id=product.organization_id,
        product_id=product.id,
        kind="add_on",
        slug=given.slug,
        name=given.name,
        rank=0,
        visibility=given.visibility,
        status=given.status,
        current_version_id=version_id,
    )
    async with refused_by(session, TAKEN):
        session.add(add_on)
    version = await write_version(session, add_on, version_id, terms)
    announce(session, actor, _event(AddOnCreated, add_on, after=_facts(add_on, version)))
    return add_on, version


async def change_add_on(
    session: AsyncSession, actor: Actor, product_id: UUID, add_on_id: UUID, given: ChangedAddOn
) -> tuple[Plan, PlanVersion]:
    """Say everything about an add-on anew; who took it keeps the version that was signed.

    Raises 404 for another's, 409 for a stale version, 422 on the field.
    """
    product = await queries.own_product(session, actor.organization_id, product_id)
    add_on = await queries.own_plan(session, product, add_on_id, "add_on")
    if add_on.version != given.version:
        raise Refusal("stale_version", "Read it again, then change it.")
    if given.status == "draft" and add_on.status != "draft":
        raise field_error("status", "not_allowed", "What was active is not a draft again.")
    current = await queries.plan_version(session, add_on.current_version_id)
    before = _facts(add_on, current)
    terms = await checked_terms(session, product, _version(given))
    for name in ("name", "visibility", "status"):
        setattr(add_on, name, getattr(given, name))
    add_on.version += 1
    await session.flush()
    if terms != terms_shape(current):
        current = await write_version(session, add_on, new_id(), terms)
        add_on.current_version_id = current.id
    after = _facts(add_on, current)
    announce(session, actor, _event(AddOnChanged, add_on, before=before, after=after))
    return add_on, current


def _version(given: AddOnTermsShape) -> VersionShape:
    """An add-on's terms as a version's: what only a plan says keeps its usual value."""
    said = {name: getattr(given, name) for name in AddOnTermsShape.model_fields}
    return VersionShape(**said)


def _facts(add_on: Plan, version: PlanVersion) -> dict[str, Any]:
    names = ("slug", "name", "visibility", "status")
    return {name: getattr(add_on, name) for name in names} | {"add_on_version": version.number}


def _event(kind: Any, add_on: Plan, **values: Any) -> Any:
    return kind(organization_id=add_on.organization_id, entity_id=add_on.id, **values)
