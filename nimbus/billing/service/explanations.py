# SPDX-License-Identifier: Apache-2.0
"""Why this amount? A line of an invoice, taken apart down to the calls that made it."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import subscriptions, usage
from nimbus.billing import queries
from nimbus.billing.models import Invoice, InvoiceLine
from nimbus.billing.service.prices import Price, PriceBook
from nimbus.billing.texts import plain
from nimbus.errors import Refusal
from nimbus.rules.money import Money, format_money
from nimbus.rules.periods import Period
from nimbus.rules.pricing import Charge, Tier, amount, billable
from nimbus.usage import Asked

CELLS_MAX = 1_000
EVENTS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How a line came about.

    `steps`: (name, value) in order of calculation, decimals as text. `cells`: the roll-up's rows of
    the line's meter by hour; `events`: some of the events in them; `entries`: what the invoice
    posted.
    """

    line: InvoiceLine
    formula: str
    steps: list[tuple[str, str]]
    price: Price | None
    cells: list[dict[str, Any]]
    cells_left_out: int
    events: list[dict[str, Any]]
    entries: list[dict[str, Any]]


async def explain(session: AsyncSession, invoice: Invoice, position: int) -> Explanation:
    """Take a line apart; a system session, the invoice is known to be the asker's. 404 without
    such a line.
    """
    lines = await queries.lines_of(session, invoice.id)
    line = next((one for one in lines if one.position == position), None)
    if line is None:
        raise Refusal("not_found")
    span = Period(line.starts_at, line.ends_at)
    price = await _price(session, invoice, line, span)
    steps: list[tuple[str, str]] = []
    cells: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    left_out = 0
    formula = _flat_formula(line, invoice.currency)
    charge = _charge(price, line.meter_key)
    if line.text == "usage" and charge is not None and line.meter_key is not None:
        used, single = await _used(session, invoice, line.meter_key, span)
        formula, steps = _usage_steps(line, charge, used, single, invoice.currency)
        cells, left_out = await _cells(session, line, span)
        events = await _events(session, line, span)
    return Explanation(
        line=line,
        formula=formula,
        steps=steps or [("amount", _money(line.amount_minor, invoice.currency))],
        price=price,
        cells=cells,
        cells_left_out=left_out,
        events=events,
        entries=await _entries(session, invoice),
    )


async def _price(
    session: AsyncSession, invoice: Invoice, line: InvoiceLine, span: Period
) -> Price | None:
    """The version that priced the line: that of its plan or add-on which held last in its time."""
    book = PriceBook()
    if span.starts_at >= span.ends_at:
        return None
    for part in reversed(await subscriptions.terms_between(session, invoice.subscription_id, span)):
        versions = [
            (part.plan_id, part.plan_version_id),
            *((taken.plan_id, taken.plan_version_id) for taken in part.add_ons),
        ]
        for plan_id, version_id in versions:
            if line.sold_id in {None, plan_id}:
                await book.read(session, [(version_id, invoice.currency)])
                return book.prices[version_id, invoice.currency]
    return None


def _charge(price: Price | None, meter_key: str | None) -> Charge | None:
    if price is None:
        return None
    return next((one for one in price.terms.charges if one.meter_key == meter_key), None)


async def _used(
    session: AsyncSession, invoice: Invoice, meter_key: str, span: Period
) -> tuple[Decimal, tuple[Decimal, ...]]:
    asked = Asked(
        organization_id=invoice.organization_id,
        subscription_id=invoice.subscription_id,
        product_id=invoice.product_id,
        period=span,
        by_event=(meter_key,),
    )
    [found] = await usage.quantities_of_periods(session, [asked])
    used = found.get(meter_key)
    return (Decimal(0), ()) if used is None else (used.quantity, used.events)


