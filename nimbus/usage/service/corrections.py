# SPDX-License-Identifier: Apache-2.0
"""What a correction is held against: the event that it corrects, as earlier corrections left it.

What is stored never changes (spec 09, U-12). A correction is an event of its own, with who sent it
and why, which counts by how much the earlier one was wrong, at the same instant: so whatever sum,
quota or bill holds the one holds the other.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.subscriptions import SubscriptionFacts

ADDITIVE = "sum"
"""The aggregation of meters whose events can be corrected, beside that of calls."""


@dataclass(frozen=True, slots=True)
class Original:
    """An event that counted: `quantities` by meter, as they stand corrected; `counted` is what the
    quotas of these meters that hold it have counted, at least.
    """

    event_id: UUID
    occurred_at: datetime
    subscription_id: UUID
    quantities: dict[str, Decimal]
    counted: dict[str, Decimal]


_ORIGINALS = text(
    """
    WITH named AS (
        SELECT e.organization_id, e.event_id, e.occurred_at, e.subscription_id
        FROM usage_events e
        WHERE e.organization_id = ANY (:owners) AND e.provider_organization_id = :provider
          AND e.occurred_at >= :since AND e.event_id = ANY (:ids)
          AND NOT (e.continued AND e.source IS NOT NULL))
    SELECT n.event_id, n.occurred_at, n.subscription_id, m.meter_key, sum(m.quantity) AS quantity,
           (SELECT min(s.used) FROM quota_standings s
            WHERE s.subscription_id = n.subscription_id AND s.meter_key = m.meter_key
              AND s.closed_at IS NULL AND s.period_starts_at <= n.occurred_at
              AND s.period_ends_at > n.occurred_at) AS counted
    FROM named n JOIN usage_measured m
      ON m.organization_id = n.organization_id AND m.occurred_at = n.occurred_at
     AND (m.event_id = n.event_id OR (m.continued AND m.source IS NOT NULL
          AND m.properties ->> 'corrects' = n.event_id::text))
    WHERE m.billable GROUP BY n.event_id, n.occurred_at, n.subscription_id, m.meter_key
    """
)


async def originals(
    session: AsyncSession,
    provider: UUID,
    contracts: Collection[SubscriptionFacts],
    ids: Collection[UUID],
    since: datetime,
) -> dict[UUID, Original]:
    """The events of a provider's subscribers with these ids, since an instant, by id.

    Until commit nobody else corrects an event of this provider. Needs a system session.
    """
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('corrections ' || :provider, 0))"),
        {"provider": str(provider)},
    )
    values = {
        "owners": list({contract.organization_id for contract in contracts}),
        "provider": provider,
        "since": since,
        "ids": list(ids),
    }
    found: dict[UUID, Original] = {}
    for row in await session.execute(_ORIGINALS, values):
        one = found.setdefault(
            row.event_id, Original(row.event_id, row.occurred_at, row.subscription_id, {}, {})
        )
        one.quantities[row.meter_key] = row.quantity
        if row.counted is not None:
            one.counted[row.meter_key] = row.counted
    return found


async def priced_by_event(
    session: AsyncSession, contracts: Collection[SubscriptionFacts]
) -> set[tuple[UUID, str]]:
    """The meters, by subscription, whose price goes by single events: no difference counts."""
    found = set()
    for contract in contracts:
        terms = await catalog.plan_terms(session, contract.plan_version_id, contract.currency)
        found |= {
            (contract.id, charge.meter_key)
            for charge in terms.charges
            if charge.model == "percentage"
        }
    return found
