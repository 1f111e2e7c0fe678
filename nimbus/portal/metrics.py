# SPDX-License-Identifier: Apache-2.0
"""`GET /metrics`: what Prometheus reads, for the operator alone; and the counting of requests.

The page stands on the address that everybody reaches, so it asks for the token that lies in the
data folder (`secrets/metrics_token`), which Prometheus sends as a bearer token.
"""

from hmac import compare_digest
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import InterfaceError, OperationalError

from nimbus.base import clock, db, metrics, secrets, tracing
from nimbus.errors import Refusal

NO_ROUTE = "(none)"


async def read_metrics(request: Request) -> Response:
    """Everything that is measured, in Prometheus' text format. 401 without the token; 404 where
    the operator has not made one (production makes no secret by itself).
    """
    _refuse_strangers(request)
    try:
        async with db.system_session("metrics") as session:
            content = await metrics.page(session)
    except (OperationalError, InterfaceError, OSError):
        content = await metrics.page(None)
    return Response(content, headers={"Cache-Control": "no-store"}, media_type=metrics.CONTENT_TYPE)


# Not an operation of the API: no organization's credential opens it.
router = APIRouter()
router.add_route("/metrics", read_metrics, methods=["GET"], include_in_schema=False)


def _refuse_strangers(request: Request) -> None:
    try:
        token = secrets.secret(request.app.state.settings, "metrics_token")
    except secrets.SecretMissingError:
        raise Refusal("not_found") from None
    given = request.headers.get("authorization", "").encode()
    if not compare_digest(given, b"Bearer " + token):
        raise Refusal("unauthenticated")


class Counted:
    """Count, time and, if it is wanted, trace each request by its route's template."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Go on; count once the answer has begun."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = clock.monotonic(), 500

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        try:
            with tracing.span(scope["method"], asked) as attributes:
                try:
                    await self.app(scope, receive, noted)
                finally:
                    route = getattr(scope.get("route"), "path", NO_ROUTE)
                    if tracing.is_on():
                        attributes["name"] = f"{scope['method']} {route}"
                        attributes["http.response.status_code"] = status
        finally:
            metrics.api_requests.labels(scope["method"], route, str(status)).inc()
            seconds = clock.monotonic() - started
            metrics.api_seconds.labels(scope["method"], route).observe(seconds)
