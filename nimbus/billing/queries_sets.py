# SPDX-License-Identifier: Apache-2.0
"""Billing's reads for many subscriptions at once: one statement for each kind of fact."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.db import array_of, json_of
from nimbus.billing.models import BilledLine, OpenCoupon, OpenItem

Scope = tuple[UUID, UUID, datetime]
"""(organization, subscription, since)"""
Row = TypeVar("Row")


async def closed_periods(session: AsyncSession, scopes: Sequence[Scope]) -> Sequence[Any]:
    """The closed periods of each subscription that ended after its instant, oldest first."""
    if not scopes:
        return []
    statement = text(
        """SELECT p.subscription_id, p.plan_version_id, p.anchor_at, p.time_zone, p.number,
                p.starts_at, p.ends_at
            FROM unnest(CAST(:organizations AS uuid[]), CAST(:subscriptions AS uuid[]),
                CAST(:since AS timestamptz[])) AS a (organization_id, subscription_id, since)
            JOIN billing_periods p ON p.organization_id = a.organization_id
                AND p.subscription_id = a.subscription_id AND p.ends_at > a.since
            ORDER BY p.starts_at"""
    )
    return (await session.execute(statement, _arrays(scopes))).all()


async def last_ends(session: AsyncSession, scopes: Sequence[Scope]) -> dict[UUID, datetime]:
    """When the latest closed period of each subscription ended."""
    statement = text(
        """SELECT a.subscription_id, l.ends_at
            FROM unnest(CAST(:organizations AS uuid[]), CAST(:subscriptions AS uuid[]),
                CAST(:since AS timestamptz[])) AS a (organization_id, subscription_id, since)
            CROSS JOIN LATERAL (
            SELECT p.ends_at FROM billing_periods p
            WHERE p.organization_id = a.organization_id AND p.subscription_id = a.subscription_id
            ORDER BY p.ends_at DESC LIMIT 1) l"""
    )
    rows = await session.execute(statement, _arrays(scopes))
    return {row.subscription_id: row.ends_at for row in rows}


async def billed_lines(
    session: AsyncSession, scopes: Sequence[Scope]
) -> dict[UUID, list[BilledLine]]:
    """What invoices, drafts too, say of each subscription's times from its instant on; coupons
    left out. By subscription.
    """
    statement = text(
        """SELECT l.subscription_id, l.invoice_id, l.kind, l.meter_key, l.text, l.quantity,
                l.unit_price, l.amount_minor, l.starts_at, l.ends_at, l.sold_id,
                coalesce((SELECT sum(c.amount_minor) FROM credit_note_lines c
                    WHERE c.organization_id = l.organization_id AND c.invoice_line_id = l.id),
                    0)::bigint AS credited_minor
            FROM unnest(CAST(:organizations AS uuid[]), CAST(:subscriptions AS uuid[]),
                CAST(:since AS timestamptz[])) AS a (organization_id, subscription_id, since)
            JOIN invoice_lines l ON l.organization_id = a.organization_id
                AND l.subscription_id = a.subscription_id AND l.starts_at >= a.since
            JOIN invoices i ON i.organization_id = l.organization_id AND i.id = l.invoice_id
            WHERE i.status <> 'Cancelled' AND l.text <> 'coupon' ORDER BY l.id"""
    )
    return _by_subscription(await session.execute(statement, _arrays(scopes)), BilledLine)


async def usual_totals(session: AsyncSession, scopes: Sequence[Scope]) -> dict[UUID, int]:
    """The median total of each subscription's latest dozen invoices of whole periods, in minor
    units.
    """
    statement = text(
        """SELECT a.subscription_id, u.usual
            FROM unnest(CAST(:organizations AS uuid[]), CAST(:subscriptions AS uuid[]),
                CAST(:since AS timestamptz[])) AS a (organization_id, subscription_id, since)
            CROSS JOIN LATERAL (
            SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY total_minor) AS usual FROM (
                SELECT i.total_minor FROM invoices i
                WHERE i.subscription_id = a.subscription_id AND i.status = 'Sent'
                  AND i.kind NOT IN ('progress', 'change')
                ORDER BY i.finalized_at DESC LIMIT 12) latest) u
            WHERE u.usual IS NOT NULL"""
    )
    rows = await session.execute(statement, _arrays(scopes))
    return {row.subscription_id: row.usual for row in rows}


async def open_items(
    session: AsyncSession, subscription_ids: Collection[UUID], but: Collection[UUID]
) -> dict[UUID, list[OpenItem]]:
    """The one-off items on no invoice but those in `but`, in the order they were made."""
    statement = text(
        """SELECT t.subscription_id, t.id, t.description, t.amount_minor, t.currency, t.created_at
        FROM one_off_items t
        WHERE t.subscription_id = ANY (CAST(:ids AS uuid[])) AND NOT EXISTS (
            SELECT FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
            WHERE l.organization_id = t.organization_id AND l.subscription_id = t.subscription_id
              AND l.sold_id = t.id AND i.status <> 'Cancelled'
              AND i.id <> ALL (CAST(:but AS uuid[])))
        ORDER BY t.id"""
    )
    values = {"ids": array_of(subscription_ids), "but": array_of(but)}
    return _by_subscription(await session.execute(statement, values), OpenItem)


async def open_coupons(
    session: AsyncSession, subscription_ids: Collection[UUID], but: Collection[UUID]
) -> dict[UUID, list[OpenCoupon]]:
    """The coupons of subscriptions that were not used up on other invoices, the oldest first."""
    statement = text(
        """SELECT r.subscription_id, r.id, c.name, c.percent, c.amount_minor, c.currency,
               c.plan_id, c.meter_key
        FROM coupon_redemptions r JOIN coupons c
            ON c.organization_id = r.coupon_organization_id AND c.id = r.coupon_id
        WHERE r.subscription_id = ANY (CAST(:ids AS uuid[])) AND (c.times IS NULL OR c.times > (
            SELECT count(*) FROM coupon_uses u WHERE u.organization_id = r.organization_id
              AND u.redemption_id = r.id AND u.invoice_id <> ALL (CAST(:but AS uuid[]))))
        ORDER BY r.id"""
    )
    values = {"ids": array_of(subscription_ids), "but": array_of(but)}
    return _by_subscription(await session.execute(statement, values), OpenCoupon)


async def open_money(
    session: AsyncSession, organization_ids: Collection[UUID], as_of: datetime
) -> dict[tuple[UUID, str], tuple[int, int]]:
    """(organization, currency) → what is left of credit notes' credit, and of the wallet."""
    statement = text(
        """SELECT w.organization_id, w.currency,
            coalesce(sum(w.left_minor) FILTER (WHERE w.kind = 'credit_note'), 0)::bigint AS credit,
            coalesce(sum(w.left_minor) FILTER (WHERE w.kind <> 'credit_note'), 0)::bigint AS wallet
        FROM wallet_left w
        WHERE w.organization_id = ANY (CAST(:ids AS uuid[]))
          AND (w.expires_at IS NULL OR w.expires_at > :as_of)
        GROUP BY w.organization_id, w.currency"""
    )
    values = {"ids": array_of(organization_ids), "as_of": as_of}
    return {
        (row.organization_id, row.currency): (row.credit, row.wallet)
        for row in await session.execute(statement, values)
    }


