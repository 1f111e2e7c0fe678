# SPDX-License-Identifier: Apache-2.0
"""Meters of a product: what they count, and where in an answer the units stand."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.actors import Actor
from nimbus.base.constraints import refused_by
from nimbus.base.events import announce
from nimbus.catalog import queries
from nimbus.catalog.events import MeterChanged, MeterCreated
from nimbus.catalog.models import Meter, Product
from nimbus.catalog.schemas import ChangedMeter, MeterFields, NewMeter
from nimbus.errors import Refusal, field_error
from nimbus.rules.metering import CALLS
from nimbus.rules.meters import read_path

MAX_PATHS = 5
COLUMNS = ("unit", "filters", "source_path")


async def create_meter(
    session: AsyncSession, actor: Actor, product_id: UUID, given: NewMeter
) -> Meter:
    """Count one thing more for a product.

    Raises 422 on `key` when it has a meter of that key, on `property` where a `unique` meter has
    none or another has one, on `source_path` for one that can't be read, or that no call can feed.
    """
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    await queries.check_room(session, Meter, product, "meters")
    if (given.aggregation == "unique") != (given.property is not None):
        code = "missing" if given.property is None else "not_allowed"
        text = "The property whose values a unique meter tells apart; other meters have none."
        raise field_error("property", code, text)
    await _check_path(session, product, given, given.key, given.aggregation)
    meter = Meter(
        organization_id=product.organization_id, product_id=product.id, **given.model_dump()
    )
    taken = field_error("key", "taken", "The product has a meter of this key.")
    async with refused_by(session, {"uq_meters_key": taken}):
        session.add(meter)
    after = {"product": product.slug, **given.model_dump()}
    announce(session, actor, _event(MeterCreated, meter, after=after))
    return meter


async def change_meter(
    session: AsyncSession, actor: Actor, product_id: UUID, key: str, given: ChangedMeter
) -> Meter:
    """Say anew what a meter counts from now on; what was counted stays. 404, 409 for a stale
    version, 422 as for `create_meter`.
    """
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    meter = queries.one(await session.scalar(queries.meters_of(product.id).where(Meter.key == key)))
    if meter.version != given.version:
        raise Refusal("stale_version", "Read it again, then change it.")
    await _check_path(session, product, given, meter.key, meter.aggregation)
    before = {name: getattr(meter, name) for name in COLUMNS}
    for name in COLUMNS:
        setattr(meter, name, getattr(given, name))
    meter.version += 1
    after = {name: getattr(meter, name) for name in COLUMNS}
    announce(session, actor, _event(MeterChanged, meter, before=before, after=after))
    return meter


async def _check_path(
    session: AsyncSession, product: Product, given: MeterFields, key: str, aggregation: str
) -> None:
    if given.source_path is None:
        return
    if key == CALLS or aggregation == "unique":
        text = "Calls count themselves, and an answer has no properties."
        raise field_error("source_path", "not_allowed", text)
    try:
        read_path(given.source_path)
    except ValueError as error:
        raise field_error("source_path", "invalid", f"Expected is {error}.") from None
    others = (
        select(func.count())
        .select_from(Meter)
        .where(Meter.product_id == product.id, Meter.key != key, Meter.source_path.is_not(None))
    )
    if (await session.scalar(others) or 0) >= MAX_PATHS:
        text = f"At most {MAX_PATHS} meters of a product are read from answers."
        raise field_error("source_path", "too_many", text)


def _event(kind: Any, row: Meter, **values: Any) -> Any:
    return kind(organization_id=row.organization_id, entity_id=row.id, **values)
