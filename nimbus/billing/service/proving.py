# SPDX-License-Identifier: Apache-2.0
"""Proving an invoice: its facts are gathered raw, event by event, and a second reading of the law
(`billing.oracle`) recomputes it and all before it, each from what was known when it was computed.

What the oracle reads (instants aware, decimals texts, fees and amounts minor units):
{"zone", "anchor", "interval", "count", "calendar", "digits" (of the currency),
 "kinds": {meter: its aggregation, where that is no sum},
 "events": [(at, stored at, meter, value)], in order; a level is carried from before,
 "runs": [each time an invoice was computed:
   {"invoice", "kind", "at" (up to when it bills), "since" (lines of before are not its matter),
    "stored" (what was stored by then it could know), "terms": [(from, to, [plan, *add-ons] or
    nothing while paused)], "ends_at", "one_off": [(item, amount)], "gifts": {line: what credit
    notes gave back of it}, "rate" (of VAT, %), "credit", "wallet" (taken by the invoice),
    "coupons": [{"meter", "source", "percent" or "amount"}]}]}
plan, add-on: {"source", "fee", "quantity", "timing", "proration", "commitment", "charges"}; a
charge has the fields of spec 11 §10 that are not empty. A line is known by (what, source, meter,
start).
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base.proofs import Report
from nimbus.billing import oracle, queries
from nimbus.billing.models import Invoice
from nimbus.billing.service import histories
from nimbus.billing.service.prices import PriceBook
from nimbus.billing.texts import plain
from nimbus.errors import Refusal, field_error
from nimbus.rules.contracts import PlanTerms
from nimbus.rules.money import minor_digits
from nimbus.rules.pricing import TERM_NUMBERS, Charge
from nimbus.subscriptions import SubscriptionFacts

COMPARED = {
    "net": "subtotal_minor",
    "tax": "tax_minor",
    "total": "total_minor",
    "credit": "credited_minor",
    "wallet": "wallet_minor",
}

WHERE = {"meter", "source"}
"""Of a coupon, what it is for; absent is everything."""


async def prove(session: AsyncSession, name: str) -> Report:
    """Recompute an invoice of any kind, by number or id, from raw facts; differences name what is
    other.

    A system session. Raises 404 for an unknown one, 422 on `invoice` where single events that it
    follows from are not kept any more.
    """
    invoice = await _invoice(session, name)
    subscription = await subscriptions.subscription_facts(session, invoice.subscription_id)
    await _refuse_retired(session, subscription)
    rows = await _runs(session, invoice)
    found = oracle.bills(await _facts(session, subscription, rows))
    mine = found[-1]
    differences = [
        {"invoice": invoice.number, "what": what, "proved": mine[what], "billed": billed}
        for what, column in COMPARED.items()
        if mine[what] != (billed := getattr(invoice, column))
    ]
    return Report(len({row.id for row in rows}), tuple(differences))


async def _refuse_retired(session: AsyncSession, subscription: SubscriptionFacts) -> None:
    """Raise 422 where a month in which the subscription ran was dropped."""
    gone = await session.scalar(
        text(
            "SELECT max(month) FROM usage_retired"
            " WHERE month > CAST(:started AS timestamptz) - interval '1 month'"
        ),
        {"started": subscription.started_at},
    )
    if gone is not None:
        said = f"The single events of {gone:%Y-%m} are not kept any more: it can't be recomputed."
        raise field_error("invoice", "events_gone", said)


async def _invoice(session: AsyncSession, name: str) -> Invoice:
    numbered = list(await session.scalars(queries.all_invoices(None, name)))
    if len(numbered) == 1:
        return numbered[0]
    try:
        return await queries.any_invoice(session, UUID(name))
    except ValueError:
        raise Refusal("not_found") from None


async def _runs(session: AsyncSession, invoice: Invoice) -> list[Any]:
    """Each time an invoice of the subscription was computed, up to the last time of this one: what
    was made before `made`, and stored by `stored` in the machine's time, it could know.
    """
    rows = await session.execute(
        text(
            """
            SELECT DISTINCT ON (o.created_at, i.id) o.id AS made, o.created_at AS stored, i.id,
                i.kind, i.period_starts_at, i.period_ends_at, i.credited_minor, i.wallet_minor,
                (SELECT max(t.rate) FROM invoice_taxes t
                    WHERE t.organization_id = i.organization_id AND t.invoice_id = i.id) AS rate,
                coalesce((SELECT jsonb_agg(jsonb_build_object('percent', c.percent::text,
                        'amount', c.amount_minor, 'meter', c.meter_key, 'source', c.plan_id)
                        ORDER BY r.id)
                    FROM invoice_lines l JOIN coupon_redemptions r ON r.id = l.sold_id
                    JOIN coupons c ON c.id = r.coupon_id
                    WHERE l.organization_id = i.organization_id AND l.invoice_id = i.id
                      AND l.text = 'coupon'), '[]')
                    AS coupons
            FROM invoices i JOIN outbox o ON o.organization_id = i.organization_id
                AND o.entity_id = i.id AND o.name IN ('invoice.drafted', 'invoice.finalized')
            WHERE i.organization_id = :organization_id
              AND i.subscription_id = :subscription_id AND i.status <> 'Cancelled'
            ORDER BY o.created_at, i.id, o.id DESC
            """
        ),
        {
            "organization_id": invoice.organization_id,
            "subscription_id": invoice.subscription_id,
        },
    )
    known = sorted(rows, key=lambda row: row.made)
    last = max(place for place, row in enumerate(known) if row.id == invoice.id)
    return known[: last + 1]


async def _facts(
    session: AsyncSession, subscription: SubscriptionFacts, rows: Sequence[Any]
) -> dict[str, Any]:
    version = (subscription.plan_version_id, subscription.currency)
    book = PriceBook()
    await book.read(session, [version])
    plan = book.prices[version].plan
    meters = await catalog.meter_facts(session, subscription.product_id)
    kinds = {key: meter.aggregation for key, meter in meters.items() if key != "api_calls"}
    terms = await _terms(session, subscription, book)
    ends = await histories.ends(session, subscription)
    items, gifts = await _items(session, subscription), await _gifts(session, subscription)
    runs = []
    for row in rows:
        run = _run(row)
        known = [one for one in terms if one[0] <= row.made]
        until = [*(one[1] for one in known[1:]), None]
        run["terms"] = [(a, b, sold) for (_, a, sold), b in zip(known, until, strict=True)]
        told = [end for made, end in ends if made <= row.made]
        # A bill in between sees its period as if the service ended then.
        run["ends_at"] = run["at"] if row.kind == "progress" else told[-1] if told else None
        run["one_off"] = [(source, minor) for made, source, minor in items if made <= row.made]
        run["gifts"] = _given(line for made, *line in gifts if made <= row.made)
        runs.append(run)
    return {
        "zone": subscription.time_zone,
        "anchor": subscription.anchor_at,
        "interval": plan.interval,
        "count": plan.interval_count,
        "calendar": plan.calendar_anchor,
        "digits": minor_digits(subscription.currency),
        "kinds": {key: kind for key, kind in kinds.items() if kind not in {"sum", "count"}},
        "events": await _events(session, subscription, kinds),
        "runs": runs,
    }


async def _terms(
    session: AsyncSession, subscription: SubscriptionFacts, book: PriceBook
) -> list[tuple[UUID, datetime, list[dict[str, Any]]]]:
    """(made, from, what was sold) of each row of the contract's terms."""
    rows = await histories.agreements(session, subscription.id)
    currency = subscription.currency
    await book.read(session, {(version, currency) for row in rows for version, _ in row.sold})
    found = []
    for row in rows:
        sold = [
            _item(book.prices[version, currency].terms, quantity) for version, quantity in row.sold
        ]
        found.append((row.made, row.effective_at, sold if row.served else []))
    return found


