# SPDX-License-Identifier: Apache-2.0
"""The management API and the portal's pages as one ASGI application, behind the gateway."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from nimbus import rooms  # noqa: F401 - its reactions are in force in this process
from nimbus.access import endpoints as access
from nimbus.access import resolve_key
from nimbus.base import db, log, problems
from nimbus.base.actors import Actor
from nimbus.base.config import Settings
from nimbus.base.problems import documented
from nimbus.billing import endpoints as billing
from nimbus.catalog import endpoints as catalog
from nimbus.errors import Refusal
from nimbus.identity import endpoints as identity
from nimbus.identity import resolve_actor
from nimbus.notices import endpoints as notices
from nimbus.payments import endpoints as payments
from nimbus.payments import endpoints_changes as payments_changes
from nimbus.portal import analytics, clock, consumer, metrics, provider
from nimbus.portal.metrics import Counted
from nimbus.portal.pages import pages
from nimbus.subscriptions import endpoints as subscriptions
from nimbus.usage import endpoints as usage

ROUTERS: Sequence[APIRouter] = (
    identity.router,
    *catalog.routers,
    *subscriptions.routers,
    access.router,
    *usage.routers,
    *billing.routers,
    payments.router,
    payments_changes.router,
    notices.router,
    consumer.router,
    analytics.router,
    provider.router,
    clock.router,
    metrics.router,
    pages,
)

# The sources' other names answer by the same handlers; the reference lists only ours.
ALIASES = {
    "/api/devportal/": "/api/developer/",
    "/api/user/api-keys": "/api/developer/api-keys",
    "/api/user/usage": "/api/developer/usage",
    "/api/user/subscription": "/api/billing/subscription",
    "/api/user/billing/": "/api/billing/",
    "/devportal/": "/api/developer/",
    "/billing/": "/api/billing/",
}

operations = APIRouter(tags=["operations"])


def create_app(settings: Settings) -> FastAPI:
    """The application; its lifespan opens and closes the database."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        log.configure(settings.log_level, "api")
        await db.open_database(settings)
        try:
            yield
        finally:
            await db.close_database()

    app = FastAPI(
        title="Nimbus",
        version="1",
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the scheme and host as the socket sees them
        separate_input_output_schemas=False,
    )
    app.state.settings = settings
    app.state.resolve_actor = resolve_actor
    app.state.resolve_key = _resolve_key
    problems.install(app)
    for router in (operations, *ROUTERS):
        app.include_router(router)
    app.add_middleware(Counted)
    app.add_middleware(AliasedPaths)
    app.add_middleware(HeadAsGet)
    return app


@operations.get("/healthz", operation_id="healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@operations.get("/readyz", operation_id="readyz", responses=documented(503))
async def readyz() -> dict[str, str]:
    """The process can serve: its database answers."""
    try:
        async with db.transaction() as session:
            await session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError):
        raise Refusal("unavailable", "The database does not answer.") from None
    return {"status": "ok"}


async def _resolve_key(secret: str, visitor: Actor) -> Actor:
    """Who a key is, before its organization is known; identity stands below access."""
    async with db.transaction() as session:
        return await resolve_key(session, secret, visitor)


class AliasedPaths:
    """Serve the sources' other paths by their canonical handlers."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Rewrite an aliased prefix, then go on."""
        if scope["type"] == "http":
            path = scope["path"]
            for alias, canonical in ALIASES.items():
                if path == alias or (path.startswith(alias) and _continues(alias, path)):
                    path = canonical + path[len(alias) :]
                    scope = {**scope, "path": path, "raw_path": path.encode()}
                    break
        await self.app(scope, receive, send)


class HeadAsGet:
    """Answer HEAD like GET, without the body (RFC 9110 §9.1: every resource has both)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Ask for a GET; keep the head of its answer."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def headed(message: Any) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, headed)


def _continues(alias: str, path: str) -> bool:
    return alias.endswith("/") or path[len(alias)] == "/"
