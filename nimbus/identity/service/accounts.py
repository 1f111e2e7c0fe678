# SPDX-License-Identifier: Apache-2.0
"""People: registration, verification, sign-in, refresh, passwords, profile."""

from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import NIL, new_id
from nimbus.errors import Refusal, field_error
from nimbus.identity import queries, tokens
from nimbus.identity.events import (
    EmailVerified,
    PasswordChanged,
    PasswordResetRequested,
    PlatformRoleGranted,
    ProfileChanged,
    RegistrationRepeated,
    SessionRefreshed,
    SessionsRevoked,
    SignedIn,
    SignedOut,
    UserRegistered,
    VerificationRequested,
)
from nimbus.identity.models import OneTimeLink, SignInSession, User

VERIFY_VALID = timedelta(hours=24)
RESET_VALID = timedelta(hours=1)
SESSION_VALID = timedelta(days=30)
# Two tabs that refresh at the same moment are one person, not a theft.
REFRESH_GRACE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class SignIn:
    """What a sign-in gives: the person, the session and its two tokens."""

    user: User
    organization_id: UUID
    access_token: str
    refresh_token: str


async def register(
    session: AsyncSession,
    actor: Actor,
    *,
    email: str,
    password: str,
    first_name: str,
    last_name: str,
    company: str,
    locale: str,
) -> None:
    """Make an account, or tell the address's owner that it has one; the answer is the same.

    Raises 422 naming `password` for a weak one.
    """
    tokens.check_password(password, email, first_name, last_name, company)
    password_hash = await tokens.hash_password(password)
    known = await queries.user_by_email(session, email)
    if known is not None:
        after = {"email": known.email, "first_name": known.first_name, "locale": known.locale}
        announce(
            session,
            actor,
            RegistrationRepeated(organization_id=NIL, entity_id=known.id, after=after),
        )
        return
    moment = clock.machine_now()
    user = User(
        id=new_id(),
        email=email,
        password_hash=password_hash,
        first_name=first_name,
        last_name=last_name,
        company=company,
        locale=locale,
        status="active",
        version=1,
        created_at=moment,
        updated_at=moment,
    )
    await db.act_for(session, NIL, user.id)
    session.add(user)
    await session.flush()
    link = await _new_link(session, user, "verify", VERIFY_VALID)
    announce(
        session,
        actor,
        UserRegistered(organization_id=NIL, entity_id=user.id, after=_mail_facts(user, link)),
    )


async def request_verification(session: AsyncSession, actor: Actor) -> None:
    """Send the verification mail again; nothing happens once the address is verified."""
    user = await queries.lock_user(session, actor.user_id)
    if user.email_verified_at is not None:
        return
    link = await _new_link(session, user, "verify", VERIFY_VALID)
    announce(
        session,
        actor,
        VerificationRequested(
            organization_id=NIL, entity_id=user.id, after=_mail_facts(user, link)
        ),
    )


async def verify_email(session: AsyncSession, actor: Actor, token: str) -> SignIn:
    """Use a verification link and sign in; raises 422 naming `token` for a used or expired one."""
    user = await _use_link(session, token, "verify")
    moment = clock.machine_now()
    user.email_verified_at = user.email_verified_at or moment
    user.updated_at = moment
    sign_in = await _open_session(session, actor, user)
    announce(session, _as(actor, user), EmailVerified(organization_id=NIL, entity_id=user.id))
    return sign_in


async def login(session: AsyncSession, actor: Actor, *, email: str, password: str) -> SignIn:
    """Sign in; raises 401 whatever was wrong, after the same work."""
    user = await queries.user_by_email(session, email)
    matches = await tokens.password_matches(user.password_hash if user else None, password)
    if user is None or not matches or user.status != "active":
        raise Refusal("unauthenticated", "E-mail address or password is wrong.")
    await db.act_for(session, NIL, user.id)
    user = await queries.lock_user(session, user.id)
    sign_in = await _open_session(session, actor, user)
    announce(session, _as(actor, user), SignedIn(organization_id=NIL, entity_id=user.id))
    return sign_in