async def _items(
    session: AsyncSession, subscription: SubscriptionFacts
) -> list[tuple[UUID, str, int]]:
    rows = await session.execute(
        text("SELECT id, amount_minor FROM one_off_items WHERE subscription_id = :id ORDER BY id"),
        {"id": subscription.id},
    )
    return [(row.id, str(row.id), row.amount_minor) for row in rows]


async def _gifts(
    session: AsyncSession, subscription: SubscriptionFacts
) -> list[tuple[UUID, tuple[Any, ...], int]]:
    """(made, line, amount) of what credit notes gave back."""
    rows = await session.execute(
        text(
            "SELECT c.credit_note_id, l.text, l.sold_id, l.meter_key, l.starts_at, c.amount_minor"
            " FROM invoice_lines l JOIN credit_note_lines c"
            " ON c.organization_id = l.organization_id AND c.invoice_line_id = l.id"
            " WHERE l.organization_id = :organization_id AND l.subscription_id = :id"
        ),
        {"organization_id": subscription.organization_id, "id": subscription.id},
    )
    return [
        (row[0], (row.text, str(row.sold_id), row.meter_key, row.starts_at), row.amount_minor)
        for row in rows
    ]


def _given(lines: Iterable[Any]) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for line, minor in lines:
        found[line] = found.get(line, 0) + minor
    return found


