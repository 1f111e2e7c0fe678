# SPDX-License-Identifier: Apache-2.0
"""What a billing period's usage costs so far by meter, day and endpoint: by the law of the bill."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import subscriptions
from nimbus.catalog import MeterFacts, PlanFacts
from nimbus.rules.invoicing import MeterUsage, usage_cost
from nimbus.rules.metering import Cell, merge
from nimbus.rules.meters import FED_BY_CALLS
from nimbus.rules.money import EXACT, Money, round_minor
from nimbus.rules.periods import Period, zone
from nimbus.rules.pricing import ZERO, Charge, billable
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.queries_rollup import Parts, measured_in_parts
from nimbus.usage.service.prices import in_force
from nimbus.usage.service.rating import Cells, Prices, Terms, billing_period

NEXT = Decimal(1)
SHARE_PLACES = 12


@dataclass(frozen=True, slots=True)
class MeterCost:
    """What a meter's quantity costs, in whole currency units, exact. `included` and
    `next_unit_price` are None where the plan has no charge on the meter, or several.
    """

    meter: MeterFacts
    quantity: Decimal
    included: Decimal | None
    over: Decimal
    next_unit_price: Decimal | None
    amount: Decimal


@dataclass(frozen=True, slots=True)
class DayCost:
    """What a day added, and what the period had cost by its end."""

    day: date
    amount: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True)
class EndpointCost:
    """An endpoint's share: a meter's cost is shared by the units that endpoints added to it."""

    route_id: UUID
    amount: Decimal


@dataclass(frozen=True, slots=True)
class PeriodCost:
    """A subscription's usage in one billing period and what it costs, without base fee and VAT.

    `billed` is the sum of the meters' amounts, each rounded as a line of the invoice is.
    """

    subscription: SubscriptionFacts
    plan: PlanFacts
    period: Period
    meters: tuple[MeterCost, ...]
    days: tuple[DayCost, ...]
    endpoints: tuple[EndpointCost, ...]

    @property
    def amount(self) -> Decimal:
        """All meters together, exact."""
        return _sum(meter.amount for meter in self.meters)

    @property
    def billed(self) -> Money:
        """The same as an invoice would say it today."""
        currency = self.subscription.currency
        parts = (round_minor(meter.amount, currency).amount_minor for meter in self.meters)
        return Money(sum(parts), currency)


async def period_costs(
    session: AsyncSession,
    organization_id: UUID,
    at: datetime,
    time_zone: str,
    product_id: UUID | None = None,
) -> list[PeriodCost]:
    """What each live subscription's billing period that contains `at` costs, by what is stored.

    Of all, or of the one to a product. Days are those of `time_zone`. A trial has no costs, nor
    has a plan without a price in the subscription's currency.
    """
    live = await subscriptions.live_subscriptions(session, organization_id)
    prices = Prices(session, {})
    found = []
    for contract in live:
        if product_id in {None, contract.product_id}:
            cost = await _period_cost(session, prices, contract, at, time_zone)
            found += [] if cost is None else [cost]
    return found


async def _period_cost(
    session: AsyncSession,
    prices: Prices,
    contract: SubscriptionFacts,
    at: datetime,
    time_zone: str,
) -> PeriodCost | None:
    terms = await prices.of(contract.plan_version_id, contract)
    period = None if terms is None else billing_period(contract, terms.plan, at)
    if period is None:
        return None
    terms = await in_force(session, prices, contract, period)
    if terms is None:
        return None
    kinds = {key: meter.aggregation for key, meter in terms.meters.items()}
    parts = await measured_in_parts(session, contract.id, period, time_zone, kinds)
    cells = _merged(parts.days.values())
    special = {key for key, kind in kinds.items() if kind not in FED_BY_CALLS}
    if special:
        cells |= _only(special, await queries.measured(session, contract.id, period))
    singles = await queries.single_values(session, contract.id, period, terms.by_event())
    used = terms.usage(cells, singles)
    so_far = {
        day: Period(period.starts_at, min(_end_of(day, time_zone), period.ends_at))
        for day in parts.days
    }
    return PeriodCost(
        subscription=contract,
        plan=terms.plan,
        period=period,
        meters=tuple(_meter_cost(terms, meter, used) for meter in terms.meters.values()),
        days=tuple(await _days(session, contract.id, terms, parts, so_far)),
        endpoints=tuple(_endpoints(terms, used, parts)),
    )


def _meter_cost(terms: Terms, meter: MeterFacts, used: Mapping[str, MeterUsage]) -> MeterCost:
    charges = _charges(terms, meter.key)
    usage = used.get(meter.key, MeterUsage(ZERO))
    cost = usage_cost(charges, used)
    if len(charges) != 1:
        return MeterCost(meter, usage.quantity, None, ZERO, None, cost)
    [charge] = charges
    more = MeterUsage(EXACT.add(usage.quantity, NEXT), (*usage.events, NEXT))
    after = usage_cost(charges, {meter.key: more})
    over = billable(charge, usage.quantity)
    return MeterCost(
        meter, usage.quantity, charge.included, over, EXACT.subtract(after, cost), cost
    )


async def _days(
    session: AsyncSession,
    subscription_id: UUID,
    terms: Terms,
    parts: Parts,
    so_far: Mapping[date, Period],
) -> list[DayCost]:
    """The running total at the end of each day that had usage.

    Each day's cells are merged into those before it; what goes by single events, or is no sum of
    days, is asked for `so_far`: in the period up to the end of the day.
    """
    special = {key for key, one in terms.meters.items() if one.aggregation not in FED_BY_CALLS}
    special &= {charge.meter_key for charge in terms.prices.charges}
    found: list[DayCost] = []
    cells: Cells = {}
    total = ZERO
    for day in sorted(parts.days):
        cells = _merged((cells, parts.days[day]))
        singles: Mapping[str, tuple[Decimal, ...]] = {}
        if special or terms.by_event():
            until = so_far[day]
            singles = await queries.single_values(session, subscription_id, until, terms.by_event())
            if special:
                cells |= _only(special, await queries.measured(session, subscription_id, until))
        after = terms.cost(cells, singles)
        found.append(DayCost(day, EXACT.subtract(after, total), after))
        total = after
    return found


def _endpoints(terms: Terms, used: Mapping[str, MeterUsage], parts: Parts) -> list[EndpointCost]:
    """Each meter's cost, shared by what the endpoints added to it; the shares add up to it."""
    routes = sorted(parts.routes)
    shares = dict.fromkeys(routes, ZERO)
    for key in terms.meters:
        cost = usage_cost(_charges(terms, key), used)
        added = [parts.routes[route].get(key) for route in routes]
        weights = [_weight(cell) for cell in added]
        if not cost or not any(weights):
            continue
        for route, share in zip(routes, _shared(cost, weights), strict=True):
            shares[route] = EXACT.add(shares[route], share)
    return [EndpointCost(route, share) for route, share in shares.items()]