async def refresh(session: AsyncSession, actor: Actor, token: str) -> SignIn | None:
    """Rotate a refresh token; None when it is not valid.

    A token that was rotated away before (beyond the grace of two tabs) revokes the whole family:
    that is a fact to be committed, so it is an answer and not an exception.
    """
    known = tokens.read_refresh_token(token)
    found = None if known is None else await queries.session_by_id(session, known[0])
    if known is None or found is None:
        return None
    await db.act_for(session, found.organization_id, found.user_id)
    family = await session.get(
        SignInSession, found.id, with_for_update=True, populate_existing=True
    )
    user = await queries.lock_user(session, found.user_id)
    moment = clock.machine_now()
    if (
        family is None
        or family.revoked_at
        or family.expires_at <= moment
        or user.status != "active"
    ):
        return None
    number = known[1]
    late = number == family.token_number - 1 and moment - family.rotated_at <= REFRESH_GRACE
    if number != family.token_number and not late:
        family.revoked_at = moment
        event = SessionsRevoked(
            organization_id=NIL, entity_id=user.id, reason="refresh token reused"
        )
        announce(session, _as(actor, user), event)
        return None
    if not late:
        family.token_number += 1
        family.rotated_at = moment
        announce(
            session, _as(actor, user), SessionRefreshed(organization_id=NIL, entity_id=user.id)
        )
    return _tokens(user, family)


async def logout(session: AsyncSession, actor: Actor) -> None:
    """End the actor's session."""
    assert actor.session_id is not None, "a signed-in actor has a session"
    await session.execute(
        update(SignInSession)
        .where(SignInSession.id == actor.session_id)
        .values(revoked_at=clock.machine_now())
    )
    announce(session, actor, SignedOut(organization_id=NIL, entity_id=actor.user_id))


async def request_reset(session: AsyncSession, actor: Actor, email: str) -> None:
    """Send a reset link if the address has an account; the answer never tells."""
    user = await queries.user_by_email(session, email)
    if user is None or user.status != "active":
        return
    await db.act_for(session, NIL, user.id)
    link = await _new_link(session, user, "reset", RESET_VALID)
    announce(
        session,
        actor,
        PasswordResetRequested(
            organization_id=NIL, entity_id=user.id, after=_mail_facts(user, link)
        ),
    )


async def reset_password(session: AsyncSession, actor: Actor, token: str, password: str) -> None:
    """Set a new password by a reset link; every session ends. 422 for the link or the password."""
    user = await _use_link(session, token, "reset")
    tokens.check_password(password, user.email, user.first_name, user.last_name, user.company)
    user.password_hash = await tokens.hash_password(password)
    user.email_verified_at = user.email_verified_at or clock.machine_now()
    await _end_sessions(session, user.id, NIL)
    announce(session, _as(actor, user), PasswordChanged(organization_id=NIL, entity_id=user.id))


async def change_password(session: AsyncSession, actor: Actor, current: str, password: str) -> None:
    """Change the own password; other sessions end. 422 naming the field that is wrong."""
    user = await queries.lock_user(session, actor.user_id)
    if not await tokens.password_matches(user.password_hash, current):
        raise field_error("current_password", "wrong", "This is not your password")
    tokens.check_password(password, user.email, user.first_name, user.last_name, user.company)
    user.password_hash = await tokens.hash_password(password)
    await _end_sessions(session, user.id, actor.session_id or NIL)
    announce(session, actor, PasswordChanged(organization_id=NIL, entity_id=user.id))


async def change_profile(
    session: AsyncSession,
    actor: Actor,
    *,
    first_name: str,
    last_name: str,
    company: str,
    locale: str,
    version: int,
) -> User:
    """Change names and locale; 409 `stale_version` when somebody was faster."""
    user = await queries.lock_user(session, actor.user_id)
    if user.version != version:
        raise Refusal("stale_version", "Read it again, then change it.")
    before = {"first_name": user.first_name, "last_name": user.last_name, "locale": user.locale}
    user.first_name, user.last_name, user.company = first_name, last_name, company
    user.locale = locale
    user.version += 1
    user.updated_at = clock.machine_now()
    after = {"first_name": first_name, "last_name": last_name, "locale": locale}
    event = ProfileChanged(organization_id=NIL, entity_id=user.id, before=before, after=after)
    announce(session, actor, event)
    return user


