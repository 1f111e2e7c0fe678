# SPDX-License-Identifier: Apache-2.0
"""What stored calls cost: the difference that they make to the rated sum of their billing period.

A row of `rated_periods` is the position from which a subscription's next call is priced: what the
period used of each meter, and what that costs by the law of the bill. It is moved in the
transaction that stores the calls, so spend and bill are two sums over one stream. What one key's
calls cost is the difference they make where they come: in the order in which batches are stored,
within a batch key by key.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base import clock
from nimbus.catalog import MeterFacts, PlanFacts
from nimbus.errors import Refusal
from nimbus.rules.contracts import PlanTerms
from nimbus.rules.invoicing import MeterUsage, usage_cost
from nimbus.rules.metering import Cell, aggregate, merge
from nimbus.rules.money import EXACT
from nimbus.rules.periods import Period, period_containing
from nimbus.rules.spending import micro
from nimbus.rules.tallies import Tally, merged, placed, single_quantities
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.models import RatedPeriod

Cells = dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Share:
    """What calls of one key in one window come to, in millionths of a minor unit; no key has what
    a new plan makes of calls that were counted before.
    """

    organization_id: UUID
    key_id: UUID | None
    window: Period
    micro: Decimal


@dataclass(frozen=True, slots=True)
class Terms:
    """How a plan version prices usage in one currency."""

    plan: PlanFacts
    prices: PlanTerms
    meters: Mapping[str, MeterFacts]

    def usage(
        self, cells: Cells, singles: Mapping[str, tuple[Decimal, ...]]
    ) -> dict[str, MeterUsage]:
        """A period's quantities, by meter, as the law takes them."""
        kinds = {key: meter.aggregation for key, meter in self.meters.items()}
        return {
            key: MeterUsage(aggregate(key, kinds[key], cell), singles.get(key, ()))
            for key, cell in cells.items()
            if kinds.get(key, "time_weighted") != "time_weighted"
        }

    def cost(self, cells: Cells, singles: Mapping[str, tuple[Decimal, ...]]) -> Decimal:
        """What a period's quantities cost, in whole currency units. Levels that stand cost more
        with time, not with events: they are left to the bill.
        """
        return usage_cost(self.prices.charges, self.usage(cells, singles))

    def by_event(self) -> set[str]:
        """The meters whose price goes by single events."""
        return {one.meter_key for one in self.prices.charges if one.model == "percentage"}

    def unique(self) -> set[str]:
        """The priced meters that tell values apart: no batch says what it adds to them."""
        priced = {one.meter_key for one in self.prices.charges}
        known = priced & self.meters.keys()
        return {key for key in known if self.meters[key].aggregation == "unique"}


@dataclass(frozen=True, slots=True)
class Prices:
    """The terms of the plan versions that came up in a transaction, each asked once."""

    session: AsyncSession
    known: dict[tuple[UUID, str], Terms | None]

    async def of(self, plan_version_id: UUID, contract: SubscriptionFacts) -> Terms | None:
        """The terms of a plan version in the contract's currency; None when it has none."""
        at = (plan_version_id, contract.currency)
        if at not in self.known:
            try:
                plan, prices = await catalog.plan_with_terms(self.session, *at)
            except Refusal:
                self.known[at] = None
            else:
                meters = await catalog.meter_facts(self.session, contract.product_id)
                self.known[at] = Terms(plan, prices, meters)
        return self.known[at]


@dataclass(frozen=True, slots=True)
class _Part:
    """The calls of a batch in one billing period of a subscription, with its present terms."""

    contract: SubscriptionFacts
    terms: Terms
    period: Period
    tallies: list[Tally]


Parts = Mapping[tuple[UUID, datetime], _Part]


