# SPDX-License-Identifier: Apache-2.0
"""Why this amount? A line of an invoice, taken apart down to the calls that made it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions, usage
from nimbus.billing import queries
from nimbus.billing.models import Invoice, InvoiceLine
from nimbus.billing.service import formulas, histories
from nimbus.billing.service.prices import Price, PriceBook
from nimbus.errors import Refusal
from nimbus.rules.contracts import (
    Contract,
    ContractPeriod,
    Metered,
    PlanTerms,
    commitment,
    contract_periods,
    fees,
    metered,
)
from nimbus.rules.invoicing import NO_USAGE, MeterUsage
from nimbus.rules.periods import Period, period_containing
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
    """Take a line apart, by the terms that were known when it was made; a system session, the
    invoice is known to be the asker's. 404 without such a line.
    """
    lines = await queries.lines_of(session, invoice.id)
    line = next((one for one in lines if one.position == position), None)
    if line is None:
        raise Refusal("not_found")
    span, book = Period(line.starts_at, line.ends_at), PriceBook()
    formula, steps = await _derived(session, invoice, line, lines, book)
    cells: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    left_out = 0
    if line.meter_key is not None:
        cells, left_out = await _cells(session, line, span)
        events = await _events(session, line, span)
    return Explanation(
        line=line,
        formula=formula,
        steps=steps,
        price=await _price(session, invoice, line, span),
        cells=cells,
        cells_left_out=left_out,
        events=events,
        entries=await _entries(session, invoice),
    )


async def _derived(
    session: AsyncSession,
    invoice: Invoice,
    line: InvoiceLine,
    lines: Sequence[InvoiceLine],
    book: PriceBook,
) -> tuple[str, formulas.Steps]:
    """The line's formula by the law, in the period that it is of."""
    of = await _period(session, invoice, line, book)
    currency = invoice.currency
    if of is None or line.text in {"item", "coupon"}:
        return formulas.flat(line, currency)
    if line.text in {"base_fee", "minimum_commitment"}:
        before = await _asked_before(session, line)
        if line.text == "base_fee":
            held = next((one for one in fees(of) if _same(one.terms, one.served, line)), None)
            return formulas.fee(line, of, held, before, currency)
        others = sum(
            one.amount_minor
            for one in lines
            if one.text not in {"minimum_commitment", "coupon", "item"}
            and of.served.starts_at <= one.starts_at < of.closes_at
        )
        return formulas.commitment(line, commitment(of), others, before, currency)
    by = next((one for one in metered(of) if _priced(one, line)), None)
    if by is None:
        return formulas.flat(line, currency)
    if line.text != "usage":
        charge = next(one for one in by.terms.charges if one.meter_key == line.meter_key)
        return formulas.least_or_most(line, of, by, charge, currency)
    used = await _used(session, invoice, by.charge.meter_key, by.span)
    return formulas.usage(line, of, by, used, currency)


def _same(terms: PlanTerms, served: Period, line: InvoiceLine) -> bool:
    return (terms.source, served.starts_at) == (line.sold_id, line.starts_at)


def _priced(one: Metered, line: InvoiceLine) -> bool:
    return one.charge.meter_key == line.meter_key and _same(one.terms, one.span, line)


async def _period(
    session: AsyncSession, invoice: Invoice, line: InvoiceLine, book: PriceBook
) -> ContractPeriod | None:
    """The billing period that a line is of, as it was known; None for what is of none."""
    subscription = await subscriptions.subscription_facts(session, invoice.subscription_id)
    if line.starts_at < subscription.anchor_at:
        return None
    made = await histories.computed(session, invoice)
    segments = await histories.segments_then(session, subscription, made, book)
    ends_at = await histories.end_then(session, subscription, made)
    if invoice.kind == "progress":
        ends_at = invoice.period_ends_at
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    anchor = plan.anchor(subscription.anchor_at, subscription.time_zone)
    number, _ = period_containing(anchor, line.starts_at)
    contract = Contract(anchor, number, segments, ends_at)
    return next(contract_periods(contract, line.starts_at), None)


async def _asked_before(session: AsyncSession, line: InvoiceLine) -> int:
    """What other invoices asked of the same thing before, in minor units."""
    asked = await session.scalar(
        text(
            "SELECT coalesce(sum(l.amount_minor), 0)::bigint FROM invoice_lines l"
            " JOIN invoices i ON i.organization_id = l.organization_id AND i.id = l.invoice_id"
            " WHERE l.organization_id = :organization_id AND l.subscription_id = :subscription_id"
            " AND l.text = :text AND l.sold_id IS NOT DISTINCT FROM :sold_id"
            " AND l.starts_at = :starts_at AND l.id < :id AND l.invoice_id <> :invoice_id"
            " AND i.status <> 'Cancelled'"
        ),
        {
            "organization_id": line.organization_id,
            "subscription_id": line.subscription_id,
            "text": line.text,
            "sold_id": line.sold_id,
            "starts_at": line.starts_at,
            "id": line.id,
            "invoice_id": line.invoice_id,
        },
    )
    return int(asked or 0)


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


async def _used(
    session: AsyncSession, invoice: Invoice, meter_key: str, span: Period
) -> MeterUsage:
    asked = Asked(
        organization_id=invoice.organization_id,
        subscription_id=invoice.subscription_id,
        product_id=invoice.product_id,
        period=span,
        by_event=(meter_key,),
    )
    [found] = await usage.quantities_of_periods(session, [asked])
    return found.get(meter_key, NO_USAGE)


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
            " AND occurred_at < :ends_at"
            # The level that stood when the span began.
            " UNION ALL (SELECT event_id, occurred_at, NULL, NULL, NULL, level FROM usage_gauges"
            " WHERE organization_id = :organization_id AND subscription_id = :subscription_id"
            " AND meter_key = :meter_key AND occurred_at < :starts_at"
            " ORDER BY occurred_at DESC, event_id DESC LIMIT 1)"
            " ORDER BY occurred_at DESC, event_id LIMIT :most"
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
