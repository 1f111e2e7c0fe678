# SPDX-License-Identifier: Apache-2.0
"""The demo's people and organizations: each is made by the use cases a person would cause.

What is there already is put back where it was changed: the password, the role, the status.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import db
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.events import announced
from nimbus.identity import current_terms_version, link_token, queries, tokens
from nimbus.identity.service import accounts, members, organizations
from nimbus.identity.service.organizations import OrganizationDetails

VISITOR = Actor(kind="visitor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who can sign in, with what."""

    email: str
    password: str
    first_name: str
    last_name: str


async def put_account(account: Account) -> Actor:
    """A person with a verified address and this password, acting for no organization yet."""
    async with db.transaction() as session:
        known = await queries.user_by_email(session, account.email)
    if known is None:
        return await _register(account)
    same = await tokens.password_matches(known.password_hash, account.password)
    if not same or known.email_verified_at is None:
        await _reset_password(account)
    return _person(known.id)


async def put_admin(account: Account) -> Actor:
    """The same, as one of the operator's people."""
    async with db.transaction() as session:
        known = await queries.user_by_email(session, account.email)
    if known is None:
        async with db.system_session("demo sets") as session:
            await accounts.make_user(
                session,
                SYSTEM,
                email=account.email,
                password=account.password,
                platform_role="admin",
            )
    elif known.platform_role != "admin":
        async with db.system_session("demo sets") as session:
            await accounts.grant_platform_role(session, SYSTEM, account.email, "admin")
    return replace(await put_account(account), platform_role="admin")


async def put_organization(owner: Actor, details: OrganizationDetails) -> Actor:
    """The owner, acting for the organization of this name; it may be Pending still."""
    async with db.transaction(user_id=owner.user_id) as session:
        own = await queries.memberships_of(session, owner.user_id)
        found = [row.id for _, row in own if row.name == details.name]
        if found:
            organization_id = found[0]
        else:
            made = await organizations.create(session, owner, details, "EUR")
            organization_id = made.id
    return replace(owner, organization_id=organization_id, role="owner")


async def put_active(owner: Actor) -> None:
    """The owner's organization is Active: the terms are accepted, a suspension has ended."""
    async with db.transaction(owner.organization_id, owner.user_id) as session:
        organization = await queries.organization(session, owner.organization_id)
        version = await current_terms_version(session)
        if organization.status == "Pending" and version is not None:
            await organizations.accept_terms(session, owner, version)
    if organization.status == "Suspended":
        async with db.system_session("demo sets") as session:
            await organizations.set_status(
                session, SYSTEM, owner.organization_id, "restore", "the demo set was put back"
            )


async def put_member(owner: Actor, account: Account, role: str) -> None:
    """A person with this role in the owner's organization: invited, and joined."""
    person = await put_account(account)
    async with db.transaction(owner.organization_id, owner.user_id) as session:
        known = await queries.membership(session, owner.organization_id, person.user_id)
        if known is not None:
            if known.role != role:
                await members.change_role(session, owner, person.user_id, role)
            return
        invitation = await members.invite(session, owner, email=account.email, role=role)
    async with db.transaction(user_id=person.user_id) as session:
        await members.accept_invitation(session, person, link_token(invitation.id))


def details(given: Mapping[str, Any]) -> OrganizationDetails:
    """What is said about an organization; what is left out is not said."""
    return OrganizationDetails(
        **{
            "legal_name": None,
            "company_number": None,
            "vat_number": None,
            "time_zone": "Europe/Amsterdam",
            "locale": "en",
            **given,
        }
    )


async def _register(account: Account) -> Actor:
    async with db.transaction() as session:
        await accounts.register(
            session,
            VISITOR,
            email=account.email,
            password=account.password,
            first_name=account.first_name,
            last_name=account.last_name,
            company="",
            locale="en",
        )
        token = _mailed_token(session)
    async with db.transaction() as session:
        sign_in = await accounts.verify_email(session, VISITOR, token)
    return _person(sign_in.user.id)


async def _reset_password(account: Account) -> None:
    async with db.transaction() as session:
        await accounts.request_reset(session, VISITOR, account.email)
        token = _mailed_token(session)
    async with db.transaction() as session:
        await accounts.reset_password(session, VISITOR, token, account.password)


def _mailed_token(session: AsyncSession) -> str:
    """The link that the mail about the last fact will carry."""
    return link_token(UUID(str(announced(session)[-1].after["link_id"])))


def _person(user_id: UUID) -> Actor:
    return Actor(kind="user", user_id=user_id, email_verified=True)
