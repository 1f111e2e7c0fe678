# SPDX-License-Identifier: Apache-2.0
"""Exports: logged calls written into a file, in chunks, by a job; kept for a week.

The file lies in the folder `exports` of the data folder, readable for us alone. It is written
beside its name and moved there when it is whole, so a job that is killed leaves nothing that looks
finished, and begins anew. Everything is read as the organization itself, under row-level security.
"""

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock, db
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.errors import Refusal
from nimbus.usage import queries_log
from nimbus.usage.events import UsageExportStarted
from nimbus.usage.models import Export
from nimbus.usage.queries_log import LogFilter, LoggedCall, Place
from nimbus.usage.service.files import Row, open_file
from nimbus.usage.service.prices import CallPrice, Contracts

KEPT = timedelta(days=7)
CHUNK = 5_000
ENDINGS = {"csv": "csv", "jsonl": "jsonl", "parquet": "parquet"}


async def start(
    session: AsyncSession, actor: Actor, format_name: str, asked: LogFilter, as_of: datetime
) -> Export:
    """Ask for a file of the calls that match; the job that writes it follows the event."""
    assert asked.starts_at is not None
    assert asked.ends_at is not None
    export = Export(
        organization_id=actor.organization_id,
        user_id=actor.user_id,
        format=format_name,
        filters=_filters(asked),
        starts_at=asked.starts_at,
        ends_at=asked.ends_at,
        expires_at=as_of + KEPT,
    )
    session.add(export)
    await session.flush()
    announce(
        session,
        actor,
        UsageExportStarted(
            organization_id=actor.organization_id,
            entity_id=export.id,
            after={
                "format": format_name,
                "from": export.starts_at,
                "to": export.ends_at,
                **export.filters,
            },
        ),
    )
    return export


def of_organization(organization_id: UUID) -> Select[Export]:
    """The exports that an organization asked for."""
    return select(Export).where(Export.organization_id == organization_id)


async def own(session: AsyncSession, organization_id: UUID, export_id: UUID) -> Export:
    """An export of the organization; 404 otherwise."""
    found = await session.scalar(of_organization(organization_id).where(Export.id == export_id))
    if found is None:
        raise Refusal("not_found")
    return found


def path_of(export: Export) -> Path:
    """Where the file lies once it is ready."""
    return db.current().settings.exports_dir / f"{export.id}.{ENDINGS[export.format]}"


async def write(export_id: UUID, organization_id: UUID) -> None:
    """Write the file of an export that is not there yet; again changes nothing.

    One transaction reads, without a snapshot that would last; the progress is told in others.
    """
    async with db.transaction(organization_id) as session:
        export = await own(session, organization_id, export_id)
        if export.status in {"Ready", "Expired"}:
            return
        asked = _asked(export)
        total = await queries_log.size(session, asked)
        await _tell(export, status="Running", rows_total=total, rows_done=0, reason=None)
        target = path_of(export)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        try:
            rows = await _write(session, export, asked, part)
            size = await asyncio.to_thread(_finish, part, target)
        except Exception as error:
            reason = "storage" if isinstance(error, OSError) else "internal"
            await _tell(export, status="Failed", reason=reason)
            raise
        await _tell(export, status="Ready", rows_done=rows, bytes=size)


