# SPDX-License-Identifier: Apache-2.0
"""Sets of bills are written once: what an invoice is made of stands before it does."""

from importlib import import_module

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

BEFORE = {
    "invoice_taxes": "invoice_taxes_organization_id_invoice_id_fkey",
    "invoice_payment_states": "invoice_payment_states_organization_id_invoice_id_fkey",
    "billing_periods": "billing_periods_organization_id_invoice_id_fkey",
    "wallet_entries": "wallet_entries_organization_id_invoice_id_fkey",
}
"""Tables whose rows, beside the lines, may come before their invoice in its transaction."""


def upgrade() -> None:
    """Hold rows against their invoice when the transaction commits, and each fact by one key."""
    for table, constraint in BEFORE.items():
        op.execute(
            f"ALTER TABLE {table} ALTER CONSTRAINT {constraint} DEFERRABLE INITIALLY DEFERRED"
        )
    # A line is of the invoice, and of the subscription that the invoice is of.
    op.execute("ALTER TABLE invoices ADD UNIQUE (organization_id, id, subscription_id)")
    op.execute(
        "ALTER TABLE invoice_lines"
        " DROP CONSTRAINT invoice_lines_organization_id_invoice_id_fkey,"
        " DROP CONSTRAINT invoice_lines_organization_id_subscription_id_fkey,"
        " ADD FOREIGN KEY (organization_id, invoice_id, subscription_id)"
        " REFERENCES invoices (organization_id, id, subscription_id)"
        " DEFERRABLE INITIALLY DEFERRED"
    )
    # An invoice's subscription belongs to the organization, its product to the provider: these
    # keys hold both.
    op.execute(
        "ALTER TABLE invoices DROP CONSTRAINT invoices_organization_id_fkey,"
        " DROP CONSTRAINT invoices_provider_organization_id_fkey"
    )
    _parts()


def downgrade() -> None:
    """Hold each row at once, and by each of the keys."""
    op.execute("DROP FUNCTION usage_periods(uuid[], uuid[], timestamptz[], timestamptz[])")
    op.execute("DROP FUNCTION usage_parts(uuid[], uuid[], timestamptz[], timestamptz[])")
    bills = import_module("nimbus.migrations.versions.0020_bills")
    bills._usage_of_periods()  # noqa: SLF001 - the sum as that migration says it
    op.execute(
        "ALTER TABLE invoices ADD FOREIGN KEY (organization_id) REFERENCES organizations,"
        " ADD FOREIGN KEY (provider_organization_id) REFERENCES organizations"
    )
    op.execute(
        "ALTER TABLE invoice_lines"
        " DROP CONSTRAINT invoice_lines_organization_id_invoice_id_subscription_id_fkey,"
        " ADD FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id),"
        " ADD FOREIGN KEY (organization_id, subscription_id)"
        " REFERENCES subscriptions (organization_id, id)"
    )
    op.execute(
        "ALTER TABLE invoices DROP CONSTRAINT invoices_organization_id_id_subscription_id_key"
    )
    for table, constraint in BEFORE.items():
        op.execute(f"ALTER TABLE {table} ALTER CONSTRAINT {constraint} NOT DEFERRABLE")


def _parts() -> None:
    # What `usage_periods` adds up, row by row: whoever needs no last value has it added up without
    # sorting it.
    op.execute("DROP FUNCTION usage_periods(uuid[], uuid[], timestamptz[], timestamptz[])")
    op.execute(
        """CREATE FUNCTION usage_parts(organizations uuid[], subscriptions uuid[],
            starts timestamptz[], ends timestamptz[])
        RETURNS TABLE (place bigint, meter_key text, events bigint, total numeric, peak numeric,
            last numeric, last_at timestamptz, last_event_id uuid)
        LANGUAGE sql STABLE AS $$
            WITH asked AS MATERIALIZED (
                SELECT a.*, h.*,
                       least(h.hours_to, date_bin('1 day',
                           h.hours_from + interval '1 day - 1 microsecond', 'epoch')) AS days_from,
                       greatest(date_bin('1 day', h.hours_to, 'epoch'), least(h.hours_to,
                           date_bin('1 day', h.hours_from + interval '1 day - 1 microsecond',
                               'epoch'))) AS days_to
                FROM unnest(organizations, subscriptions, starts, ends) WITH ORDINALITY
                    AS a (organization, subscription, since, until, place),
                LATERAL (SELECT least(a.until, date_bin('1 hour',
                        a.since + interval '1 hour - 1 microsecond', 'epoch')) AS hours_from,
                    greatest(date_bin('1 hour', a.until, 'epoch'), least(a.until,
                        date_bin('1 hour', a.since + interval '1 hour - 1 microsecond',
                            'epoch'))) AS hours_to) h)
            SELECT a.place, d.meter_key, d.events, d.quantity_sum, d.quantity_max,
                   d.quantity_last, d.last_at, d.last_event_id
            FROM asked a JOIN usage_days d ON d.organization_id = a.organization
                AND d.subscription_id = a.subscription AND d.environment = 'Live'
                AND d.day >= (a.days_from AT TIME ZONE 'UTC')::date
                AND d.day < (a.days_to AT TIME ZONE 'UTC')::date
            WHERE a.days_from < a.days_to
            UNION ALL
            SELECT a.place, h.meter_key, h.events, h.quantity_sum, h.quantity_max,
                   h.quantity_last, h.last_at, h.last_event_id
            FROM asked a CROSS JOIN LATERAL (VALUES (a.hours_from, a.days_from),
                (a.days_to, a.hours_to)) AS edge (since, until)
            JOIN usage_hours h ON h.subscription_id = a.subscription
                AND h.environment = 'Live' AND h.hour >= edge.since AND h.hour < edge.until
            WHERE edge.since < edge.until
            UNION ALL
            SELECT a.place, m.meter_key, m.calls, m.quantity, m.quantity, m.quantity,
                   m.occurred_at, m.event_id
            FROM asked a CROSS JOIN LATERAL (VALUES (a.since, a.hours_from),
                (a.hours_to, a.until)) AS edge (since, until)
            JOIN usage_measured m ON m.subscription_id = a.subscription
                AND m.environment = 'Live'
                AND m.occurred_at >= edge.since AND m.occurred_at < edge.until
            WHERE edge.since < edge.until
        $$"""
    )
    op.execute(
        """CREATE FUNCTION usage_periods(organizations uuid[], subscriptions uuid[],
            starts timestamptz[], ends timestamptz[])
        RETURNS TABLE (place bigint, meter_key text, events bigint, total numeric, peak numeric,
            last numeric, last_at timestamptz, last_event_id uuid)
        LANGUAGE sql STABLE AS $$
            SELECT p.place, p.meter_key, sum(p.events)::bigint, sum(p.total), max(p.peak),
                   (array_agg(p.last ORDER BY p.last_at DESC, p.last_event_id DESC))[1],
                   max(p.last_at),
                   (array_agg(p.last_event_id ORDER BY p.last_at DESC, p.last_event_id DESC))[1]
            FROM usage_parts(organizations, subscriptions, starts, ends) p
            GROUP BY p.place, p.meter_key
        $$"""
    )
