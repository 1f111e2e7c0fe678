# SPDX-License-Identifier: Apache-2.0
"""What a logged call cost: the difference that it makes to the sum of its billing period.

Derived when it is shown, from the contract's terms and the call's place among the calls of its
period, in the order of instant and id: nothing about money is stored with a call, so a late one
moves the prices of those behind it and no sum goes wrong. The amounts of all calls of a period add
up to what the period is rated at (`service.rating`): the same law, asked before and after each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial, reduce
from typing import Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import subscriptions
from nimbus.rules.invoicing import MeterUsage
from nimbus.rules.metering import CALLS, Cell, merge
from nimbus.rules.meters import FED_BY_CALLS
from nimbus.rules.money import EXACT
from nimbus.rules.periods import Period
from nimbus.rules.pricing import ZERO, amount, before_any, passed
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.models import RatedPeriod
from nimbus.usage.queries_log import LoggedCall, counted_at
from nimbus.usage.service.rating import Cells, Prices, Terms, billing_period

Reason = Literal[
    "billed", "included", "no_charge", "trial", "no_contract", "refused", "test", "not_billable"
]
"""Why a call cost what it cost: `included` in the plan, on a meter with `no_charge`, made before
the contract's first period (`trial`), never forwarded (`refused`), answered with a status that is
`not_billable`.
"""

UNIT_PRICE_PLACES = 12
NOTHING = MeterUsage(ZERO)


@dataclass(frozen=True, slots=True)
class MeterPrice:
    """What a call added to a meter, and what that came to in whole currency units, exact."""

    meter_key: str
    quantity: Decimal
    amount: Decimal

    @property
    def unit_price(self) -> Decimal | None:
        """The average of these units, to twelve places; None of no units."""
        if not self.quantity:
            return None
        exact = EXACT.divide(self.amount, self.quantity)
        return round(exact, UNIT_PRICE_PLACES)


@dataclass(frozen=True, slots=True)
class CallPrice:
    """What a call cost and why; no currency where there is no contract."""

    reason: Reason
    currency: str | None = None
    meters: tuple[MeterPrice, ...] = ()

    @property
    def amount(self) -> Decimal:
        """All meters together, in whole currency units, exact."""
        total = ZERO
        for meter in self.meters:
            total = EXACT.add(total, meter.amount)
        return total


class Position:
    """Where the sum of one billing period stands while its calls are taken one after the other."""

    def __init__(
        self, terms: Terms, period: Period, cells: Cells, singles: Mapping[str, tuple[Decimal, ...]]
    ) -> None:
        self.period = period
        self._terms = terms
        self._cells = dict(cells)
        self._charges = {
            key: [one for one in terms.prices.charges if one.meter_key == key]
            for key, meter in terms.meters.items()
            if meter.aggregation in FED_BY_CALLS
        }
        # How far the charges have come that go by single events; of others nothing.
        self._passed = {
            key: [
                reduce(partial(passed, one), singles.get(key, ()), before_any(one))
                if one.model == "percentage"
                else None
                for one in charges
            ]
            for key, charges in self._charges.items()
        }
        self._costs = {key: self._cost(key) for key in self._charges}

    def take(self, call: LoggedCall) -> CallPrice:
        """Move on by a call that counts, and tell what it cost."""
        before = {key: self._cells.get(key) for key, _ in _quantities(call)}
        meters = tuple(self._add(call, key, quantity) for key, quantity in _quantities(call))
        price = CallPrice("billed", self._terms.prices.currency, meters)
        if price.amount:
            return price
        priced = [key for key in before if self._charges.get(key)]
        reason: Reason = "included" if priced else "no_charge"
        return CallPrice(reason, price.currency, meters)

    def _add(self, call: LoggedCall, meter_key: str, quantity: Decimal) -> MeterPrice:
        cell = Cell(
            events=0 if call.continued else 1,
            total=quantity,
            peak=quantity,
            last=quantity,
            last_at=call.occurred_at,
            last_event_id=call.event_id,
        )
        known = self._cells.get(meter_key)
        self._cells[meter_key] = cell if known is None else merge(known, cell)
        charges = self._charges.get(meter_key)
        if not charges:
            return MeterPrice(meter_key, quantity, ZERO)
        if quantity:
            self._passed[meter_key] = [
                at and passed(one, at, quantity)
                for one, at in zip(charges, self._passed[meter_key], strict=True)
            ]
        before = self._costs[meter_key]
        after = self._costs[meter_key] = self._cost(meter_key)
        return MeterPrice(meter_key, quantity, EXACT.subtract(after, before))

    def _cost(self, meter_key: str) -> Decimal:
        """What the law says of the meter's charges, but for those that go by single events: these
        are moved on event by event.
        """
        cells = {key: self._cells[key] for key in (meter_key,) if key in self._cells}
        if meter_key in cells and cells[meter_key].total < 0:
            return ZERO  # a correction comes before what it corrects, at the same instant
        used = self._terms.usage(cells, {}).get(meter_key, NOTHING).quantity
        total = ZERO
        for charge, at in zip(self._charges[meter_key], self._passed[meter_key], strict=True):
            more = EXACT.subtract(amount(charge, used, at or ()), amount(charge, ZERO))
            total = EXACT.add(total, more)
        return total


class Contracts:
    """The contracts of the calls that come up, each asked once, and where their periods stand."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self._prices = Prices(session, {})
        self._known: dict[UUID, SubscriptionFacts | None] = {}
        self._positions: dict[UUID, Position] = {}

    async def price(self, call: LoggedCall) -> CallPrice:
        """What a call cost. Calls of one subscription that are asked one after the other come in
        the order of instant and id, and none that counts is left out between them.
        """
        if not call.billable or call.subscription_id is None:
            return CallPrice(_uncounted(call))
        contract = await self._contract(call.subscription_id)
        if contract is None:
            return CallPrice("no_contract")
        position = self._positions.get(contract.id)
        if position is None or call.occurred_at not in position.period:
            opened = await self._open(contract, call)
            if isinstance(opened, CallPrice):
                return opened
            position = self._positions[contract.id] = opened
        return position.take(call)

    async def _contract(self, subscription_id: UUID) -> SubscriptionFacts | None:
        if subscription_id not in self._known:
            found = await subscriptions.facts_of(self.session, [subscription_id])
            self._known[subscription_id] = found.get(subscription_id)
        return self._known[subscription_id]

    async def _open(self, contract: SubscriptionFacts, call: LoggedCall) -> Position | CallPrice:
        """Where the call's period stood just before it."""
        terms = await self._prices.of(contract.plan_version_id, contract)
        if terms is None:
            return CallPrice("no_contract")
        period = billing_period(contract, terms.plan, call.occurred_at)
        if period is None:
            return CallPrice("trial", contract.currency)
        terms = await in_force(self.session, self._prices, contract, period)
        if terms is None:
            return CallPrice("no_contract")
        return await position_before(self.session, contract, terms, period, call)


