# SPDX-License-Identifier: Apache-2.0
"""One-off items: what is billed once, on the next invoice of a subscription."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.actors import Actor
from nimbus.base.ids import new_id
from nimbus.rules.money import Money
from nimbus.subscriptions import SubscriptionFacts


async def add_item(
    session: AsyncSession,
    actor: Actor,
    subscription: SubscriptionFacts,
    description: str,
    amount: Money,
    *,
    as_of: datetime,
) -> None:
    """Have an amount billed once, as of this instant; a system session."""
    await session.execute(
        text(
            "INSERT INTO one_off_items (id, organization_id, provider_organization_id,"
            " subscription_id, description, amount_minor, currency, made_by, created_at) VALUES"
            " (:id, :organization_id, :provider_organization_id, :subscription_id, :description,"
            " :amount_minor, :currency, :made_by, :created_at)"
        ),
        {
            "id": new_id(),
            "organization_id": subscription.organization_id,
            "provider_organization_id": subscription.provider_organization_id,
            "subscription_id": subscription.id,
            "description": description,
            "amount_minor": amount.amount_minor,
            "currency": amount.currency,
            "made_by": actor.user_id,
            "created_at": as_of,
        },
    )
