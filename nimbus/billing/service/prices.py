# SPDX-License-Identifier: Apache-2.0
"""What plan versions ask, each read once however many subscriptions are on it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.catalog import PlanFacts
from nimbus.rules.contracts import PlanTerms, Segment
from nimbus.subscriptions import Terms


@dataclass(frozen=True, slots=True)
class Price:
    """A plan version in one currency: its facts, its terms, what the provider calls its charges."""

    plan: PlanFacts
    terms: PlanTerms
    texts: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The versions that came up so far; versions never change, so a whole run shares one book."""

    prices: dict[tuple[UUID, str], Price] = field(default_factory=dict)

    async def read(self, session: AsyncSession, wanted: Iterable[tuple[UUID, str]]) -> None:
        """Read the versions (id, currency) that are not in the book yet.

        Raises 404 for an unknown version, 422 on `currency` for one without a price in it.
        """
        for version_id, currency in set(wanted) - self.prices.keys():
            plan = await catalog.plan_facts(session, version_id)
            terms = await catalog.plan_terms(session, version_id, currency)
            texts = await catalog.charge_texts(session, version_id, currency)
            self.prices[version_id, currency] = Price(
                plan, replace(terms, source=plan.plan_id), texts
            )

    def segments(
        self, parts: Iterable[Terms], currency: str, open_from: datetime
    ) -> tuple[Segment, ...]:
        """The law's segments of a contract's parts; one that reaches `open_from` has no end yet."""
        return tuple(
            Segment(
                part.period.starts_at,
                None if part.period.ends_at >= open_from else part.period.ends_at,
                self.prices[part.plan_version_id, currency].terms,
                tuple(
                    replace(
                        self.prices[taken.plan_version_id, currency].terms, quantity=taken.quantity
                    )
                    for taken in part.add_ons
                ),
            )
            for part in parts
            if part.served
        )

    def of_source(self, source: UUID | None, currency: str) -> Price | None:
        """Some version of a plan or add-on, for its name and the texts of its charges."""
        return next(
            (
                price
                for (_, unit), price in self.prices.items()
                if unit == currency and price.plan.plan_id == source
            ),
            None,
        )
