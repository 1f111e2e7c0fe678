# SPDX-License-Identifier: Apache-2.0
"""Plans with quotas for tests, moves between them, and what gateways borrow and use of them."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg

from nimbus import catalog, subscriptions
from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from nimbus.catalog.schemas import NewPlan
from nimbus.catalog.service.plans import create_plan
from nimbus.identity import organization_facts
from nimbus.subscriptions.service.changes import change_plan
from tests.support.market import STARTER
from tests.support.metered import Contract, Market, event, rows, store

MONTH = {"meter": "api_calls", "period": "month"}
RANKS = iter(range(1000, 1_000_000))


async def offer(
    market: Market, slug: str, quotas: list[dict[str, Any]], policy: str = "deny", **terms: Any
) -> None:
    """Put a plan with these quotas up for sale."""
    given = {**STARTER, "slug": slug, "name": slug, "rank": next(RANKS), **terms}
    given |= {"quotas": quotas, "over_quota_policy": policy}
    provider = market.provider
    async with db.transaction(provider.organization_id, provider.actor.user_id) as session:
        plan = NewPlan.model_validate(given)
        await create_plan(session, provider.actor, market.contract.product_id, plan)


@dataclass
class Tenant:
    """The market's consumer with a subscription, at an instant, and a gateway that serves it."""

    market: Market
    settings: Settings
    contract: Contract
    now: datetime
    producer: UUID
    calls: int = 0

    async def move(self, plan: str, at: datetime | None = None) -> None:
        """Change to another plan, at once."""
        self.now = at or self.now
        clock.set_instant(self.now)
        consumer = self.market.consumer
        [row] = await rows(
            "SELECT version FROM subscriptions WHERE id = :id", id=self.contract.subscription_id
        )
        async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
            await change_plan(
                session,
                consumer.actor,
                self.contract.subscription_id,
                plan,
                direction="any",
                version=row["version"],
                as_of=self.now,
            )

    async def begin_again(self, plan: str) -> None:
        """Cancel at once, and subscribe anew."""
        clock.set_instant(self.now)
        consumer = self.market.consumer
        async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
            await subscriptions.cancel(
                session,
                consumer.actor,
                self.contract.subscription_id,
                reason="again",
                as_of=self.now,
                at_once=True,
                version=None,
            )
        async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
            offered = await catalog.published_plan(session, "wind", plan)
            organization = await organization_facts(session, consumer.organization_id)
            started = await subscriptions.start(
                session, consumer.actor, organization, offered, payment="invoice", as_of=self.now
            )
        self.contract = replace(self.contract, subscription_id=started.subscription.id)

    async def standing(self, meter_key: str = "api_calls") -> dict[str, Any]:
        """The standing that counts and limits now."""
        found = await rows(
            "SELECT * FROM quota_standings WHERE subscription_id = :id AND closed_at IS NULL"
            " AND meter_key = :meter_key AND period_starts_at <= :at AND period_ends_at > :at"
            " AND limit_units IS NOT NULL",
            id=self.contract.subscription_id,
            meter_key=meter_key,
            at=self.now,
        )
        assert len(found) == 1, found
        return found[0]

    async def borrow(self, units: int) -> int:
        """What a gateway is lent of the standing that counts now."""
        standing = await self.standing()
        login: dict[str, Any] = dict(database_login(self.settings, "gateway"))
        async with await psycopg.AsyncConnection.connect(**login, autocommit=True) as connection:
            lent = await connection.execute(
                "SELECT granted FROM gateway_lease(%s, %s, %s)",
                (self.producer, standing["id"], units),
            )
            row = await lent.fetchone()
        assert row is not None
        return int(row[0])

    async def call(self, units: int, weight: int = 1, **changes: Any) -> None:
        """Calls that a gateway has borrowed for, stored."""
        served = []
        for _ in range(units // weight):
            self.calls += 1
            own = {"units": weight, "leased": weight, **changes}
            served.append(event(self.contract, self.producer, self.calls, self.now, **own))
        if served:
            await store(self.producer, served, first=self.calls - len(served) + 1)


def tenant(market: Market, settings: Settings, at: datetime) -> Tenant:
    """The market's consumer, whose calls one gateway serves."""
    return Tenant(market, settings, market.contract, at, uuid4())