def _weight(cell: Cell | None) -> Decimal:
    if cell is None:
        return ZERO
    return cell.total or Decimal(cell.events)


def _shared(cost: Decimal, weights: list[Decimal]) -> list[Decimal]:
    """An amount divided by weights: each share rounded down to twelve places, what is left over
    goes to the largest weight. 1 by (1, 2) → 0.333333333333 and 0.666666666667.
    """
    whole = sum(map(Fraction, weights), Fraction(0))
    scaled = [Fraction(cost) * 10**SHARE_PLACES * Fraction(weight) / whole for weight in weights]
    parts = [Decimal(int(share)).scaleb(-SHARE_PLACES, EXACT) for share in scaled]
    largest = weights.index(max(weights))
    parts[largest] = EXACT.add(parts[largest], EXACT.subtract(cost, _sum(parts)))
    return parts


def _charges(terms: Terms, meter_key: str) -> list[Charge]:
    return [charge for charge in terms.prices.charges if charge.meter_key == meter_key]


def _merged(parts: Iterable[Cells]) -> Cells:
    """The cells of several spans as those of all of them."""
    merged: Cells = {}
    for cells in parts:
        for key, cell in cells.items():
            known = merged.get(key)
            merged[key] = cell if known is None else merge(known, cell)
    return merged


def _only(keys: set[str], cells: Cells) -> Cells:
    return {key: cell for key, cell in cells.items() if key in keys}


def _end_of(day: date, time_zone: str) -> datetime:
    """The end of a local day, in UTC, in whole hours: an hour is of the day it begins in."""
    local = datetime.combine(day + timedelta(days=1), time(), zone(time_zone))
    instant = local.astimezone(UTC)
    whole = instant.replace(minute=0, second=0, microsecond=0)
    return whole if whole == instant else whole + timedelta(hours=1)


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for one in amounts:
        total = EXACT.add(total, one)
    return total
