# SPDX-License-Identifier: Apache-2.0
"""The endpoints. The gateway in front has checked the key, the plan and the limits already; it
names the paying organization in `X-Nimbus-Organization`, and that alone decides whose rows a call
sees. What should be billed is reported in the answer's `X-Nimbus-Usage`, which the gateway reads
and takes off: `assets` is a gauge (how many there are now), `reports` a count.
"""

import asyncio
from collections import defaultdict
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from pydantic import AwareDatetime
from starlette.exceptions import HTTPException as AnyHTTPException

from examples.wind_api import report, schemas
from examples.wind_api.limit import BodyLimit
from examples.wind_api.store import Account, Full

BODY_MAX_BYTES = 256 * 1024

router = APIRouter()
Limit = Annotated[int, Query(ge=1, le=200)]
Offset = Annotated[int, Query(ge=0, le=10_000)]


gateway_header = APIKeyHeader(
    name="X-Nimbus-Organization", description="Set by the gateway", auto_error=False
)


async def _account(
    request: Request, organization_id: Annotated[str | None, Depends(gateway_header)]
) -> Account:
    """The caller's rows; 401 when the call did not come through the gateway."""
    try:
        organization = UUID(organization_id or "")
    except ValueError:
        raise HTTPException(401, "X-Nimbus-Organization is missing or not an id.") from None
    accounts: defaultdict[UUID, Account] = request.app.state.accounts
    return accounts[organization]


Caller = Annotated[Account, Depends(_account)]


def _report_assets(response: Response, account: Account) -> None:
    response.headers["X-Nimbus-Usage"] = f"assets={len(account.turbines)}"


@router.get("/farms", operation_id="list_farms")
async def list_farms(account: Caller, limit: Limit = 50, offset: Offset = 0) -> schemas.Farms:
    return schemas.Farms(data=list(account.farms.values())[offset : offset + limit])


@router.post("/farms", status_code=201, operation_id="add_farm")
async def add_farm(account: Caller, given: schemas.FarmInput) -> schemas.Farm:
    return account.add_farm(given)


@router.get("/farms/{farm_id}", operation_id="get_farm")
async def get_farm(account: Caller, farm_id: UUID) -> schemas.Farm:
    return account.farms[farm_id]


@router.get("/turbines", operation_id="list_turbines")
async def list_turbines(
    account: Caller, farm_id: UUID | None = None, limit: Limit = 50, offset: Offset = 0
) -> schemas.Turbines:
    rows = [t for t in account.turbines.values() if farm_id in (None, t.farm_id)]
    return schemas.Turbines(data=rows[offset : offset + limit])


@router.post("/turbines", status_code=201, operation_id="add_turbine")
async def add_turbine(
    account: Caller, given: schemas.TurbineInput, response: Response
) -> schemas.Turbine:
    turbine = account.add_turbine(given)
    _report_assets(response, account)
    return turbine


@router.get("/turbines/{turbine_id}", operation_id="get_turbine")
async def get_turbine(account: Caller, turbine_id: UUID) -> schemas.Turbine:
    return account.turbines[turbine_id]


@router.delete("/turbines/{turbine_id}", status_code=204, operation_id="remove_turbine")
async def remove_turbine(account: Caller, turbine_id: UUID, response: Response) -> None:
    account.remove_turbine(turbine_id)
    _report_assets(response, account)


@router.get("/turbines/{turbine_id}/measurements", operation_id="list_measurements")
async def list_measurements(
    account: Caller,
    turbine_id: UUID,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Limit = 20,
) -> schemas.Measurements:
    """Newest first; `since` is included, `until` is not."""
    rows = account.measurements[turbine_id]
    if since or until:
        rows = [m for m in rows if _within(m.at, since, until)]
    return schemas.Measurements(data=rows[-limit:][::-1])


def _within(at: datetime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or at >= since) and (until is None or at < until)


@router.post(
    "/turbines/{turbine_id}/measurements", status_code=201, operation_id="add_measurements"
)
async def add_measurements(
    account: Caller, turbine_id: UUID, given: schemas.MeasurementBatch
) -> schemas.Stored:
    alerts = account.measure(turbine_id, given.measurements)
    return schemas.Stored(stored=len(given.measurements), alerts=alerts)


@router.get("/alerts", operation_id="list_alerts")
async def list_alerts(
    account: Caller, acknowledged: bool | None = None, limit: Limit = 50, offset: Offset = 0
) -> schemas.Alerts:
    """Newest first."""
    rows = [a for a in account.alerts.values() if acknowledged in (None, a.acknowledged)]
    return schemas.Alerts(data=rows[::-1][offset : offset + limit])


@router.post("/alerts/{alert_id}/acknowledge", operation_id="acknowledge_alert")
async def acknowledge_alert(account: Caller, alert_id: UUID) -> schemas.Alert:
    alert = account.alerts[alert_id]
    alert.acknowledged = True
    return alert


PDF_ANSWER = {"content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/reports", operation_id="list_reports")
async def list_reports(account: Caller, limit: Limit = 50, offset: Offset = 0) -> schemas.Reports:
    """Newest first."""
    rows = [made for made, _ in account.reports.values()]
    return schemas.Reports(data=rows[::-1][offset : offset + limit])


@router.post(
    "/reports",
    status_code=201,
    operation_id="make_report",
    response_class=Response,
    responses={201: PDF_ANSWER},
)
async def make_report(account: Caller, given: schemas.ReportInput) -> Response:
    farm = account.farms[given.farm_id]
    turbines = [t for t in account.turbines.values() if t.farm_id == farm.id]
    measured = [list(account.measurements[t.id]) for t in turbines]
    pdf = await asyncio.to_thread(report.render, given, farm, turbines, measured)
    made = account.add_report(given, pdf)
    headers = {"Location": f"/reports/{made.id}", "X-Nimbus-Usage": "reports=1"}
    return Response(pdf, status_code=201, media_type="application/pdf", headers=headers)


@router.get(
    "/reports/{report_id}",
    operation_id="get_report",
    response_class=Response,
    responses={200: PDF_ANSWER},
)
async def get_report(account: Caller, report_id: UUID) -> Response:
    return Response(account.reports[report_id][1], media_type="application/pdf")


def _problem(status: int, title: str, detail: str) -> JSONResponse:
    problem = schemas.Problem(title=title, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, media_type="application/problem+json")


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _problem(400, "Malformed JSON", "The body is not JSON.")
    where = ".".join(str(part) for part in first["loc"])
    return _problem(422, "Validation failed", f"{where}: {first['msg']}")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnyHTTPException)
    answer = _problem(error.status_code, "Refused", str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _unknown(_: Request, __: Exception) -> JSONResponse:
    return _problem(404, "Not found", "No such thing in this organization.")


async def _full(_: Request, error: Exception) -> JSONResponse:
    return _problem(409, "Full", str(error))


def create_app() -> BodyLimit:
    """A Wind API of its own, with empty storage."""
    app = FastAPI(
        title="Wind API", version="1.0.0", docs_url=None, redoc_url=None, routes=router.routes
    )
    app.state.accounts = defaultdict(Account)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(KeyError, _unknown)
    app.add_exception_handler(Full, _full)
    return BodyLimit(app, BODY_MAX_BYTES)
