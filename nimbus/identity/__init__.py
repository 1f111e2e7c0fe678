# SPDX-License-Identifier: Apache-2.0
"""Who: people, organizations, memberships, roles, sessions, terms. The room's door."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import any_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.db import uuids
from nimbus.identity import queries
from nimbus.identity.asking import (
    allowed,
    platform_admin,
    platform_reader,
    resolve_actor,
    signed_in,
)
from nimbus.identity.models import Organization
from nimbus.identity.numbers import check_company_number, check_vat_number
from nimbus.identity.permissions import MATRIX, ROLES, Permission, has
from nimbus.identity.service.accounts import grant_platform_role, make_user
from nimbus.identity.service.organizations import accept_terms, publish_terms, set_status
from nimbus.identity.tokens import link_token

__all__ = [
    "MATRIX",
    "ROLES",
    "OrganizationFacts",
    "Permission",
    "accept_terms",
    "allowed",
    "check_company_number",
    "check_vat_number",
    "current_terms_version",
    "facts_of_organizations",
    "facts_then",
    "grant_platform_role",
    "has",
    "link_token",
    "lock_organization_facts",
    "make_user",
    "organization_facts",
    "platform_admin",
    "platform_reader",
    "publish_terms",
    "resolve_actor",
    "set_status",
    "signed_in",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationFacts:
    """What other rooms may know of an organization; `address` has street, postal_code, city."""

    id: UUID
    name: str
    legal_name: str
    company_number: str | None
    vat_number: str | None
    billing_email: str
    address: dict[str, Any]
    country: str
    time_zone: str
    locale: str
    currency: str
    status: str


async def organization_facts(session: AsyncSession, organization_id: UUID) -> OrganizationFacts:
    """An organization that the transaction may see; 404 otherwise."""
    return _facts(await queries.organization(session, organization_id))


async def facts_of_organizations(
    session: AsyncSession, organization_ids: Collection[UUID]
) -> dict[UUID, OrganizationFacts]:
    """Several organizations by id; those that the transaction may not see are left out."""
    asked = select(*_FACTS).where(Organization.id == any_(uuids(organization_ids)))
    return {row.id: _facts(row) for row in await session.execute(asked)}


async def facts_then(
    session: AsyncSession, facts: Sequence[OrganizationFacts], instants: Sequence[datetime]
) -> list[OrganizationFacts]:
    """Organizations with the country and the VAT number that each had at its instant: business
    time, as the trail tells it. A system session.
    """
    if not facts:
        return []
    known: dict[UUID, list[Any]] = {}
    ids = list({one.id for one in facts})
    changes = await session.execute(_CHANGES, {"ids": ids, "since": min(instants)})
    for row in changes:
        known.setdefault(row.organization_id, []).append(row)
    found = []
    for one, instant in zip(facts, instants, strict=True):
        before: dict[str, Any] = {}
        for row in known.get(one.id, ()):  # the latest first
            if row.at > instant:
                before |= row.before
        then = {name: before[name] for name in ("country", "vat_number") if name in before}
        found.append(replace(one, **then))
    return found


async def lock_organization_facts(
    session: AsyncSession, organization_id: UUID
) -> OrganizationFacts:
    """The same, with the organization's row locked until the transaction ends."""
    return _facts(await queries.lock_organization(session, organization_id))


async def current_terms_version(session: AsyncSession) -> str | None:
    """The version of the operator's current terms; None while there are none."""
    terms = await queries.current_terms(session)
    return None if terms is None else terms.version


_CHANGES = text(
    "SELECT organization_id, at, body::jsonb->'before' AS before FROM audit_log"
    " WHERE organization_id = ANY (:ids) AND entity_id = ANY (:ids)"
    " AND action = 'OrganizationChanged' AND at > :since ORDER BY organization_id, sequence DESC"
)
_FACTS = tuple(getattr(Organization, name) for name in OrganizationFacts.__dataclass_fields__)


def _facts(row: Any) -> OrganizationFacts:
    return OrganizationFacts(
        id=row.id,
        name=row.name,
        legal_name=row.legal_name or row.name,
        company_number=row.company_number,
        vat_number=row.vat_number,
        billing_email=row.billing_email,
        address=row.address,
        country=row.country,
        time_zone=row.time_zone,
        locale=row.locale,
        currency=row.currency,
        status=row.status,
    )
