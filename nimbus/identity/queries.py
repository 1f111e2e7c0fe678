# SPDX-License-Identifier: Apache-2.0
"""Identity's reads. Look-ups that come before a tenant is known go through definer functions."""

from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.errors import Refusal
from nimbus.identity.models import (
    Invitation,
    Membership,
    OneTimeLink,
    Organization,
    SignInSession,
    TermsVersion,
    User,
)


async def user_by_email(session: AsyncSession, email: str) -> User | None:
    """The account of an address, whoever asks: for sign-in, registration and reset only."""
    known = text("SELECT * FROM identity_user_by_email(:email)").bindparams(email=email)
    return (await session.scalars(select(User).from_statement(known))).one_or_none()


async def session_by_id(session: AsyncSession, session_id: UUID) -> SignInSession | None:
    """A sign-in session, before its user is known."""
    known = text("SELECT * FROM identity_session(:id)").bindparams(id=session_id)
    return (await session.scalars(select(SignInSession).from_statement(known))).one_or_none()


async def link_by_id(session: AsyncSession, link_id: UUID) -> OneTimeLink | None:
    """A one-time link, before its user is known."""
    known = text("SELECT * FROM identity_link(:id)").bindparams(id=link_id)
    return (await session.scalars(select(OneTimeLink).from_statement(known))).one_or_none()


async def invitation_by_id(session: AsyncSession, invitation_id: UUID) -> Invitation | None:
    """An invitation, before its organization is known."""
    known = text("SELECT * FROM identity_invitation(:id)").bindparams(id=invitation_id)
    return (await session.scalars(select(Invitation).from_statement(known))).one_or_none()


async def lock_user(session: AsyncSession, user_id: UUID) -> User:
    """The user's row, locked; only the user's own transaction sees it."""
    user = await session.get(User, user_id, with_for_update=True, populate_existing=True)
    if user is None:
        raise Refusal("unauthenticated", "Sign in again.")
    return user


async def organization(session: AsyncSession, organization_id: UUID) -> Organization:
    """An organization that the transaction may see; 404 otherwise."""
    row = await session.get(Organization, organization_id)
    if row is None:
        raise Refusal("not_found")
    return row


async def lock_organization(session: AsyncSession, organization_id: UUID) -> Organization:
    """The organization's row, locked; 404 when the transaction may not see it.

    Its key stays free: whoever writes something that belongs to it does not wait.
    """
    row = await session.get(
        Organization, organization_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if row is None:
        raise Refusal("not_found")
    return row


async def membership(
    session: AsyncSession, organization_id: UUID, user_id: UUID
) -> Membership | None:
    """A user's membership of an organization."""
    return await session.scalar(
        select(Membership).where(
            Membership.organization_id == organization_id, Membership.user_id == user_id
        )
    )


async def memberships_of(
    session: AsyncSession, user_id: UUID
) -> list[tuple[Membership, Organization]]:
    """The organizations of a user, oldest membership first."""
    rows = await session.execute(
        select(Membership, Organization)
        .join(Organization, Organization.id == Membership.organization_id)
        .where(Membership.user_id == user_id)
        .order_by(Membership.id)
    )
    return [(membership, organization) for membership, organization in rows]


async def members_of(session: AsyncSession, organization_id: UUID) -> list[tuple[Membership, User]]:
    """The members of an organization with their names, oldest first."""
    rows = await session.execute(
        select(Membership, User)
        .join(User, User.id == Membership.user_id)
        .where(Membership.organization_id == organization_id)
        .order_by(Membership.id)
    )
    return [(membership, user) for membership, user in rows]


async def is_last_owner(session: AsyncSession, organization_id: UUID, user_id: UUID) -> bool:
    """Whether nobody else owns the organization; locks its owners."""
    return bool(
        await session.scalar(
            text("SELECT identity_last_owner(:organization_id, :user_id)"),
            {"organization_id": organization_id, "user_id": user_id},
        )
    )


async def current_terms(session: AsyncSession) -> TermsVersion | None:
    """The latest published terms; None while the operator has published none."""
    return await session.scalar(
        select(TermsVersion).order_by(
            TermsVersion.published_at.desc(), TermsVersion.created_at.desc()
        )
    )
