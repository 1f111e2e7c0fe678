# SPDX-License-Identifier: Apache-2.0
"""Organizations: made, changed, switched between, made Active by accepting the terms."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import NIL, new_id
from nimbus.errors import Refusal, field_error
from nimbus.identity import queries, tokens
from nimbus.identity.events import (
    OrganizationActivated,
    OrganizationChanged,
    OrganizationCreated,
    OrganizationRestored,
    OrganizationSuspended,
    OrganizationSwitched,
    TermsPublished,
)
from nimbus.identity.models import (
    Membership,
    Organization,
    SignInSession,
    TermsAcceptance,
    TermsVersion,
)
from nimbus.identity.numbers import check_company_number, check_vat_number, only_time_zone
from nimbus.rules import lifecycles
from nimbus.rules.money import Money

COMPARED = (
    "name", "legal_name", "company_number", "vat_number", "billing_email", "address", "country",
    "time_zone", "locale",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationDetails:
    """What an owner says about the organization; checked by the use cases."""

    name: str
    country: str
    legal_name: str | None
    company_number: str | None
    vat_number: str | None
    billing_email: str
    address: dict[str, Any]
    time_zone: str | None
    locale: str


async def create(
    session: AsyncSession, actor: Actor, details: OrganizationDetails, currency: str
) -> Organization:
    """Make a Pending organization with the actor as its owner.

    `currency` is an ISO 4217 code. Raises 403 before the e-mail address is verified, and 422
    naming `vat_number` or `company_number` for a wrong one.
    """
    if not actor.email_verified:
        raise Refusal("forbidden", "Verify the e-mail address first.")
    checked = _checked(details)
    moment = clock.now()
    organization = Organization(
        id=new_id(),
        slug=_slug(details.name),
        currency=currency,
        status="Pending",
        version=1,
        created_at=moment,
        updated_at=moment,
        **checked,
    )
    await db.act_for(session, organization.id)
    session.add(organization)
    await session.flush()
    session.add(
        Membership(
            id=new_id(),
            organization_id=organization.id,
            user_id=actor.user_id,
            role="owner",
            created_at=moment,
            updated_at=moment,
        )
    )
    await _point_session_at(session, actor, organization.id)
    after = {"name": organization.name, "country": organization.country, "status": "Pending"}
    event = OrganizationCreated(
        organization_id=organization.id, entity_id=organization.id, after=after
    )
    announce(session, actor, event)
    return organization


async def change(
    session: AsyncSession, actor: Actor, details: OrganizationDetails, version: int
) -> Organization:
    """Change the actor's organization; 409 for a stale version, 422 naming a wrong field."""
    organization = await queries.lock_organization(session, actor.organization_id)
    if organization.version != version:
        raise Refusal("stale_version", "Read it again, then change it.")
    checked = _checked(details)
    before = {name: getattr(organization, name) for name in COMPARED}
    for name, value in checked.items():
        setattr(organization, name, value)
    organization.version += 1
    organization.updated_at = clock.now()
    changed = {name: checked[name] for name in COMPARED if before[name] != checked[name]}
    event = OrganizationChanged(
        organization_id=organization.id,
        entity_id=organization.id,
        before={name: before[name] for name in changed},
        after=changed,
    )
    announce(session, actor, event)
    return organization


async def change_spend_limit(
    session: AsyncSession, actor: Actor, limit: Money | None, version: int
) -> Organization:
    """Limit what calls may cost the actor's organization in a calendar month of its time zone.

    None takes the limit away. Raises 409 for a stale version, 422 for another currency than the
    organization's.
    """
    organization = await queries.lock_organization(session, actor.organization_id)
    if organization.version != version:
        raise Refusal("stale_version", "Read it again, then change it.")
    if limit is not None and limit.currency != organization.currency:
        text = f"The organization's currency is {organization.currency}."
        raise field_error("monthly_spend_limit.currency", "other_currency", text)
    before = {"monthly_spend_limit_minor": organization.monthly_spend_limit_minor}
    after = {"monthly_spend_limit_minor": None if limit is None else limit.amount_minor}
    organization.monthly_spend_limit_minor = after["monthly_spend_limit_minor"]
    organization.version += 1
    organization.updated_at = clock.now()
    event = OrganizationChanged(
        organization_id=organization.id, entity_id=organization.id, before=before, after=after
    )
    announce(session, actor, event)
    return organization


