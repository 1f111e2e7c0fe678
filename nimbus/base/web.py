# SPDX-License-Identifier: Apache-2.0
"""How HTTP meets a use case: one transaction a request, problems, idempotency, lists.

A route of `Router` runs in a `Unit`: the actor is resolved, a transaction opened for it when the
endpoint asks for `Session`, and committed before the answer leaves. A mutating route declares
with `mutates()` its permission, the facts it announces and its idempotency rule; the declaration
is in the API document, and is held against what really happened, in every request.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from hmac import compare_digest
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints
from sqlalchemy import Select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import db, events
from nimbus.base.actors import Actor
from nimbus.base.ids import NIL
from nimbus.errors import Refusal, field_error

SHOWN_ONCE = frozenset({"secret", "access_token"})
MAX_BODY_BYTES = 1024 * 1024
MAPPED = IPv6Network("::ffff:0:0/96")

Resolver = Callable[[Request], Awaitable[tuple[Actor, AsyncSession | None]]]


class Replay(Exception):  # noqa: N818 - control flow: the stored answer is the answer
    """This request was answered before; `response` is that answer."""

    def __init__(self, response: Response) -> None:
        super().__init__("replay")
        self.response = response


class Unit:
    """One request's actor and transaction; kept on `request.state.unit`."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._session: AsyncSession | None = None
        self.actor: Actor | None = None
        self.idempotency: dict[str, Any] | None = None

    @property
    def opened(self) -> AsyncSession | None:
        """The session if the endpoint asked for one."""
        return self._session

    async def open(self, organization_id: UUID = NIL, user_id: UUID = NIL) -> AsyncSession:
        """The request's transaction, opened the first time for this organization and user."""
        if self._session is None:
            self._session = await self._stack.enter_async_context(
                db.transaction(organization_id, user_id)
            )
        return self._session

    async def close(self) -> None:
        """End the transaction that only found out who is asking."""
        if self._session is not None:
            await self._session.rollback()
            await self._session.close()
            self._session = None

    async def open_system(self, reason: str) -> AsyncSession:
        """The request's transaction over all organizations: platform pages only."""
        assert self._session is None, "one transaction a request"
        self._session = await self._stack.enter_async_context(db.system_session(reason))
        if self.idempotency is not None:
            await _claim(self._session, self.idempotency)  # the one that had it has ended
        return self._session


def unit_of(request: Request) -> Unit:
    """The unit of work of this request."""
    unit: Unit = request.state.unit
    return unit


async def _actor(request: Request) -> Actor:
    unit = unit_of(request)
    if unit.actor is None:
        unit.actor = await request.app.state.resolve_actor(request)
    return unit.actor


async def _session(request: Request, actor: Annotated[Actor, Depends(_actor)]) -> AsyncSession:
    return await unit_of(request).open(actor.organization_id, actor.user_id)


CurrentActor = Annotated[Actor, Depends(_actor)]
Session = Annotated[AsyncSession, Depends(_session)]


class TransactionRoute(APIRoute):
    """A route whose request is one transaction, committed before the answer leaves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler in a `Unit`."""
        answer = super().get_route_handler()
        declared = (self.openapi_extra or {}).get("x-nimbus")

        async def handler(request: Request) -> Response:
            await _check_body(request)
            async with AsyncExitStack() as stack:
                unit = request.state.unit = Unit(stack)
                try:
                    response = await answer(request)
                except Replay as replay:
                    return replay.response
                if unit.opened is not None:
                    _hold_to_declaration(unit.opened, declared)
                    await _remember(unit, response)
            return response

        return handler


