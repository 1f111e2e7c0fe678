# SPDX-License-Identifier: Apache-2.0
"""The operator's settings: who sells here. Without a seller no invoice is finalized."""

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import stdnum.exceptions
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from stdnum import iban as iban_number

from nimbus import identity
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries
from nimbus.billing.events import SellerChanged
from nimbus.billing.models import Seller
from nimbus.errors import Refusal, field_error
from nimbus.rules.periods import zone
from nimbus.rules.vat_rates import STANDARD_RATES


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerDetails:
    """What the operator says about itself; `address` has street, postal_code and city.

    Without `time_zone` it is the organization's; its days are the issue dates.
    """

    organization_id: UUID
    legal_name: str
    address: dict[str, Any]
    country: str
    company_number: str
    vat_number: str
    email: str
    iban: str | None
    time_zone: str | None
    terms_version: str


async def change_seller(
    session: AsyncSession, actor: Actor, details: SellerDetails, terms: str, version: int
) -> Seller:
    """Set who sells, and publish the terms' text `terms` under their version; a system session.

    `version` is the one that was read, 0 where nothing was set. Raises 409 for a stale one and
    422 naming a wrong field. Another organization may take over as the operator's; its number
    series are its own.
    """
    known = await queries.lock_current_seller(session)
    if version != (known.version if known else 0):
        raise Refusal("stale_version", "Read it again, then change it.")
    checked = await _checked(session, details)
    await identity.publish_terms(session, actor, details.terms_version, terms)
    await session.flush()
    before = _facts(known) if known else {}
    row = await _row_of(session, known, details.organization_id)
    for name, value in checked.items():
        setattr(row, name, value)
    row.version = version + 1
    row.updated_at = clock.now()
    session.add(row)
    await session.flush()
    after = _facts(row)
    changed = {name for name in after if before.get(name) != after[name]}
    event = SellerChanged(
        organization_id=row.organization_id,
        entity_id=row.id,
        before={name: before[name] for name in changed if name in before},
        after={name: after[name] for name in changed},
    )
    announce(session, actor, event)
    return row


async def _row_of(session: AsyncSession, known: Seller | None, organization_id: UUID) -> Seller:
    """The row of the organization, made if it never sold; the one before is current no more."""
    if known is not None and known.organization_id == organization_id:
        return known
    if known is not None:
        known.current = False
        await session.flush()
    row = await session.scalar(select(Seller).where(Seller.organization_id == organization_id))
    if row is None:
        row = Seller(id=new_id(), created_at=clock.now())
    row.current = True
    return row


async def _checked(session: AsyncSession, details: SellerDetails) -> dict[str, Any]:
    if details.country not in STANDARD_RATES:
        raise field_error("country", "not_in_eu", "The seller is not in an EU state.")
    try:
        facts = await identity.organization_facts(session, details.organization_id)
    except Refusal:
        text = "There is no such organization."
        raise field_error("operator_organization_id", "unknown", text) from None
    time_zone = details.time_zone or facts.time_zone
    zone(time_zone)
    return {
        **asdict(details),
        "time_zone": time_zone,
        "vat_number": identity.check_vat_number(details.country, details.vat_number),
        "company_number": identity.check_company_number(details.country, details.company_number),
        "iban": None if details.iban is None else _checked_iban(details.iban),
    }


def _checked_iban(text: str) -> str:
    try:
        return str(iban_number.validate(text))
    except stdnum.exceptions.ValidationError:
        raise field_error("iban", "invalid", "This IBAN does not exist.") from None


def _facts(seller: Seller) -> dict[str, Any]:
    return {
        "organization_id": str(seller.organization_id),
        "legal_name": seller.legal_name,
        "address": seller.address,
        "country": seller.country,
        "company_number": seller.company_number,
        "vat_number": seller.vat_number,
        "email": seller.email,
        "iban": seller.iban,
        "time_zone": seller.time_zone,
        "terms_version": seller.terms_version,
    }