async def switch(session: AsyncSession, actor: Actor, organization_id: UUID) -> str:
    """Act for another of the actor's organizations: an access token for it; 404 for others'."""
    if await queries.membership(session, organization_id, actor.user_id) is None:
        raise Refusal("not_found")
    await _point_session_at(session, actor, organization_id)
    await db.act_for(session, organization_id)
    event = OrganizationSwitched(organization_id=organization_id, entity_id=organization_id)
    announce(session, actor, event)
    return access_token_for(actor, organization_id)


def access_token_for(actor: Actor, organization_id: UUID) -> str:
    """An access token of the actor's session for an organization."""
    claim = tokens.AccessToken(actor.user_id, organization_id, actor.session_id or NIL)
    return tokens.access_token(claim)


async def accept_terms(session: AsyncSession, actor: Actor, version: str) -> Organization:
    """Accept the current terms for the actor's organization, which becomes Active.

    Accepting again answers the same and changes nothing. Raises 422 naming `version` when it is
    not the current one or none is published, 403 for a suspended or cancelled organization.
    """
    organization = await queries.lock_organization(session, actor.organization_id)
    terms = await queries.current_terms(session)
    if terms is None:
        raise field_error("version", "no_terms", "The operator has published no terms yet")
    if terms.version != version:
        raise field_error("version", "not_current", f"The current terms are {terms.version}")
    if organization.status == "Active":
        return organization
    if organization.status != "Pending":
        raise Refusal("organization_suspended")
    moment = clock.now()
    organization.status = lifecycles.organization(organization.status, "activate")
    organization.updated_at = moment
    session.add(
        TermsAcceptance(
            id=new_id(),
            organization_id=organization.id,
            user_id=actor.user_id,
            version=version,
            ip=actor.ip,
            accepted_at=moment,
            created_at=moment,
        )
    )
    event = OrganizationActivated(
        organization_id=organization.id,
        entity_id=organization.id,
        before={"status": "Pending"},
        after={"status": "Active", "terms_version": version},
    )
    announce(session, actor, event)
    return organization


async def publish_terms(session: AsyncSession, actor: Actor, version: str, body: str) -> None:
    """Publish the operator's terms; the same version again changes nothing; a system session."""
    if await session.get(TermsVersion, version) is not None:
        return
    moment = clock.now()
    session.add(
        TermsVersion(
            version=version, body=body, published_at=moment, created_at=clock.machine_now()
        )
    )
    event = TermsPublished(organization_id=NIL, entity_id=new_id(), after={"version": version})
    announce(session, actor, event)


async def set_status(
    session: AsyncSession,
    actor: Actor,
    organization_id: UUID,
    action: Literal["suspend", "restore"],
    reason: str,
) -> Organization:
    """Suspend or restore an organization by the operator's hand; a system session."""
    organization = await queries.lock_organization(session, organization_id)
    before = organization.status
    organization.status = lifecycles.organization(before, action)
    organization.updated_at = clock.now()
    fact = OrganizationSuspended if action == "suspend" else OrganizationRestored
    event = fact(
        organization_id=organization.id,
        entity_id=organization.id,
        before={"status": before},
        after={"status": organization.status},
        reason=reason,
    )
    announce(session, actor, event)
    return organization


async def _point_session_at(session: AsyncSession, actor: Actor, organization_id: UUID) -> None:
    await session.execute(
        update(SignInSession)
        .where(SignInSession.id == actor.session_id)
        .values(organization_id=organization_id)
    )


def _checked(details: OrganizationDetails) -> dict[str, Any]:
    country = details.country
    vat = details.vat_number and check_vat_number(country, details.vat_number)
    company = details.company_number and check_company_number(country, details.company_number)
    return {
        "name": details.name,
        "legal_name": details.legal_name or details.name,
        "company_number": company or None,
        "vat_number": vat or None,
        "billing_email": details.billing_email,
        "address": details.address,
        "country": country,
        "time_zone": details.time_zone or only_time_zone(country),
        "locale": details.locale,
    }


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40] or "organization"
    return f"{words}-{new_id().hex[-6:]}"