async def rate(
    session: AsyncSession,
    tallies: Iterable[Tally],
    months: Mapping[UUID, Iterable[Period]],
) -> list[Share]:
    """Move the rated periods of these calls, which are not stored yet, and tell what they cost.

    `months` are the spend windows by organization; each call lies in one of its own. Calls in a
    trial cost nothing; so do those of a subscription that is not there. Needs a system session.
    """
    counted: dict[UUID, list[Tally]] = {}
    for one in tallies:
        if one.counted:
            counted.setdefault(one.kind.subscription_id, []).append(one)
    if not counted:
        return []
    contracts = await subscriptions.facts_of(session, counted)
    prices = Prices(session, {})
    parts: dict[tuple[UUID, datetime], _Part] = {}
    for contract_id in sorted(contracts):
        contract = contracts[contract_id]
        terms = await prices.of(contract.plan_version_id, contract)
        if terms is not None and terms.prices.charges:
            mine = [
                one
                for one in counted[contract_id]
                if one.kind.organization_id == contract.organization_id
            ]
            for period, inside in _by_period(contract, terms.plan, mine).items():
                parts[contract_id, period.starts_at] = _Part(contract, terms, period, inside)
    shares: list[Share] = []
    for row in await _locked(session, parts):
        part = parts[row.subscription_id, row.period_starts_at]
        windows = months.get(part.contract.organization_id, ())
        shares += await _advance(prices, row, part, windows)
    await session.flush()
    return shares


async def wrongly_rated(session: AsyncSession) -> list[dict[str, Any]]:
    """The rated periods that are not what a recount of their events comes to. A system session of
    one snapshot: a rated period moves in the transaction that stores what it is rated by.

    One that is priced by single events is left out: what came late has its place in their order
    only with the next batch.
    """
    found: list[dict[str, Any]] = []
    prices = Prices(session, {})
    contracts: dict[UUID, SubscriptionFacts] = {}
    for row in await session.scalars(select(RatedPeriod)):
        if row.subscription_id not in contracts:
            facts = await subscriptions.subscription_facts(session, row.subscription_id)
            contracts[row.subscription_id] = facts
        terms = await prices.of(row.plan_version_id, contracts[row.subscription_id])
        if terms is None or terms.by_event():
            continue
        period = Period(row.period_starts_at, row.period_ends_at)
        cost = terms.cost(await queries.measured(session, row.subscription_id, period), {})
        if cost != row.cost:
            found.append(
                {
                    "problem": "rated",
                    "organization_id": row.organization_id,
                    "subscription_id": row.subscription_id,
                    "at": row.period_starts_at,
                    "expected": cost,
                    "found": row.cost,
                }
            )
    return found


def billing_period(
    contract: SubscriptionFacts, plan: PlanFacts, instant: datetime
) -> Period | None:
    """The billing period that an instant lies in; None in a trial, and before the contract."""
    begins = contract.trial_ends_at or contract.anchor_at
    if instant < begins:
        return None
    return period_containing(plan.anchor(begins, contract.time_zone), instant)[1]


def _by_period(
    contract: SubscriptionFacts, plan: PlanFacts, tallies: Iterable[Tally]
) -> dict[Period, list[Tally]]:
    found: dict[Period, list[Tally]] = {}

    def period_at(instant: datetime) -> Period | None:
        known = next((period for period in found if instant in period), None)
        return known or billing_period(contract, plan, instant)

    for period, one in placed(tallies, period_at):
        found.setdefault(period, []).append(one)
    return found


async def _locked(session: AsyncSession, parts: Parts) -> list[RatedPeriod]:
    """The rows of these periods, locked in one order for all; new ones begin at what is stored, and
    at no cost: what that comes to is counted with the first batch.
    """
    if not parts:
        return []
    at = tuple_(RatedPeriod.subscription_id, RatedPeriod.period_starts_at)
    statement = select(RatedPeriod).where(at.in_(list(parts))).order_by(at)
    found = {
        (row.subscription_id, row.period_starts_at) for row in await session.scalars(statement)
    }
    for where in sorted(parts.keys() - found):
        part = parts[where]
        contract = part.contract
        cells = await queries.measured(session, contract.id, part.period)
        new = postgresql.insert(RatedPeriod).values(
            organization_id=contract.organization_id,
            provider_organization_id=contract.provider_organization_id,
            subscription_id=contract.id,
            period_starts_at=part.period.starts_at,
            period_ends_at=part.period.ends_at,
            plan_version_id=contract.plan_version_id,
            cells=_to_json(cells),
            cost=0,
        )
        await session.execute(new.on_conflict_do_nothing())
    locked = statement.with_for_update().execution_options(populate_existing=True)
    return list(await session.scalars(locked))


