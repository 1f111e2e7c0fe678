# SPDX-License-Identifier: Apache-2.0
"""Bills in sets: chains, numbers and triggers that cost the same for one row and for thousands."""

from importlib import import_module

from alembic import op

from nimbus.migrations.tenancy import definer_function

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

AUDIT = "audit_append(uuid[], uuid[], text[])"
LEDGER = "ledger_append(jsonb)"
ACCOUNTS = (
    "('receivable', 'revenue', 'vat_payable', 'customer_balance', 'refunds', 'write_offs',"
    " 'expired_credit', 'cash:manual', 'cash:bank', 'cash:sepa', 'cash:stripe', 'cash:mollie')"
)
LINE_TEXTS = "('base_fee', 'usage', 'minimum', 'maximum', 'minimum_commitment', 'item', 'coupon')"


def upgrade() -> None:
    """Make what a bill run writes cheap by the thousand."""
    _audit_append()
    _ledger_append()
    _numbers()
    _parts_by_statement()
    _invoices()


def downgrade() -> None:
    """Put back what was before."""
    op.execute("DROP FUNCTION usage_periods(uuid[], uuid[], timestamptz[], timestamptz[])")
    op.execute("DROP INDEX ix_invoices_subscription")
    op.execute("DROP INDEX uq_invoices_closing")
    op.execute(
        "ALTER TABLE invoices ADD UNIQUE (organization_id, subscription_id, period_starts_at, kind)"
    )
    op.execute("ALTER TABLE invoices DROP COLUMN credited_minor, DROP COLUMN wallet_minor")
    op.execute("ALTER TABLE billing_periods DROP COLUMN unused")
    op.execute("ALTER TABLE subscriptions DROP COLUMN parked_reason")
    _invoice_kinds("('start', 'period')")
    _line_texts("('base_fee', 'usage')")
    op.execute("ALTER TABLE invoice_lines DROP COLUMN sold_id, DROP COLUMN discount_minor")
    billing = import_module("nimbus.migrations.versions.0008_billing")
    for table in ("invoice_lines", "invoice_taxes"):
        op.execute(f"DROP TRIGGER keep ON {table}")
        op.execute(f"DROP TRIGGER keep_removed ON {table}")
    op.execute("DROP FUNCTION invoice_part_keep()")
    billing.keep_parts()
    for trigger in ("follows", "is_used"):
        op.execute(f"DROP TRIGGER {trigger} ON number_series")
    op.execute("DROP FUNCTION number_follows(), number_is_used()")
    op.execute("ALTER TABLE number_series DROP CONSTRAINT number_series_series_check")
    op.execute("ALTER TABLE number_series ADD CHECK (series = 'INV')")
    billing.keep_numbers()
    op.execute(f"DROP FUNCTION {LEDGER}")
    import_module("nimbus.migrations.versions.0004_ledger").make_append()
    _accounts(import_module("nimbus.migrations.versions.0012_money").ACCOUNTS)
    op.execute(f"DROP FUNCTION {AUDIT}")
    import_module("nimbus.migrations.versions.0001_ground").make_audit_append()


def _audit_append() -> None:
    # The rows of one organization come together: its head is read and moved once.
    op.execute("DROP FUNCTION audit_append(uuid, uuid, text)")
    op.execute(
        """CREATE FUNCTION audit_append(ids uuid[], organizations uuid[], contents text[])
        RETURNS void LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE
            head audit_heads;
            item record;
            sequences bigint[] := '{}';
            hashes bytea[] := '{}';
        BEGIN
            IF session_user = 'nimbus_app' AND EXISTS (
                SELECT FROM unnest(organizations) o
                WHERE o <> current_setting('nimbus.organization_id')::uuid
                  AND o <> '00000000-0000-0000-0000-000000000000') THEN
                RAISE EXCEPTION 'an audit row of another organization' USING ERRCODE = '42501';
            END IF;
            INSERT INTO audit_heads (organization_id, sequence, hash)
                SELECT o, 0, sha256(uuid_send(o)) FROM unnest(organizations) o
                GROUP BY o ORDER BY o ON CONFLICT DO NOTHING;
            FOR item IN SELECT * FROM unnest(organizations, contents) WITH ORDINALITY
                AS t (organization, content, position) ORDER BY position
            LOOP
                IF head.organization_id IS DISTINCT FROM item.organization THEN
                    UPDATE audit_heads SET sequence = head.sequence, hash = head.hash
                        WHERE organization_id = head.organization_id;
                    SELECT * INTO head FROM audit_heads
                        WHERE organization_id = item.organization FOR UPDATE;
                END IF;
                head.sequence := head.sequence + 1;
                head.hash := sha256(
                    head.hash || int8send(head.sequence) || convert_to(item.content, 'UTF8'));
                sequences[item.position] := head.sequence;
                hashes[item.position] := head.hash;
            END LOOP;
            UPDATE audit_heads SET sequence = head.sequence, hash = head.hash
                WHERE organization_id = head.organization_id;
            INSERT INTO audit_log (id, organization_id, sequence, action, entity_type, entity_id,
                                   user_id, at, body, hash)
                SELECT r.id, r.organization, r.sequence, f ->> 'action', f ->> 'entity_type',
                       (f ->> 'entity_id')::uuid, (f ->> 'user_id')::uuid,
                       (f ->> 'at')::timestamptz, r.content, r.hash
                FROM unnest(ids, organizations, sequences, contents, hashes)
                    AS r (id, organization, sequence, content, hash),
                    LATERAL (SELECT r.content::jsonb AS f OFFSET 0) parsed;
        END $$"""
    )
    definer_function(AUDIT, "nimbus_app, nimbus_system")