async def make_user(
    session: AsyncSession, actor: Actor, *, email: str, password: str, platform_role: str | None
) -> User:
    """Make a verified account by the operator's hand; `session` is a system session.

    Raises 422 naming `email` when it is no address or has an account, `password` for a weak one.
    """
    try:
        validate_email(email, check_deliverability=False)
    except EmailNotValidError:
        raise field_error("email", "invalid", "This is not an e-mail address") from None
    if await queries.user_by_email(session, email) is not None:
        raise field_error("email", "taken", "This address has an account")
    tokens.check_password(password, email)
    moment = clock.machine_now()
    user = User(
        id=new_id(),
        email=email,
        password_hash=await tokens.hash_password(password),
        status="active",
        first_name="",
        last_name="",
        company="",
        locale="en",
        platform_role=platform_role,
        email_verified_at=moment,
        version=1,
        created_at=moment,
        updated_at=moment,
    )
    session.add(user)
    after = {"email": email, "platform_role": platform_role}
    event = PlatformRoleGranted(organization_id=NIL, entity_id=user.id, after=after)
    announce(session, actor, event)
    return user


async def grant_platform_role(
    session: AsyncSession, actor: Actor, email: str, platform_role: str
) -> User:
    """Make a user one of the operator's people; a system session; 404 for an unknown address."""
    user = await queries.user_by_email(session, email)
    if user is None:
        raise Refusal("not_found", "No account has this address.")
    before = {"platform_role": user.platform_role}
    user.platform_role = platform_role
    event = PlatformRoleGranted(
        organization_id=NIL,
        entity_id=user.id,
        before=before,
        after={"platform_role": platform_role},
    )
    announce(session, actor, event)
    return user


async def _open_session(session: AsyncSession, actor: Actor, user: User) -> SignIn:
    moment = clock.machine_now()
    memberships = await queries.memberships_of(session, user.id)
    family = SignInSession(
        id=new_id(),
        user_id=user.id,
        organization_id=memberships[0][0].organization_id if memberships else NIL,
        token_number=1,
        rotated_at=moment,
        expires_at=moment + SESSION_VALID,
        ip=actor.ip,
        created_at=moment,
    )
    session.add(family)
    return _tokens(user, family)


def _tokens(user: User, family: SignInSession) -> SignIn:
    claim = tokens.AccessToken(user.id, family.organization_id, family.id)
    return SignIn(
        user=user,
        organization_id=family.organization_id,
        access_token=tokens.access_token(claim),
        refresh_token=tokens.refresh_token(family.id, family.token_number),
    )


async def _new_link(
    session: AsyncSession, user: User, purpose: str, valid: timedelta
) -> OneTimeLink:
    moment = clock.machine_now()
    link = OneTimeLink(
        id=new_id(),
        user_id=user.id,
        purpose=purpose,
        expires_at=moment + valid,
        created_at=moment,
    )
    session.add(link)
    await session.flush()
    return link


async def _use_link(session: AsyncSession, token: str, purpose: str) -> User:
    refused = field_error("token", "used_or_expired", "This link was used or is too old")
    found = await queries.link_by_id(session, tokens.read_link_token(token))
    if found is None or found.purpose != purpose:
        raise refused
    await db.act_for(session, NIL, found.user_id)
    link = await session.get(OneTimeLink, found.id, with_for_update=True, populate_existing=True)
    moment = clock.machine_now()
    if link is None or link.used_at is not None or link.expires_at <= moment:
        raise refused
    link.used_at = moment
    return await queries.lock_user(session, found.user_id)


async def _end_sessions(session: AsyncSession, user_id: UUID, except_session: UUID) -> None:
    await session.execute(
        update(SignInSession)
        .where(
            SignInSession.user_id == user_id,
            SignInSession.revoked_at.is_(None),
            SignInSession.id != except_session,
        )
        .values(revoked_at=clock.machine_now())
    )


def _as(actor: Actor, user: User) -> Actor:
    return replace(actor, kind="user", user_id=user.id)


def _mail_facts(user: User, link: OneTimeLink) -> dict[str, object]:
    return {
        "email": user.email,
        "first_name": user.first_name,
        "locale": user.locale,
        "link_id": link.id,
    }
