# SPDX-License-Identifier: Apache-2.0
"""Members: invited, joined, moved between roles, removed; there is always an owner."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.errors import Refusal, field_error
from nimbus.identity import queries, tokens
from nimbus.identity.events import MemberChanged, MemberInvited, MemberJoined, MemberRemoved
from nimbus.identity.models import Invitation, Membership

INVITATION_VALID = timedelta(days=7)


async def invite(session: AsyncSession, actor: Actor, *, email: str, role: str) -> Invitation:
    """Ask an address to join the actor's organization; the mail carries the link for 7 days.

    Raises 422 naming `email` when it is a member, 403 when a role above the actor's is given.
    """
    _may_give(actor, role)
    members = await queries.members_of(session, actor.organization_id)
    if any(user.email.lower() == email.lower() for _, user in members):
        raise field_error("email", "member", "This address is a member already")
    organization = await queries.organization(session, actor.organization_id)
    moment = clock.machine_now()
    invitation = Invitation(
        id=new_id(),
        organization_id=actor.organization_id,
        email=email,
        role=role,
        invited_by=actor.user_id,
        expires_at=moment + INVITATION_VALID,
        created_at=moment,
    )
    session.add(invitation)
    after = {
        "email": email,
        "role": role,
        "locale": organization.locale,
        "organization": organization.name,
        "link_id": invitation.id,
    }
    event = MemberInvited(
        organization_id=actor.organization_id, entity_id=invitation.id, after=after
    )
    announce(session, actor, event)
    return invitation


async def accept_invitation(session: AsyncSession, actor: Actor, token: str) -> Membership:
    """Join by an invitation's link with the signed-in account of the invited address.

    Raises 422 naming `token` when it was used, is too old, or is for another address.
    """
    found = await queries.invitation_by_id(session, tokens.read_link_token(token))
    refused = field_error("token", "used_or_expired", "This invitation was used or is too old")
    if found is None:
        raise refused
    await db.act_for(session, found.organization_id)
    invitation = await session.get(
        Invitation, found.id, with_for_update=True, populate_existing=True
    )
    moment = clock.machine_now()
    if invitation is None or invitation.accepted_at or invitation.expires_at <= moment:
        raise refused
    user = await queries.lock_user(session, actor.user_id)
    if user.email.lower() != invitation.email.lower() or user.email_verified_at is None:
        raise field_error("token", "another_address", "This invitation is for another address")
    invitation.accepted_at = moment
    membership = Membership(
        id=new_id(),
        organization_id=invitation.organization_id,
        user_id=user.id,
        role=invitation.role,
        created_at=moment,
        updated_at=moment,
    )
    session.add(membership)
    event = MemberJoined(
        organization_id=invitation.organization_id,
        entity_id=membership.id,
        after={"user_id": user.id, "role": invitation.role},
    )
    announce(session, actor, event)
    return membership


async def change_role(session: AsyncSession, actor: Actor, user_id: UUID, role: str) -> Membership:
    """Give a member another role; 404 for someone else's member, 422 for the last owner."""
    membership = await _member(session, actor, user_id)
    _may_give(actor, role)
    _may_give(actor, membership.role)
    if membership.role == "owner" and role != "owner":
        await _refuse_last_owner(session, actor, user_id)
    before = membership.role
    membership.role = role
    membership.updated_at = clock.machine_now()
    event = MemberChanged(
        organization_id=actor.organization_id,
        entity_id=membership.id,
        before={"role": before},
        after={"role": role},
    )
    announce(session, actor, event)
    return membership


async def remove(session: AsyncSession, actor: Actor, user_id: UUID) -> None:
    """Remove a member; 404 for someone else's member, 422 for the last owner."""
    membership = await _member(session, actor, user_id)
    _may_give(actor, membership.role)
    if membership.role == "owner":
        await _refuse_last_owner(session, actor, user_id)
    await session.delete(membership)
    event = MemberRemoved(
        organization_id=actor.organization_id,
        entity_id=membership.id,
        before={"user_id": user_id, "role": membership.role},
    )
    announce(session, actor, event)


async def _member(session: AsyncSession, actor: Actor, user_id: UUID) -> Membership:
    membership = await queries.membership(session, actor.organization_id, user_id)
    if membership is None:
        raise Refusal("not_found")
    return membership


def _may_give(actor: Actor, role: str) -> None:
    if role == "owner" and actor.role != "owner":
        raise Refusal("forbidden", "Only an owner makes or changes owners.")


async def _refuse_last_owner(session: AsyncSession, actor: Actor, user_id: UUID) -> None:
    if await queries.is_last_owner(session, actor.organization_id, user_id):
        raise field_error("role", "last_owner", "An organization has at least one owner")