async def send(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set drafts to what their rows say: sent, with number, seller and days."""
    if rows:
        body = json_of([{name: row[name] for name in _SENT} for row in rows])
        await session.execute(_SEND, {"rows": body})


_SENT = (
    "id", "status", "supply_from", "supply_to", "seller_organization_id", "seller_id", "seller",
    "issued_on", "due_on", "number", "payment_reference", "finalized_at", "updated_at",
    "parked_reason", "credited_minor", "wallet_minor",
)  # fmt: skip
_SEND = text(
    """
    UPDATE invoices i SET status = s.status, supply_from = s.supply_from, supply_to = s.supply_to,
        seller_organization_id = s.seller_organization_id, seller_id = s.seller_id,
        seller = s.seller, issued_on = s.issued_on, due_on = s.due_on, number = s.number,
        payment_reference = s.payment_reference, finalized_at = s.finalized_at,
        updated_at = s.updated_at, parked_reason = s.parked_reason,
        credited_minor = s.credited_minor, wallet_minor = s.wallet_minor
    FROM jsonb_populate_recordset(NULL::invoices, CAST(:rows AS jsonb)) s WHERE i.id = s.id
    """
)


def _arrays(scopes: Iterable[Scope]) -> dict[str, str]:
    organizations, subscriptions, since = zip(*scopes, strict=True)
    return {
        "organizations": array_of(organizations),
        "subscriptions": array_of(subscriptions),
        "since": array_of(since),
    }


def _by_subscription(rows: Any, kind: type[Row]) -> dict[UUID, list[Row]]:
    found: dict[UUID, list[Row]] = {}
    for row in rows:
        values = dict(row._mapping)  # noqa: SLF001 - the public name of a row as a mapping
        found.setdefault(values.pop("subscription_id"), []).append(kind(**values))
    return found
