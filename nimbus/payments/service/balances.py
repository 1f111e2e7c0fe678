# SPDX-License-Identifier: Apache-2.0
"""Prepaid balances: credited by the operator's hand."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import ledger, usage
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.errors import field_error
from nimbus.identity import organization_facts
from nimbus.ledger import Posting
from nimbus.payments.events import BalanceCredited
from nimbus.payments.models import BalanceCredit
from nimbus.rules.ledger import balance_credited
from nimbus.rules.money import Money


async def credit(
    session: AsyncSession, actor: Actor, organization_id: UUID, amount: Money, reason: str
) -> BalanceCredit:
    """Put money on the prepaid balance of an organization; a system session.

    The first credit makes the organization prepaid. Raises 404 for an unknown organization, 422
    for another currency than its own.
    """
    organization = await organization_facts(session, organization_id)
    if amount.currency != organization.currency:
        text = f"The organization's currency is {organization.currency}."
        raise field_error("amount.currency", "other_currency", text)
    row = BalanceCredit(
        id=new_id(),
        organization_id=organization_id,
        amount_minor=amount.amount_minor,
        currency=amount.currency,
        reason=reason,
        credited_by=actor.user_id,
        created_at=clock.now(),
    )
    session.add(row)
    await session.flush()
    await usage.credit_balance(session, organization_id, amount)
    after = {"amount_minor": amount.amount_minor, "currency": amount.currency}
    event = BalanceCredited(
        organization_id=organization_id, entity_id=row.id, after=after, reason=reason
    )
    announce(session, actor, event)
    posting = Posting(
        organization_id=organization_id,
        source_kind="balance_credit",
        source_id=row.id,
        occurred_at=row.created_at,
        transfers=balance_credited(amount.amount_minor, amount.currency),
    )
    await ledger.post(session, [posting])
    return row