def _item(terms: PlanTerms, quantity: int) -> dict[str, Any]:
    return {
        "source": str(terms.source),
        "fee": terms.base_fee_minor,
        "quantity": quantity,
        "timing": terms.timing,
        "proration": terms.proration,
        "commitment": terms.minimum_commitment_minor,
        "charges": [_charge(charge) for charge in terms.charges],
    }


def _charge(charge: Charge) -> dict[str, Any]:
    """The fields of spec 11 §10 that are not empty, decimals as texts."""
    said: dict[str, Any] = {"meter": charge.meter_key, "model": charge.model}
    for name in ("included", "unit_price", *TERM_NUMBERS):
        value = getattr(charge, name)
        if value:
            said[name] = plain(value)
    if charge.free_events is not None:
        said["free_events"] = charge.free_events
    if charge.tiers:
        said["tiers"] = [
            {
                "up_to": None if tier.up_to is None else plain(tier.up_to),
                **{
                    name: plain(value)
                    for name in ("unit_price", "flat_fee", "rate")
                    if (value := getattr(tier, name))
                },
            }
            for tier in charge.tiers
        ]
    return said


async def _events(
    session: AsyncSession, subscription: SubscriptionFacts, kinds: dict[str, str]
) -> list[tuple[datetime, datetime, str, str]]:
    """(at, stored at, meter, value) of each live event in order. The value is its quantity; its
    level; of a meter that counts, whether it counts; of one that tells values apart, which it is.
    """
    rows = await session.execute(
        text(
            "SELECT occurred_at, event_id, created_at, meter_key, quantity, calls, member::text"
            " FROM usage_measured WHERE organization_id = :organization_id"
            " AND subscription_id = :subscription_id AND environment = 'Live' AND billable"
            " AND meter_key <> ALL (:levels)"
            " UNION ALL SELECT occurred_at, event_id, created_at, meter_key, level, 0, NULL"
            " FROM usage_gauges WHERE organization_id = :organization_id"
            " AND subscription_id = :subscription_id"
            " ORDER BY occurred_at, event_id"
        ),
        {
            "organization_id": subscription.organization_id,
            "subscription_id": subscription.id,
            "levels": [key for key, kind in kinds.items() if kind == "time_weighted"],
        },
    )
    found = []
    for row in rows:
        kind = kinds.get(row.meter_key)
        value = plain(row.quantity)
        if kind == "count":
            value = str(row.calls)
        elif kind == "unique":
            value = row.member
        if value is not None:
            found.append((row.occurred_at, row.created_at, row.meter_key, value))
    return found


def _run(row: Any) -> dict[str, Any]:
    early = row.kind in {"start", "change"}
    return {
        "invoice": row.id,
        "kind": row.kind,
        "at": row.period_starts_at if early else row.period_ends_at,
        "since": row.period_starts_at if row.kind == "progress" else oracle.EVER,
        "stored": row.stored,
        "rate": None if row.rate is None else plain(row.rate),
        "credit": row.credited_minor,
        "wallet": row.wallet_minor,
        "coupons": [
            {name: value for name, value in one.items() if value is not None or name in WHERE}
            for one in row.coupons
        ],
    }