def _ledger_append() -> None:
    # Each leg is a transfer's columns; those of one organization come together, as above.
    op.execute("DROP FUNCTION ledger_append(uuid, text, uuid, timestamptz, jsonb)")
    op.execute(
        """CREATE FUNCTION ledger_append(legs jsonb) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE
            head ledger_heads;
            entry ledger_transfers;
            entries ledger_transfers[] := '{}';
        BEGIN
            INSERT INTO ledger_heads (organization_id, sequence, hash)
                SELECT o, 0, sha256(uuid_send(o)) FROM (
                    SELECT DISTINCT (leg ->> 'organization_id')::uuid AS o
                    FROM jsonb_array_elements(legs) leg ORDER BY 1) asked
                ON CONFLICT DO NOTHING;
            FOR entry IN SELECT * FROM jsonb_populate_recordset(NULL::ledger_transfers, legs)
            LOOP
                IF head.organization_id IS DISTINCT FROM entry.organization_id THEN
                    UPDATE ledger_heads SET sequence = head.sequence, hash = head.hash
                        WHERE organization_id = head.organization_id;
                    SELECT * INTO head FROM ledger_heads
                        WHERE organization_id = entry.organization_id FOR UPDATE;
                END IF;
                entry.sequence := head.sequence + 1;
                entry.created_at := now();
                entry.hash := ledger_hash(head.hash, entry);
                entries := entries || entry;
                head.sequence := entry.sequence;
                head.hash := entry.hash;
            END LOOP;
            UPDATE ledger_heads SET sequence = head.sequence, hash = head.hash
                WHERE organization_id = head.organization_id;
            INSERT INTO ledger_transfers SELECT e.* FROM unnest(entries) e;
        END $$"""
    )
    definer_function(LEDGER, "nimbus_system")
    _accounts(ACCOUNTS)


def _accounts(names: str) -> None:
    for side in ("debit_account", "credit_account"):
        constraint = f"ledger_transfers_{side}_check"
        op.execute(f"ALTER TABLE ledger_transfers DROP CONSTRAINT {constraint}")
        op.execute(
            f"ALTER TABLE ledger_transfers ADD CONSTRAINT {constraint} CHECK ({side} IN {names})"
        )


def _numbers() -> None:
    """A series counts up by blocks, and each number of a block is a document at the commit."""
    for trigger in ("follows", "is_used"):
        op.execute(f"DROP TRIGGER {trigger} ON number_series")
    op.execute("DROP FUNCTION number_follows(), number_is_used()")
    op.execute("ALTER TABLE number_series DROP CONSTRAINT number_series_series_check")
    op.execute("ALTER TABLE number_series ADD CHECK (series IN ('INV', 'CN'))")
    op.execute(
        """CREATE FUNCTION number_follows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.last_number <= OLD.last_number THEN
                RAISE EXCEPTION 'numbers follow each other' USING ERRCODE = 'check_violation';
            END IF;
            RETURN NEW;
        END $$"""
    )
    op.execute(
        "CREATE TRIGGER follows BEFORE UPDATE ON number_series"
        " FOR EACH ROW EXECUTE FUNCTION number_follows()"
    )
    op.execute(
        """CREATE FUNCTION number_is_used() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            before bigint := CASE TG_OP WHEN 'UPDATE' THEN OLD.last_number ELSE 0 END;
            given text[] := array(
                SELECT concat_ws('-', NEW.series, NEW.year,
                    lpad(n::text, greatest(6, length(n::text)), '0'))
                FROM generate_series(before + 1, NEW.last_number) n);
            used bigint;
        BEGIN
            IF NEW.series = 'INV' THEN
                SELECT count(*) INTO used FROM invoices
                    WHERE seller_organization_id = NEW.organization_id
                      AND seller_id = NEW.seller_id AND number = ANY (given);
            ELSE
                SELECT count(*) INTO used FROM credit_notes
                    WHERE seller_organization_id = NEW.organization_id
                      AND seller_id = NEW.seller_id AND number = ANY (given);
            END IF;
            IF used <> cardinality(given) THEN
                RAISE EXCEPTION 'a number without a document' USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END $$"""
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER is_used AFTER INSERT OR UPDATE ON number_series"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION number_is_used()"
    )


