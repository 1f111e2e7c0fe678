# SPDX-License-Identifier: Apache-2.0
"""The log: calls found by what is known of them, and one call with what it cost."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, Session
from nimbus.errors import Refusal, field_error
from nimbus.usage import queries_log, schemas
from nimbus.usage.endpoints.asked import LogReader, ProductSlug, instant, product_id_of
from nimbus.usage.endpoints.shown import milliseconds, plain
from nimbus.usage.queries_log import LogFilter, LoggedCall, Place
from nimbus.usage.service.prices import CallPrice, Contracts

router = Router(tags=["usage"])
From = Annotated[datetime | None, Query(alias="from", description="This instant and later.")]
To = Annotated[datetime | None, Query(alias="to", description="Before this instant.")]


@router.get(
    "/api/developer/usage/logs",
    operation_id="list_usage_logs",
    responses=documented(401, 403, 404, 422),
)
async def list_logs(
    actor: LogReader,
    session: Session,
    *,
    since: From = None,
    until: To = None,
    environment: Annotated[str | None, Query(pattern="^(Live|Test)$")] = None,
    product: ProductSlug = None,
    key_id: schemas.IdText | None = None,
    route_id: schemas.IdText | None = None,
    method: Annotated[str | None, Query(pattern=r"^[A-Z]{1,16}$")] = None,
    status: Annotated[
        str | None, Query(pattern=schemas.STATUS, description="One status (404) or a class (4xx).")
    ] = None,
    request_id: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    billable: Annotated[bool | None, Query(description="Counts into the bill.")] = None,
    refused: Annotated[bool | None, Query(description="Never reached an upstream.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.LoggedCallShape]:
    """Every call of my organization, served or refused, newest first.

    A search looks at a bounded number of calls: a page can be short, or empty, while `next_cursor`
    says that there is more to look at.
    """
    asked = log_filter(
        actor.organization_id,
        starts_at=None if since is None else instant(since, "from"),
        ends_at=None if until is None else instant(until, "to"),
        environment=environment,
        product_id=await product_id_of(session, product),
        key_id=key_id,
        route_id=route_id,
        method=method,
        status=status,
        request_id=request_id,
        billable=billable,
        refused=refused,
    )
    before = None if cursor is None else _decode_cursor(cursor)
    found, following = await queries_log.logged_calls(session, asked, limit, before)
    routes = await catalog.route_facts(session, {one.route_id for one in found if one.route_id})
    paths = {route.id: route.path for route in routes.values()}
    return Page(
        data=[
            schemas.LoggedCallShape(
                **_logged(one, paths.get(one.route_id) if one.route_id else None)
            )
            for one in found
        ],
        next_cursor=None if following is None else _encode_cursor(following),
    )


@router.get(
    "/api/developer/usage/logs/{event_id}",
    operation_id="read_usage_log",
    responses=documented(401, 403, 404, 422),
)
async def read_log(
    event_id: UUID,
    actor: LogReader,
    session: Session,
    at: Annotated[
        datetime | None, Query(description="The call's `at`: finds it at once in a long log.")
    ] = None,
) -> schemas.CallShape:
    """One call: what it used, what it cost, and why it was billed or not."""
    moment = None if at is None else instant(at, "at")
    call = await queries_log.logged_call(session, actor.organization_id, event_id, moment)
    if call is None:
        raise Refusal("not_found")
    price = await Contracts(session).price(call)
    routes = await catalog.route_facts(session, {call.route_id} if call.route_id else set())
    path = routes[call.route_id].path if call.route_id in routes else None
    return schemas.CallShape(**_logged(call, path), price=_price(price))


def log_filter(
    organization_id: UUID,
    *,
    status: str | None,
    key_id: str | None,
    route_id: str | None,
    **rest: Any,
) -> LogFilter:
    """The filters of a search as the log takes them: `status` is 404 or 4xx."""
    exact = None if status is None or status.endswith("xx") else int(status)
    return LogFilter(
        organization_id=organization_id,
        status=exact,
        status_class=None if status is None or exact is not None else int(status[0]),
        key_id=None if key_id is None else UUID(key_id),
        route_id=None if route_id is None else UUID(route_id),
        **rest,
    )


def _logged(call: LoggedCall, path: str | None) -> dict[str, Any]:
    return {
        "id": call.event_id,
        "at": clock.to_wire(call.occurred_at),
        "subscription_id": call.subscription_id,
        "product_id": call.product_id,
        "key_id": call.key_id,
        "route_id": call.route_id,
        "environment": call.environment,
        "method": call.method,
        "path": path,
        "status": call.status,
        "code": call.code,
        "billable": call.billable,
        "continued": call.continued,
        "units": call.units,
        "meters": call.meters,
        "source": call.source,
        "duration_ms": milliseconds(call.duration_us),
        "upstream_ms": None if call.upstream_us is None else milliseconds(call.upstream_us),
        "bytes_in": call.bytes_in,
        "bytes_out": call.bytes_out,
        "ip": str(call.ip),
        "request_id": call.request_id,
    }


def _price(price: CallPrice) -> schemas.CallPriceShape:
    return schemas.CallPriceShape(
        reason=price.reason,
        currency=price.currency,
        amount=plain(price.amount),
        meters=[
            schemas.MeterPriceShape(
                meter=one.meter_key,
                quantity=plain(one.quantity),
                unit_price=None if one.unit_price is None else plain(one.unit_price),
                amount=plain(one.amount),
            )
            for one in price.meters
        ],
    )


def _encode_cursor(place: Place) -> str:
    text = f"{clock.to_wire(place[0])} {place[1]}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> Place:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, _, event_id = base64.urlsafe_b64decode(padded).decode("ascii").partition(" ")
        return clock.from_wire(at), UUID(event_id)
    except (ValueError, binascii.Error):
        raise field_error("cursor", "invalid", "not a cursor of this list") from None
