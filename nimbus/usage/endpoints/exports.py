# SPDX-License-Identifier: Apache-2.0
"""Exports of the log: asked for, watched, fetched."""

from uuid import UUID

from starlette.responses import FileResponse

from nimbus.base import clock, web
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Cursor, Limit, Page, Router, Session, mutates
from nimbus.errors import Refusal
from nimbus.identity import Permission
from nimbus.usage import schemas
from nimbus.usage.endpoints.asked import LogReader, product_id_of, span
from nimbus.usage.endpoints.logs import log_filter
from nimbus.usage.events import UsageExportStarted
from nimbus.usage.models import Export
from nimbus.usage.service import exports

router = Router(tags=["usage"])
EXPORTS_AN_HOUR = 30
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}
PATH = "/api/developer/usage/export"


@router.post(
    PATH,
    operation_id="start_usage_export",
    status_code=202,
    responses=documented(401, 403, 404, 409, 415, 422, 429),
    **mutates(permission=Permission.READ_LOGS, events=[UsageExportStarted], idempotency="key"),
)
async def start_export(
    body: schemas.ExportBody, actor: LogReader, session: Session
) -> schemas.ExportShape:
    """Write the calls of a range into a file; watch it with GET, then fetch its `file`."""
    await throttle(f"exports/{actor.organization_id}", EXPORTS_AN_HOUR, 3600)
    period = span(body.since, body.until)
    asked = log_filter(
        actor.organization_id,
        starts_at=period.starts_at,
        ends_at=period.ends_at,
        environment=body.environment,
        product_id=await product_id_of(session, body.product),
        key_id=body.key_id,
        route_id=body.route_id,
        method=body.method,
        status=body.status,
        request_id=body.request_id,
        billable=body.billable,
        refused=body.refused,
    )
    return _shape(await exports.start(session, actor, body.format, asked, clock.now()))


@router.get(PATH, operation_id="list_usage_exports", responses=documented(401, 403, 422))
async def list_exports(
    actor: LogReader, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.ExportShape]:
    """The files that were asked for, the newest first."""
    statement = exports.of_organization(actor.organization_id)
    rows, following = await web.paginate(session, statement, Export.id, limit, cursor)
    return Page(data=[_shape(row) for row in rows], next_cursor=following)


@router.get(
    f"{PATH}/{{export_id}}",
    operation_id="read_usage_export",
    responses=documented(401, 403, 404, 422),
)
async def read_export(export_id: UUID, actor: LogReader, session: Session) -> schemas.ExportShape:
    """How far a file is."""
    return _shape(await exports.own(session, actor.organization_id, export_id))


@router.get(
    f"{PATH}/{{export_id}}/file",
    operation_id="fetch_usage_export",
    response_class=FileResponse,
    responses={
        200: {
            "content": {media_type: {} for media_type in MEDIA_TYPES.values()},
            "description": "The file",
        },
        **documented(401, 403, 404, 422, 503),
    },
)
async def fetch_export(export_id: UUID, actor: LogReader, session: Session) -> FileResponse:
    """The file; 503 for the moment until it is whole, 404 once its time is over."""
    export = await exports.own(session, actor.organization_id, export_id)
    if export.status in {"Waiting", "Running"}:
        raise Refusal("unavailable", "The file is being written.", headers={"Retry-After": "1"})
    path = exports.path_of(export)
    if export.status != "Ready" or not path.is_file():
        raise Refusal("not_found", "There is no such file any more.")
    days = f"{export.starts_at:%Y-%m-%d}-{export.ends_at:%Y-%m-%d}"
    return FileResponse(
        path,
        media_type=MEDIA_TYPES[export.format],
        filename=f"calls-{days}{path.suffix}",
        headers={"Cache-Control": "private, no-store"},
    )


def _shape(export: Export) -> schemas.ExportShape:
    share = export.rows_done / export.rows_total if export.rows_total else 0.0
    return schemas.ExportShape(
        id=export.id,
        format=export.format,
        period=schemas.PeriodShape(
            starts_at=clock.to_wire(export.starts_at), ends_at=clock.to_wire(export.ends_at)
        ),
        filters=export.filters,
        status=export.status,
        progress=1.0 if export.status == "Ready" else round(min(share, 0.99), 2),
        rows=export.rows_done,
        bytes=export.bytes,
        reason=export.reason,
        created_at=clock.to_wire(export.created_at),
        expires_at=clock.to_wire(export.expires_at),
    )