async def expire(session: AsyncSession, export_id: UUID) -> None:
    """Delete the file of an export whose week is over. A system session; again changes nothing."""
    export = await session.get(Export, export_id, with_for_update=True)
    if export is None or export.status == "Expired":
        return
    for path in (path_of(export), path_of(export).with_suffix(".part")):
        await asyncio.to_thread(path.unlink, missing_ok=True)
    export.status, export.reason = "Expired", None


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next export expires."""
    return await session.scalar(
        select(func.min(Export.expires_at)).where(Export.status != "Expired")
    )


async def due(session: AsyncSession, as_of: datetime, limit: int) -> list[tuple[UUID, datetime]]:
    """The exports that expire by `as_of`, the earliest first."""
    rows = await session.execute(
        select(Export.id, Export.expires_at)
        .where(Export.status != "Expired", Export.expires_at <= as_of)
        .order_by(Export.expires_at, Export.id)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows]


async def _write(session: AsyncSession, export: Export, asked: LogFilter, part: Path) -> int:
    """Write all calls into `part`, chunk by chunk; answers how many."""
    contracts, names = Contracts(session), _Names(session)
    done = 0
    place: Place | None = None
    with closing(await asyncio.to_thread(open_file, export.format, part)) as file:
        while chunk := await queries_log.stream(session, asked, CHUNK, place):
            priced = [(call, await contracts.price(call), wanted) for call, wanted in chunk]
            await names.learn(call for call, _ in chunk)
            rows = [names.row(call, price) for call, price, wanted in priced if wanted]
            await asyncio.to_thread(file.write, rows)
            done += len(rows)
            await _tell(export, rows_done=done)
            last = chunk[-1][0]
            place = last.occurred_at, last.event_id
    return done


async def _tell(export: Export, **changes: Any) -> None:
    """Say in a transaction of its own how far it is."""
    async with db.transaction(export.organization_id) as session:
        row = await own(session, export.organization_id, export.id)
        for name, value in changes.items():
            setattr(row, name, value)


def _finish(part: Path, target: Path) -> int:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    return target.stat().st_size


class _Names:
    """What products and operations are called, each asked once."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._routes: dict[UUID, str | None] = {}
        self._products: dict[UUID, str | None] = {}

    async def learn(self, calls: Iterable[LoggedCall]) -> None:
        """Ask for what these calls name and nobody asked for yet."""
        routes: set[UUID] = set()
        products: set[UUID] = set()
        for call in calls:
            if call.route_id is not None and call.route_id not in self._routes:
                routes.add(call.route_id)
            if call.product_id is not None and call.product_id not in self._products:
                products.add(call.product_id)
        found = await catalog.route_facts(self._session, routes) if routes else {}
        for route_id in routes:
            self._routes[route_id] = found[route_id].path if route_id in found else None
        for product_id in products:
            self._products[product_id] = await self._slug(product_id)

    async def _slug(self, product_id: UUID) -> str | None:
        try:
            return (await catalog.product_facts(self._session, product_id)).slug
        except Refusal:
            return None

    def row(self, call: LoggedCall, price: CallPrice) -> Row:
        """A call as all files say it."""
        return {
            "id": str(call.event_id),
            "at": clock.to_wire(call.occurred_at),
            "environment": call.environment,
            "product": self._products.get(call.product_id) if call.product_id else None,
            "method": call.method,
            "path": self._routes.get(call.route_id) if call.route_id else None,
            "status": call.status,
            "refused_as": call.code,
            "billable": call.billable,
            "billed_because": price.reason,
            "units": call.units,
            "meters": json.dumps(call.meters, sort_keys=True) if call.meters else None,
            "amount": format(price.amount, "f"),
            "currency": price.currency,
            "duration_us": call.duration_us,
            "upstream_us": call.upstream_us,
            "bytes_in": call.bytes_in,
            "bytes_out": call.bytes_out,
            "key_id": _text(call.key_id),
            "subscription_id": _text(call.subscription_id),
            "request_id": call.request_id,
            "ip": str(call.ip),
            "source": call.source,
        }


_RANGE = {"organization_id", "starts_at", "ends_at"}
_IDS = {"product_id", "key_id", "route_id"}


def _filters(asked: LogFilter) -> dict[str, Any]:
    given = {name: value for name, value in asdict(asked).items() if name not in _RANGE}
    return {
        name: str(value) if name in _IDS else value
        for name, value in given.items()
        if value is not None
    }


def _asked(export: Export) -> LogFilter:
    given: Mapping[str, Any] = {
        name: UUID(value) if name in _IDS else value for name, value in export.filters.items()
    }
    return LogFilter(
        organization_id=export.organization_id,
        starts_at=export.starts_at,
        ends_at=export.ends_at,
        **given,
    )


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