def _usage_steps(
    line: InvoiceLine, charge: Charge, used: Decimal, single: tuple[Decimal, ...], currency: str
) -> tuple[str, list[tuple[str, str]]]:
    """The formula in numbers, and its steps, at the usage that is stored now."""
    over = billable(charge, used)
    bare = amount(charge, used, single if charge.model == "percentage" else ())
    total = _money(line.amount_minor, currency)
    steps = [("used", plain(used)), ("included", plain(charge.included)), ("billable", plain(over))]
    if charge.model == "unit":
        text_ = f"({plain(used)} − {plain(charge.included)}) × {plain(charge.unit_price)}"
        if not charge.included:
            text_ = f"{plain(used)} × {plain(charge.unit_price)}"
        steps.append(("unit_price", plain(charge.unit_price)))
    elif charge.tiers:
        text_ = " + ".join(_tier_parts(charge, over)) or "0"
        steps += [(f"tier_{place}", _tier(tier)) for place, tier in enumerate(charge.tiers, 1)]
    elif charge.model == "package":
        packages = -(-over // charge.package_size) if over else Decimal(0)
        text_ = f"⌈{plain(over)} ÷ {plain(charge.package_size)}⌉ × {plain(charge.package_price)}"
        steps.append(("packages", plain(packages)))
    else:
        text_ = f"{charge.model}({plain(over)}; {plain(charge.rate)} %)"
        steps.append(("rate", plain(charge.rate)))
    steps.append(("exact", plain(bare)))
    formula = f"{text_} = {plain(bare)}"
    if over != line.quantity:
        before = over - line.quantity
        steps.append(("billed_before", plain(before)))
        formula += f"; {plain(line.quantity)} of {plain(over)} on this line"
    steps.append(("amount", total))
    return f"{formula} → {total}", steps


def _tier_parts(charge: Charge, over: Decimal) -> list[str]:
    """What each tier asks; of volume and stair-step the one that the quantity reaches."""
    parts: list[str] = []
    below = Decimal(0)
    for tier in charge.tiers:
        top = over if tier.up_to is None else min(over, tier.up_to)
        reached = tier.up_to is None or over <= tier.up_to
        if charge.model in {"volume", "stair_step", "capacity"}:
            if reached:
                return [_tier_formula(tier, over)]
        elif top > below or not parts:
            parts.append(_tier_formula(tier, top - below))
        if reached:
            break
        below = top
    return parts


def _tier_formula(tier: Tier, quantity: Decimal) -> str:
    each = f"{plain(quantity)} × {plain(tier.unit_price)}"
    if tier.rate:
        each = f"{plain(quantity)} × {plain(tier.rate)} %"
    return each if not tier.flat_fee else f"{each} + {plain(tier.flat_fee)}"


def _tier(tier: Tier) -> str:
    end = "∞" if tier.up_to is None else plain(tier.up_to)
    price = plain(tier.unit_price) if not tier.rate else f"{plain(tier.rate)} %"
    return f"≤ {end}: {price}" + (f" + {plain(tier.flat_fee)}" if tier.flat_fee else "")


def _flat_formula(line: InvoiceLine, currency: str) -> str:
    total = _money(line.amount_minor, currency)
    if line.unit_price is None:
        return total
    return f"{plain(line.quantity)} × {plain(line.unit_price)} = {total}"


def _money(amount_minor: int, currency: str) -> str:
    return f"{format_money(Money(amount_minor, currency))} {currency}"


async def _cells(
    session: AsyncSession, line: InvoiceLine, span: Period
) -> tuple[list[dict[str, Any]], int]:
    rows = await session.execute(
        text(
            "SELECT hour, sum(events)::bigint AS events, sum(quantity_sum) AS quantity,"
            " max(quantity_max) AS peak, count(*) OVER () AS hours FROM usage_hours"
            " WHERE organization_id = :organization_id AND subscription_id = :subscription_id"
            " AND environment = 'Live' AND meter_key = :meter_key"
            " AND hour >= date_bin('1 hour', CAST(:starts_at AS timestamptz), 'epoch')"
            " AND hour < :ends_at GROUP BY hour ORDER BY hour LIMIT :most"
        ),
        {**_where(line, span), "most": CELLS_MAX},
    )
    found = [dict(row) for row in rows.mappings()]
    hours = found[0]["hours"] if found else 0
    return found, hours - len(found)


async def _events(session: AsyncSession, line: InvoiceLine, span: Period) -> list[dict[str, Any]]:
    rows = await session.execute(
        text(
            "SELECT event_id, occurred_at, method, status, request_id, quantity"
            " FROM usage_measured WHERE organization_id = :organization_id"
            " AND subscription_id = :subscription_id AND environment = 'Live' AND billable"
            " AND meter_key = :meter_key AND quantity > 0 AND occurred_at >= :starts_at"
            " AND occurred_at < :ends_at ORDER BY occurred_at DESC, event_id LIMIT :most"
        ),
        {**_where(line, span), "most": EVENTS_MAX},
    )
    return [dict(row) for row in rows.mappings()]


def _where(line: InvoiceLine, span: Period) -> dict[str, UUID | str | datetime | None]:
    return {
        "organization_id": line.organization_id,
        "subscription_id": line.subscription_id,
        "meter_key": line.meter_key,
        "starts_at": span.starts_at,
        "ends_at": span.ends_at,
    }


async def _entries(session: AsyncSession, invoice: Invoice) -> list[dict[str, Any]]:
    rows = await session.execute(
        text(
            "SELECT sequence, debit_account, credit_account, amount_minor, leg, occurred_at,"
            " encode(hash, 'hex') AS hash FROM ledger_transfers"
            " WHERE source_kind = 'invoice' AND source_id = :id ORDER BY sequence"
        ),
        {"id": invoice.id},
    )
    return [dict(row) for row in rows.mappings()]
