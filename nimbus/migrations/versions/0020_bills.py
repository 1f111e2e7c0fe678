# SPDX-License-Identifier: Apache-2.0
"""Bills in sets: chains, numbers and triggers that cost the same for one row and for thousands."""

from importlib import import_module

from alembic import op

from nimbus.migrations.tenancy import definer_function

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

AUDIT = "audit_append(jsonb)"
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
    _adds_up_by_statement()
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
    for verb in ("insert", "update"):
        op.execute(f"DROP TRIGGER adds_up_{verb} ON invoices")
    op.execute("DROP FUNCTION invoice_adds_up()")
    billing.keep_sums()
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
    # Each row is [id, organization, content]; those of one organization come together. The chains'
    # heads are locked in the order of the organizations, which is that of the rows.
    op.execute("DROP FUNCTION audit_append(uuid, uuid, text)")
    op.execute(
        """CREATE FUNCTION audit_append(rows jsonb) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
        #variable_conflict use_column
        DECLARE
            item record;
            last uuid;
            at bigint;
            link bytea;
            sequences bigint[];
            hashes bytea[];
        BEGIN
            IF session_user = 'nimbus_app' AND EXISTS (
                SELECT FROM jsonb_array_elements(rows) r
                WHERE (r ->> 1)::uuid <> current_setting('nimbus.organization_id')::uuid
                  AND (r ->> 1)::uuid <> '00000000-0000-0000-0000-000000000000') THEN
                RAISE EXCEPTION 'an audit row of another organization' USING ERRCODE = '42501';
            END IF;
            INSERT INTO audit_heads (organization_id, sequence, hash)
                SELECT o, 0, sha256(uuid_send(o)) FROM (
                    SELECT DISTINCT (r ->> 1)::uuid AS o FROM jsonb_array_elements(rows) r
                    ORDER BY 1) asked
                ON CONFLICT DO NOTHING;
            PERFORM FROM audit_heads h WHERE h.organization_id IN (
                SELECT (r ->> 1)::uuid FROM jsonb_array_elements(rows) r)
                ORDER BY h.organization_id FOR UPDATE;
            FOR item IN
                SELECT r.place, h.organization_id, h.sequence, h.hash, r.row ->> 2 AS content
                FROM jsonb_array_elements(rows) WITH ORDINALITY AS r (row, place)
                JOIN audit_heads h ON h.organization_id = (r.row ->> 1)::uuid ORDER BY r.place
            LOOP
                IF last IS DISTINCT FROM item.organization_id THEN
                    last := item.organization_id;
                    at := item.sequence;
                    link := item.hash;
                END IF;
                at := at + 1;
                link := sha256(link || int8send(at) || convert_to(item.content, 'UTF8'));
                sequences[item.place] := at;
                hashes[item.place] := link;
            END LOOP;
            WITH made AS (
                SELECT (r.row ->> 0)::uuid AS id, (r.row ->> 1)::uuid AS organization_id,
                       c.sequence, r.row ->> 2 AS content, (r.row ->> 2)::jsonb AS f, c.hash
                FROM jsonb_array_elements(rows) WITH ORDINALITY AS r (row, place)
                JOIN unnest(sequences, hashes) WITH ORDINALITY AS c (sequence, hash, place)
                    USING (place)),
            kept AS (
                INSERT INTO audit_log (id, organization_id, sequence, action, entity_type,
                                       entity_id, user_id, at, body, hash)
                SELECT id, organization_id, made.sequence, f ->> 'action', f ->> 'entity_type',
                       (f ->> 'entity_id')::uuid, (f ->> 'user_id')::uuid,
                       (f ->> 'at')::timestamptz, content, made.hash
                FROM made)
            UPDATE audit_heads h SET sequence = made.sequence, hash = made.hash
                FROM (SELECT DISTINCT ON (organization_id) organization_id, sequence, hash
                      FROM made ORDER BY organization_id, sequence DESC) made
                WHERE h.organization_id = made.organization_id;
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
            item record;
            entry ledger_transfers;
            entries ledger_transfers[];
        BEGIN
            INSERT INTO ledger_heads (organization_id, sequence, hash)
                SELECT o, 0, sha256(uuid_send(o)) FROM (
                    SELECT DISTINCT (leg ->> 'organization_id')::uuid AS o
                    FROM jsonb_array_elements(legs) leg ORDER BY 1) asked
                ON CONFLICT DO NOTHING;
            PERFORM FROM ledger_heads h WHERE h.organization_id IN (
                SELECT (leg ->> 'organization_id')::uuid FROM jsonb_array_elements(legs) leg)
                ORDER BY h.organization_id FOR UPDATE;
            FOR item IN
                SELECT l.place, h.sequence, h.hash,
                       jsonb_populate_record(NULL::ledger_transfers, l.leg) AS made
                FROM jsonb_array_elements(legs) WITH ORDINALITY AS l (leg, place)
                JOIN ledger_heads h ON h.organization_id = (l.leg ->> 'organization_id')::uuid
                ORDER BY l.place
            LOOP
                IF entry.organization_id IS DISTINCT FROM (item.made).organization_id THEN
                    entry.sequence := item.sequence;
                    entry.hash := item.hash;
                END IF;
                item.made.sequence := entry.sequence + 1;
                item.made.created_at := now();
                item.made.hash := ledger_hash(entry.hash, item.made);
                entry := item.made;
                entries[item.place] := entry;
            END LOOP;
            INSERT INTO ledger_transfers SELECT e.* FROM unnest(entries) e;
            UPDATE ledger_heads h SET sequence = e.sequence, hash = e.hash
                FROM (SELECT DISTINCT ON (organization_id) organization_id, sequence, hash
                      FROM unnest(entries) ORDER BY organization_id, sequence DESC) e
                WHERE h.organization_id = e.organization_id;
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


def _adds_up_by_statement() -> None:
    """An invoice is held against its lines and taxes in the statement that sends it: they stand
    before it, and nothing changes them afterwards.
    """
    op.execute("DROP TRIGGER adds_up ON invoices")
    op.execute("DROP FUNCTION invoice_adds_up()")
    op.execute(
        """CREATE FUNCTION invoice_adds_up() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT FROM sent i
                LEFT JOIN LATERAL (
                    SELECT sum(l.amount_minor) AS amount,
                           bool_or(num_nulls(l.tax_category, l.tax_rate) > 0) AS untaxed
                    FROM invoice_lines l
                    WHERE l.organization_id = i.organization_id AND l.invoice_id = i.id) lines
                    ON true
                LEFT JOIN LATERAL (
                    SELECT sum(t.base_minor) AS base, sum(t.tax_minor) AS tax FROM invoice_taxes t
                    WHERE t.organization_id = i.organization_id AND t.invoice_id = i.id) taxes
                    ON true
                WHERE i.status = 'Sent' AND (lines.untaxed
                    OR (coalesce(lines.amount, 0), coalesce(taxes.base, 0), coalesce(taxes.tax, 0))
                       <> (i.subtotal_minor, i.subtotal_minor, i.tax_minor))) THEN
                RAISE EXCEPTION 'the lines and taxes are not the invoice'
                    USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END $$"""
    )
    for verb in ("insert", "update"):
        op.execute(
            f"CREATE TRIGGER adds_up_{verb} AFTER {verb} ON invoices"
            " REFERENCING NEW TABLE AS sent FOR EACH STATEMENT EXECUTE FUNCTION invoice_adds_up()"
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
