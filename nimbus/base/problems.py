# SPDX-License-Identifier: Apache-2.0
"""Every error leaves as an RFC 9457 problem document, with the members of spec 11 §6."""

from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nimbus.base.ids import new_id
from nimbus.base.log import get_logger
from nimbus.base.web import MAX_BODY_BYTES
from nimbus.errors import FieldError, Refusal, problem_type

log = get_logger("web")

HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}
LOCATIONS = ("body", "query", "path", "header", "cookie")


class ProblemField(BaseModel):
    """One thing wrong with one field."""

    field: str
    code: str
    message: str


class Problem(BaseModel):
    """The shape of every error answer (application/problem+json)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    code: str
    request_id: str
    errors: list[ProblemField]


def problem(request: Request, refusal: Refusal) -> Response:
    """The answer for a refusal."""
    entry = refusal.entry
    content = Problem(
        type=problem_type(refusal.code),
        title=entry.title,
        status=entry.status,
        detail=refusal.detail or entry.error,
        instance=request.url.path,
        error=entry.error,
        code=refusal.code,
        request_id=request_id(request),
        errors=[
            ProblemField(field=f.field, code=f.code, message=f.message) for f in refusal.fields
        ],
    )
    return JSONResponse(
        content.model_dump(),
        status_code=entry.status,
        headers={**refusal.headers, "Cache-Control": "no-store"},
        media_type="application/problem+json",
    )


def request_id(request: Request) -> str:
    """The id that the gateway gave this request, or a new one."""
    known = getattr(request.state, "request_id", None)
    if known is None:
        known = request.headers.get("x-request-id") or str(new_id())
        request.state.request_id = known
    return str(known)


def install(app: FastAPI) -> None:
    """Render refusals, validation errors, unknown paths and our own faults as problems."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return problem(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(request, refusal_of(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = HTTP_CODES.get(error.status_code, "malformed_request")
        return problem(request, Refusal(code, headers=dict(error.headers or {})))

    async def unstorable(request: Request, error: Exception) -> Response:
        # The driver's own refusal, which has no SQLSTATE: PostgreSQL keeps no text with a NUL.
        # Everything else that the database can't make sense of is our fault.
        assert isinstance(error, DataError)
        if isinstance(error.orig, psycopg.DataError) and "NUL" in str(error.orig):
            text = "Text can't hold the character NUL."
            return problem(request, Refusal("validation_failed", text))
        return await fault(request, error)

    async def fault(request: Request, error: Exception) -> Response:
        log.error("fault", path=request.url.path, request_id=request_id(request), exc_info=error)
        return problem(request, Refusal("internal", "Something went wrong on our side."))

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(DataError, unstorable)
    app.add_exception_handler(Exception, fault)
    app.add_middleware(BodyLimit)
    _describe(app)


def refusal_of(error: RequestValidationError) -> Refusal:
    """Malformed JSON is a 400; all else a 422 that names the fields, without their values."""
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return Refusal("malformed_request", "The body is not JSON.")
    fields = tuple(
        FieldError(_path(item["loc"]), str(item["type"]), _message(item)) for item in found[:50]
    )
    return Refusal("validation_failed", fields[0].message if fields else "", fields=fields)


def _path(location: tuple[Any, ...]) -> str:
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] in LOCATIONS:
        parts = parts[1:]
    return ".".join(parts)


def _message(item: dict[str, Any]) -> str:
    message = str(item["msg"])
    return message.removeprefix("Value error, ")


class BodyLimit:
    """Refuse bodies over the limit before they are in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes in; a declared or a real excess is 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        too_large = not length.isdigit() or int(length) > MAX_BODY_BYTES
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                raise Refusal("payload_too_large", "The body is over 1 MiB.")
            return message

        if too_large:
            request = Request(scope)
            await problem(request, Refusal("payload_too_large", "The body is over 1 MiB."))(
                scope, receive, send
            )
            return
        await self.app(scope, counted, send)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: the problem statuses that it can answer."""
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": reference},
        }
        for status in statuses
    }


def _describe(app: FastAPI) -> None:
    """Name the problem's shape in the API document, also for the 422 that FastAPI adds itself."""
    document_of_routes = app.openapi
    shape = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    ours = {**shape.pop("$defs"), "Problem": shape}

    def openapi() -> dict[str, Any]:
        document = document_of_routes()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" in schemas:
            return document
        schemas.update(ours)
        schemas.pop("ValidationError", None)
        if schemas.pop("HTTPValidationError", None):
            for operation in (o for path in document["paths"].values() for o in path.values()):
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    operation["responses"]["422"] = documented(422)[422]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