def _parts_by_statement() -> None:
    """Lines and taxes are held against their invoices once a statement, not once a row."""
    for table in ("invoice_lines", "invoice_taxes"):
        op.execute(f"DROP TRIGGER keep ON {table}")
    op.execute("DROP FUNCTION invoice_part_keep()")
    # The share lock makes a line and a finalization at the same moment wait for each other.
    op.execute(
        """CREATE FUNCTION invoice_part_keep() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE kept boolean;
        BEGIN
            SELECT bool_or(held.status <> 'Draft') INTO kept FROM (
                SELECT i.status FROM invoices i
                WHERE i.id IN (SELECT p.invoice_id FROM parts p) ORDER BY i.id FOR SHARE) held;
            IF kept THEN
                RAISE EXCEPTION 'a finalized invoice never changes'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NULL;
        END $$"""
    )
    for table in ("invoice_lines", "invoice_taxes"):
        for name, verb, rows in (("keep", "INSERT", "NEW"), ("keep_removed", "DELETE", "OLD")):
            op.execute(
                f"CREATE TRIGGER {name} AFTER {verb} ON {table} REFERENCING {rows} TABLE AS parts"
                " FOR EACH STATEMENT EXECUTE FUNCTION invoice_part_keep()"
            )


def _invoices() -> None:
    # What earlier credit and the wallet took off the total; the rest is due.
    op.execute(
        "ALTER TABLE invoices"
        " ADD COLUMN credited_minor bigint NOT NULL DEFAULT 0 CHECK (credited_minor >= 0),"
        " ADD COLUMN wallet_minor bigint NOT NULL DEFAULT 0 CHECK (wallet_minor >= 0),"
        " ADD CONSTRAINT ck_invoices_taken"
        " CHECK (credited_minor + wallet_minor <= greatest(total_minor, 0))"
    )
    # Once a period and kind; of progressive invoices a period may have several.
    op.execute(
        "ALTER TABLE invoices"
        " DROP CONSTRAINT invoices_organization_id_subscription_id_period_starts_at_k_key"
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_invoices_closing ON invoices"
        " (organization_id, subscription_id, period_starts_at, kind)"
        " WHERE kind NOT IN ('progress', 'change')"
    )
    op.execute("CREATE INDEX ix_invoices_subscription ON invoices (subscription_id, finalized_at)")
    _invoice_kinds("('start', 'period', 'progress', 'change')")
    # What was bought: a plan, an add-on, an item; beside the subscription it was bought under.
    # `discount_minor`: what coupons take off the line, which stands in lines of their own.
    op.execute(
        "ALTER TABLE invoice_lines ADD COLUMN sold_id uuid,"
        " ADD COLUMN discount_minor bigint NOT NULL DEFAULT 0"
    )
    op.execute("ALTER TABLE invoice_lines DISABLE TRIGGER no_change")
    op.execute(
        "UPDATE invoice_lines l SET sold_id = v.plan_id FROM invoices i"
        " JOIN plan_versions v ON v.id = i.plan_version_id WHERE i.id = l.invoice_id"
    )
    op.execute("ALTER TABLE invoice_lines ENABLE TRIGGER no_change")
    _line_texts(LINE_TEXTS)
    op.execute("ALTER TABLE billing_periods ADD COLUMN unused boolean NOT NULL DEFAULT false")
    # Why a person has to look before this subscription is billed again.
    op.execute("ALTER TABLE subscriptions ADD COLUMN parked_reason text")
    _usage_of_periods()


def _invoice_kinds(kinds: str) -> None:
    op.execute("ALTER TABLE invoices DROP CONSTRAINT invoices_kind_check")
    op.execute(f"ALTER TABLE invoices ADD CHECK (kind IN {kinds})")


def _line_texts(texts: str) -> None:
    op.execute("ALTER TABLE invoice_lines DROP CONSTRAINT invoice_lines_text_check")
    op.execute(f"ALTER TABLE invoice_lines ADD CHECK (text IN {texts})")


def _usage_of_periods() -> None:
    # `usage_period` of many subscriptions at once, without `special`: whole days from the daily
    # roll-up, whole hours beside them from the hourly one, what is left from the events.
    op.execute(
        """CREATE FUNCTION usage_periods(organizations uuid[], subscriptions uuid[],
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
                            'epoch'))) AS hours_to) h),
            parts AS (
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
                WHERE edge.since < edge.until)
            SELECT p.place, p.meter_key, sum(p.events)::bigint, sum(p.quantity_sum),
                   max(p.quantity_max),
                   (array_agg(p.quantity_last ORDER BY p.last_at DESC, p.last_event_id DESC))[1],
                   max(p.last_at),
                   (array_agg(p.last_event_id ORDER BY p.last_at DESC, p.last_event_id DESC))[1]
            FROM parts p GROUP BY p.place, p.meter_key
        $$"""
    )
