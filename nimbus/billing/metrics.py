# SPDX-License-Identifier: Apache-2.0
"""How billing stands, for Prometheus."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, metrics

STATES = ("Pending", "Paid", "Failed", "Overdue")


@metrics.gauge("nimbus_billing_invoices", "Sent invoices by the state of their payment.", "payment")
async def _payments(session: AsyncSession) -> metrics.Samples:
    rows = await session.execute(
        text(
            """
            SELECT CASE WHEN p.state = 'Pending' AND i.due_on < CAST(:now AS timestamptz)::date
                   THEN 'Overdue' ELSE p.state END AS state, count(*) AS invoices
            FROM invoice_payment_states p JOIN invoices i ON i.id = p.invoice_id
            WHERE i.status = 'Sent' GROUP BY 1
            """
        ),
        {"now": clock.now()},
    )
    found: dict[str, int] = {row.state: row.invoices for row in rows}
    return [((state,), found.get(state, 0)) for state in sorted({*STATES, *found})]


@metrics.gauge("nimbus_billing_invoices_parked", "Drafts that a person has to look at first.")
async def _parked(session: AsyncSession) -> metrics.Samples:
    counted = "SELECT count(*) FROM invoices WHERE status = 'Draft' AND parked_reason IS NOT NULL"
    return [((), await session.scalar(text(counted)) or 0)]


@metrics.gauge("nimbus_billing_overdue_seconds", "How late the period is that was to be billed.")
async def _late(session: AsyncSession) -> metrics.Samples:
    late = await session.scalar(
        text(
            "SELECT extract(epoch FROM CAST(:now AS timestamptz) - min(next_billing_at))"
            " FROM subscriptions"
            " WHERE next_billing_at <= :now AND status <> 'Suspended'"
        ),
        {"now": clock.now()},
    )
    return [((), late or 0)]