async def _advance(
    prices: Prices, row: RatedPeriod, part: _Part, months: Iterable[Period]
) -> list[Share]:
    """Price events from where the row stands, key by key, and move it.

    A period that has not ended follows the contract's plan, as its bill will. What calls that are
    stored already come to now and did not before (by a new plan, say) is a share of no key.
    """
    contract = part.contract
    running = contract.period_starts_at < row.period_ends_at
    version = contract.plan_version_id if running else row.plan_version_id
    terms = await prices.of(version, contract)
    assert terms is not None, "it was rated by these terms before"
    cells, cost, by_event = from_json(row.cells), row.cost, terms.by_event()
    singles = await queries.single_values(prices.session, contract.id, part.period, by_event)
    shares: list[Share] = []

    def move_to(after: Decimal, key_id: UUID | None, window: Period) -> None:
        nonlocal cost
        moved = micro(EXACT.subtract(after, cost), contract.currency)
        shares.append(Share(contract.organization_id, key_id, window, moved))
        cost = after

    groups = _by_month_and_key(part.tallies, months)
    present = terms.cost(cells, singles)
    if present != cost:
        move_to(present, None, groups[0][0])
    for window, key_id, tallies in groups:
        for meter_key, cell in merged(tallies).items():
            before = cells.get(meter_key)
            cells[meter_key] = cell if before is None else merge(before, cell)
        for meter_key in by_event:
            more = single_quantities(tallies, meter_key)
            singles[meter_key] = (*singles.get(meter_key, ()), *more)
        move_to(terms.cost(cells, singles), key_id, window)
    if groups and terms.unique():
        counted = await queries.measured(prices.session, contract.id, part.period)
        for meter_key in terms.unique() & cells.keys() & counted.keys():
            cells[meter_key] = replace(cells[meter_key], special=counted[meter_key].special)
        window, key_id, _ = groups[-1]
        move_to(terms.cost(cells, singles), key_id, window)
    row.plan_version_id, row.cells, row.cost = version, _to_json(cells), cost
    return shares


def _by_month_and_key(
    tallies: Iterable[Tally], months: Iterable[Period]
) -> list[tuple[Period, UUID, list[Tally]]]:
    windows = list(months)
    groups: dict[tuple[datetime, UUID], tuple[Period, list[Tally]]] = {}
    for month, one in placed(tallies, lambda at: next(w for w in windows if at in w)):
        at = month.starts_at, one.kind.key_id
        groups.setdefault(at, (month, []))[1].append(one)
    return [(groups[at][0], at[1], groups[at][1]) for at in sorted(groups)]


def _to_json(cells: Cells) -> dict[str, Any]:
    return {
        key: [
            cell.events,
            str(cell.total),
            str(cell.peak),
            str(cell.last),
            clock.to_wire(cell.last_at),
            str(cell.last_event_id),
            None if cell.special is None else str(cell.special),
        ]
        for key, cell in cells.items()
    }


def from_json(cells: Mapping[str, Any]) -> Cells:
    """The quantities that a rated period stands at, by meter."""
    return {
        key: Cell(
            events,
            Decimal(total),
            Decimal(peak),
            Decimal(last),
            clock.from_wire(last_at),
            UUID(last_event_id),
            special=None if special in ([], [None]) else Decimal(special[0]),
        )
        for key, (events, total, peak, last, last_at, last_event_id, *special) in cells.items()
    }
