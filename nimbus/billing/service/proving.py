# SPDX-License-Identifier: Apache-2.0
"""Proving an invoice: its facts are gathered raw, event by event, and a second reading of the law
(`billing.oracle`) recomputes it and all before it.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base.proofs import Report
from nimbus.billing import oracle, queries
from nimbus.billing.models import Invoice
from nimbus.billing.service.prices import PriceBook
from nimbus.billing.service.reading import AHEAD
from nimbus.billing.texts import plain
from nimbus.errors import Refusal, field_error
from nimbus.rules.contracts import PlanTerms
from nimbus.rules.money import minor_digits
from nimbus.rules.periods import Period
from nimbus.rules.pricing import TERM_NUMBERS, Charge
from nimbus.subscriptions import SubscriptionFacts

COMPARED = {
    "net": "subtotal_minor",
    "tax": "tax_minor",
    "total": "total_minor",
    "credit": "credited_minor",
    "wallet": "wallet_minor",
}
KNOWN = frozenset({"sum", "count", "max"})
"""Aggregations that the oracle can make from single events."""


async def prove(session: AsyncSession, name: str) -> Report:
    """Recompute an invoice, by number or id, from raw facts; differences name what is other.

    A system session. Raises 404 for an unknown one, 422 on `invoice` for what the oracle does not
    know: a bill in between, or a charge on a meter of another kind than sum, count and max.
    """
    invoice = await _invoice(session, name)
    if invoice.kind not in {"start", "period"}:
        raise field_error("invoice", "unknown_kind", "A bill in between can't be proved alone.")
    subscription = await subscriptions.subscription_facts(session, invoice.subscription_id)
    rows = await _runs(session, invoice)
    found = oracle.bills(await _facts(session, subscription, rows))
    mine = found[-1]
    differences = [
        {"invoice": invoice.number, "what": what, "proved": mine[what], "billed": billed}
        for what, column in COMPARED.items()
        if mine[what] != (billed := getattr(invoice, column))
    ]
    return Report(len(rows), tuple(differences))


async def _invoice(session: AsyncSession, name: str) -> Invoice:
    numbered = list(await session.scalars(queries.all_invoices(None, name)))
    if len(numbered) == 1:
        return numbered[0]
    try:
        return await queries.any_invoice(session, UUID(name))
    except ValueError:
        raise Refusal("not_found") from None


async def _runs(session: AsyncSession, invoice: Invoice) -> list[Any]:
    """The invoices of the subscription up to this one, each with when it was computed last, in the
    machine's time: what was stored by then it could know.
    """
    rows = await session.execute(
        text(
            """
            SELECT i.id, i.kind, i.period_starts_at, i.period_ends_at, i.credited_minor,
                i.wallet_minor, (SELECT max(t.rate) FROM invoice_taxes t
                    WHERE t.organization_id = i.organization_id AND t.invoice_id = i.id) AS rate,
                (SELECT max(o.created_at) FROM outbox o WHERE o.organization_id = i.organization_id
                    AND o.entity_id = i.id AND o.name IN ('invoice.drafted', 'invoice.finalized'))
                    AS known,
                coalesce((SELECT jsonb_agg(jsonb_build_object('percent', c.percent::text,
                        'amount', c.amount_minor, 'meter', c.meter_key) ORDER BY r.id)
                    FROM coupon_uses u JOIN coupon_redemptions r ON r.id = u.redemption_id
                    JOIN coupons c ON c.id = r.coupon_id
                    WHERE u.organization_id = i.organization_id AND u.invoice_id = i.id), '[]')
                    AS coupons
            FROM invoices i WHERE i.organization_id = :organization_id
              AND i.subscription_id = :subscription_id AND i.status <> 'Cancelled'
              AND i.kind IN ('start', 'period') AND i.id <= :id
            ORDER BY i.id
            """
        ),
        {
            "organization_id": invoice.organization_id,
            "subscription_id": invoice.subscription_id,
            "id": invoice.id,
        },
    )
    return list(rows)


async def _facts(
    session: AsyncSession, subscription: SubscriptionFacts, rows: list[Any]
) -> dict[str, Any]:
    until = max(row.period_ends_at for row in rows) + AHEAD
    span = Period(subscription.started_at, until)
    parts = await subscriptions.terms_between(session, subscription.id, span)
    book, currency = PriceBook(), subscription.currency
    wanted = {(part.plan_version_id, currency) for part in parts}
    wanted |= {(taken.plan_version_id, currency) for part in parts for taken in part.add_ons}
    await book.read(session, wanted)
    plan = book.prices[subscription.plan_version_id, currency].plan
    meters = await catalog.meter_facts(session, subscription.product_id)
    kinds = {key: meter.aggregation for key, meter in meters.items()}
    terms = [
        {
            "from": part.period.starts_at,
            "to": None if part.period.ends_at >= until else part.period.ends_at,
            "items": [
                _item(book.prices[part.plan_version_id, currency].terms, 1, kinds),
                *(
                    _item(book.prices[taken.plan_version_id, currency].terms, taken.quantity, kinds)
                    for taken in part.add_ons
                ),
            ],
        }
        for part in parts
        if part.served
    ]
    return {
        "zone": subscription.time_zone,
        "anchor": subscription.anchor_at,
        "interval": plan.interval,
        "count": plan.interval_count,
        "calendar": plan.calendar_anchor,
        "ends_at": subscription.ends_at,
        "digits": minor_digits(currency),
        "peaks": {key for key, kind in kinds.items() if kind == "max" and key != "api_calls"},
        "terms": terms,
        "events": await _events(session, subscription, kinds),
        "one_off": await _items(session, subscription),
        "runs": [_run(row) for row in rows],
    }


def _item(terms: PlanTerms, quantity: int, kinds: dict[str, str]) -> dict[str, Any]:
    for charge in terms.charges:
        if charge.meter_key != "api_calls" and kinds.get(charge.meter_key, "sum") not in KNOWN:
            text_ = f"The oracle can't count {charge.meter_key} from single events."
            raise field_error("invoice", "unknown_meter", text_)
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
    """(at, stored at, meter, value) of each live event; one that is counted counts as 1."""
    rows = await session.execute(
        text(
            "SELECT occurred_at, created_at, meter_key, quantity FROM usage_measured"
            " WHERE organization_id = :organization_id AND subscription_id = :subscription_id"
            " AND environment = 'Live' AND billable ORDER BY occurred_at, event_id"
        ),
        {"organization_id": subscription.organization_id, "subscription_id": subscription.id},
    )
    found = []
    for row in rows:
        counted = kinds.get(row.meter_key) == "count" and row.meter_key != "api_calls"
        value = "1" if counted else plain(row.quantity)
        found.append((row.occurred_at, row.created_at, row.meter_key, value))
    return found


async def _items(
    session: AsyncSession, subscription: SubscriptionFacts
) -> list[tuple[datetime, int]]:
    rows = await session.execute(
        text("SELECT created_at, amount_minor FROM one_off_items WHERE subscription_id = :id"),
        {"id": subscription.id},
    )
    return [(row.created_at, row.amount_minor) for row in rows]


def _run(row: Any) -> dict[str, Any]:
    return {
        "at": row.period_starts_at if row.kind == "start" else row.period_ends_at,
        "known": row.known,
        "rate": None if row.rate is None else plain(row.rate),
        "credit": row.credited_minor,
        "wallet": row.wallet_minor,
        "coupons": [
            {name: value for name, value in one.items() if value is not None or name == "meter"}
            for one in row.coupons
        ],
    }
