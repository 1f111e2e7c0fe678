# SPDX-License-Identifier: Apache-2.0
"""Who is asking: from the Authorization header to an `Actor`, and what a route asks of it.

Role and membership are read at each request, in the request's own transaction, so that a
removed member or a changed role counts from the next request on.
"""

from typing import Any

from fastapi import Depends, Request
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import db
from nimbus.base.actors import Actor
from nimbus.base.ids import NIL
from nimbus.base.problems import request_id
from nimbus.base.web import CurrentActor, unit_of
from nimbus.errors import Refusal
from nimbus.identity import tokens
from nimbus.identity.models import Membership, SignInSession, User
from nimbus.identity.permissions import Permission, has

KEY_PREFIX = "nimbus_"


async def resolve_actor(request: Request) -> Actor:
    """The actor of a request; raises 401 for credentials that are not valid, 400 for two."""
    credentials = request.headers.getlist("authorization") + request.headers.getlist("x-api-key")
    if len(credentials) > 1:
        raise Refusal("ambiguous_credentials", "Send one credential.")
    if not credentials:
        return _visitor(request)
    scheme, _, credential = credentials[0].partition(" ")
    if "x-api-key" in request.headers:
        credential = credentials[0]
    elif scheme.lower() != "bearer" or not credential:
        raise Refusal("unauthenticated", "Send Authorization: Bearer.")
    if credential.startswith(KEY_PREFIX):
        actor: Actor = await request.app.state.resolve_key(credential, _visitor(request))
        return actor
    return await _member(request, tokens.read_access_token(credential))


def allowed(permission: Permission, scope: str | None = None) -> Any:
    """A dependency that answers the actor, if its role has `permission` (a key: `scope`).

    Raises 401 for a visitor, 403 otherwise.
    """

    async def check(actor: CurrentActor) -> Actor:
        if actor.kind == "visitor":
            raise Refusal("unauthenticated", "Sign in first.")
        if actor.kind == "key":
            if scope is None or scope not in actor.scopes:
                raise Refusal("insufficient_scope", f"The key needs the scope {scope or 'none'}.")
        elif not has(actor.role, permission):
            raise Refusal("forbidden", f"Your role may not {permission.replace('_', ' ')}.")
        return actor

    return Depends(check)


def signed_in() -> Any:
    """A dependency that answers the actor if a person is signed in."""

    async def check(actor: CurrentActor) -> Actor:
        if actor.kind != "user":
            raise Refusal("unauthenticated", "Sign in first.")
        return actor

    return Depends(check)


def platform_admin() -> Any:
    """A dependency that answers the actor if it is a platform admin."""
    return _platform("admin")


def platform_reader() -> Any:
    """A dependency that answers the actor if it is a platform admin or support."""
    return _platform("admin", "support")


def _platform(*roles: str) -> Any:
    async def check(request: Request, actor: CurrentActor) -> Actor:
        if actor.kind != "user":
            raise Refusal("unauthenticated", "Sign in first.")
        if actor.platform_role not in roles:
            raise Refusal("forbidden", "For the operator's people only.")
        await unit_of(request).close()
        return actor

    return Depends(check)


def _visitor(request: Request) -> Actor:
    forwarded = request.headers.get("x-forwarded-for")
    return Actor(kind="visitor", ip=forwarded, request_id=request_id(request))


async def _member(request: Request, token: tokens.AccessToken) -> Actor:
    session = await unit_of(request).open(token.organization_id, token.user_id)
    row = await _standing(session, token)
    if row is None:
        raise Refusal("unauthenticated", "Sign in again.")
    user, role = row
    organization_id = token.organization_id if role else NIL
    if role is None:
        await db.act_for(session, NIL)
    visitor = _visitor(request)
    return Actor(
        kind="user",
        user_id=user.id,
        organization_id=organization_id,
        role=role,
        platform_role=user.platform_role,
        session_id=token.session_id,
        email_verified=user.email_verified_at is not None,
        ip=visitor.ip,
        request_id=visitor.request_id,
    )


async def _standing(
    session: AsyncSession, token: tokens.AccessToken
) -> tuple[User, str | None] | None:
    row = (
        await session.execute(
            select(User, Membership.role)
            .join(SignInSession, SignInSession.user_id == User.id)
            .outerjoin(
                Membership,
                (Membership.user_id == User.id)
                & (Membership.organization_id == token.organization_id),
            )
            .where(
                User.id == token.user_id,
                User.status == "active",
                SignInSession.id == token.session_id,
                SignInSession.revoked_at.is_(None),
            )
        )
    ).one_or_none()
    return None if row is None else (row[0], row[1])