class Router(APIRouter):
    """The router of a room: transactional routes, explicit operation ids."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=TransactionRoute, **options)


def mutates(
    *,
    permission: str,
    events: Sequence[type[events.Event]],
    idempotency: Literal["key", "natural", "version", "token"],
) -> dict[str, Any]:
    """Arguments of a mutating route: what it needs, announces, and why twice is harmless.

    `permission` names a permission, or `public`, `signed_in`, `platform_admin`. `idempotency`:
    `key` (the `Idempotency-Key` header is honoured), `natural` (the same request again leaves
    the same state), `version` (a stale one gets 409), `token` (a single-use token).
    """
    names = sorted(event.name for event in events)
    options: dict[str, Any] = {
        "openapi_extra": {
            "x-nimbus": {"permission": permission, "events": names, "idempotency": idempotency}
        }
    }
    if idempotency == "key":
        options["dependencies"] = [Depends(_idempotent)]
    return options


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key again is answered with the first answer (for 24 hours).",
    ),
]


async def _idempotent(
    request: Request,
    actor: CurrentActor,
    session: Session,
    key: IdempotencyKey = None,
) -> None:
    if key is None:
        return
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise field_error("Idempotency-Key", "invalid", "1 to 255 printable characters")
    operation = f"{request.method} {request.url.path}"
    identity = {
        "organization_id": actor.organization_id,
        "actor_id": actor.key_id or actor.user_id,
        "operation": operation,
        "key": key,
    }
    digest = hashlib.sha256(await request.body()).digest()
    claim = {**identity, "request_hash": digest}
    await _claim(session, claim)
    unit_of(request).idempotency = claim


async def _claim(session: AsyncSession, claim: dict[str, Any]) -> None:
    """Hold an idempotency key until the transaction ends.

    Raises `Replay` for a request that was answered, 409 for one that is still running, 422 for
    another request with this key.
    """
    identity = {name: value for name, value in claim.items() if name != "request_hash"}
    lock = hashlib.sha256("|".join(map(str, identity.values())).encode()).digest()[:8]
    taken = await session.scalar(
        text("SELECT pg_try_advisory_xact_lock(:lock)"),
        {"lock": int.from_bytes(lock, "big", signed=True)},
    )
    if not taken:
        raise Refusal("idempotency_in_flight", "The first request with this key is still running.")
    row = (
        await session.execute(
            text(
                "SELECT request_hash, status, response FROM idempotency_keys WHERE"
                " organization_id = :organization_id AND actor_id = :actor_id"
                " AND operation = :operation AND key = :key"
            ),
            identity,
        )
    ).one_or_none()
    if row is None:
        return
    if not compare_digest(row.request_hash, claim["request_hash"]):
        raise Refusal("idempotency_conflict", "This key was used with a different request.")
    headers = {"Idempotency-Replayed": "true"}
    raise Replay(JSONResponse(row.response, status_code=row.status, headers=headers))


async def _remember(unit: Unit, response: Response) -> None:
    if unit.idempotency is None or unit.opened is None or response.status_code >= 300:
        return
    body = json.loads(bytes(response.body)) if response.body else None
    # The use case may act for another organization by now: the key belongs to who was asking.
    acting_for = unit.opened.info["organization_id"]
    await db.act_for(unit.opened, unit.idempotency["organization_id"])
    await unit.opened.execute(
        text(
            "INSERT INTO idempotency_keys (organization_id, actor_id, operation, key,"
            " request_hash, status, response) VALUES (:organization_id, :actor_id, :operation,"
            " :key, :request_hash, :status, CAST(:response AS jsonb))"
        ),
        {
            **unit.idempotency,
            "status": response.status_code,
            "response": json.dumps(_without_secrets(body)),
        },
    )
    await db.act_for(unit.opened, acting_for)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_secrets(v) for k, v in value.items() if k not in SHOWN_ONCE}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def _hold_to_declaration(session: AsyncSession, declared: dict[str, Any] | None) -> None:
    allowed = set(declared["events"]) if declared else set()
    undeclared = {event.name for event in events.announced(session)} - allowed
    if undeclared:
        raise RuntimeError(f"a route announced what it does not declare: {sorted(undeclared)}")


async def _check_body(request: Request) -> None:
    if request.method not in {"POST", "PUT", "PATCH"}:
        return
    body = await request.body()
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if body and not (kind == "application/json" or kind.endswith("+json")):
        raise Refusal("unsupported_media_type", "Send application/json.")


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A list's page: `next_cursor` is null at the end."""

    data: list[T]
    next_cursor: str | None = None


def _network(text: object) -> IPv4Network | IPv6Network:
    network = ip_network(text if isinstance(text, str) else "")
    # The gateway judges an IPv4 address mapped into IPv6 as the IPv4 one that it is.
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        raise ValueError("say the IPv4 network")
    return network


Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network, json_schema_input_type=str)]
"""A network as callers write it, CIDR, without host bits."""


class Money(BaseModel):
    """An amount in the currency's minor unit: 14097 EUR is 140.97 euro."""

    amount_minor: int
    currency: str


class Amount(BaseModel):
    """An amount that comes in, in the currency's minor unit; nothing is one too."""

    model_config = ConfigDict(extra="forbid")

    amount_minor: Annotated[int, Field(ge=0, le=10**12, strict=True)]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200)]


async def paginate(
    session: AsyncSession, statement: Select[Any], id_column: Any, limit: int, cursor: str | None
) -> tuple[list[Any], str | None]:
    """Rows of `statement` newest first (ids are UUIDv7), and the cursor of the next page.

    Raises a 422 naming `cursor` for one that is not ours.
    """
    if cursor is not None:
        statement = statement.where(id_column < _decode_cursor(cursor))
    rows = (await session.scalars(statement.order_by(id_column.desc()).limit(limit + 1))).all()
    page = list(rows[:limit])
    more = len(rows) > limit
    return page, _encode_cursor(page[-1].id) if more else None


def _encode_cursor(row_id: UUID) -> str:
    return base64.urlsafe_b64encode(row_id.bytes).decode().rstrip("=")


def _decode_cursor(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except (ValueError, binascii.Error):
        raise field_error("cursor", "invalid", "not a cursor of this list") from None