async def in_force(
    session: AsyncSession, prices: Prices, contract: SubscriptionFacts, period: Period
) -> Terms | None:
    """The terms that a period is priced by: the contract's while it runs, those it was rated by
    once it has ended.
    """
    version = contract.plan_version_id
    if period.ends_at <= contract.period_starts_at:
        at = (contract.organization_id, contract.id, period.starts_at)
        rated = await session.get(RatedPeriod, at)
        version = rated.plan_version_id if rated is not None else version
    return await prices.of(version, contract)


async def position_before(
    session: AsyncSession,
    contract: SubscriptionFacts,
    terms: Terms,
    period: Period,
    call: LoggedCall,
) -> Position:
    """The sum of all calls of the period that come before this one."""
    until = Period(period.starts_at, call.occurred_at)
    cells: Cells = {}
    if until.starts_at < until.ends_at:
        cells = await queries.measured(session, contract.id, until)
    singles = await queries.single_values(session, contract.id, until, terms.by_event())
    position = Position(terms, period, cells, singles)
    for other in await counted_at(session, contract.id, call.occurred_at):
        if other.event_id < call.event_id:
            position.take(other)
    return position


def _quantities(call: LoggedCall) -> list[tuple[str, Decimal]]:
    """What a call that counts added to which meters, as `rules.metering.quantities` says."""
    reported = [(key, Decimal(value)) for key, value in call.meters.items()]
    if call.source is not None:
        return reported
    units = (CALLS, Decimal(call.units))
    return [units, *((key, value) for key, value in reported if key != CALLS)]


def _uncounted(call: LoggedCall) -> Reason:
    if call.code is not None:
        return "refused"
    return "test" if call.environment == "Test" else "not_billable"
