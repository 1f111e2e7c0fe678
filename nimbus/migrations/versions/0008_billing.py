# SPDX-License-Identifier: Apache-2.0
"""Billing: the seller, gapless numbers, closed periods, invoices that never change once sent."""

from alembic import op

from nimbus.migrations.tenancy import protect

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = (
    "invoice_payment_states",
    "invoice_documents",
    "invoice_taxes",
    "invoice_lines",
    "billing_periods",
    "invoices",
    "number_series",
    "sellers",
)
FUNCTIONS = (
    "billing_refuse()",
    "invoice_keep()",
    "invoice_part_keep()",
    "invoice_adds_up()",
    "number_follows()",
    "number_is_used()",
)
CURRENCY = "char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$')"


def upgrade() -> None:
    """Make billing's tables and the triggers that keep what was sent."""
    _sellers()
    _invoices()
    _parts()
    _periods()
    _documents_and_payment()
    _keep_what_was_sent()
    _keep_numbers()


def downgrade() -> None:
    """Drop them in reverse."""
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")


def _protect(
    table: str, system: str, *, two_sided: bool = False, read_also: str | None = None
) -> None:
    """The application reads; what nimbus_system may do beside SELECT is `system`."""
    protect(table, two_sided=two_sided, read_also=read_also, verbs="SELECT")
    op.execute(f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM nimbus_system")
    op.execute(f"GRANT {system} ON {table} TO nimbus_system")


def _sellers() -> None:
    op.execute(
        """CREATE TABLE sellers (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL UNIQUE REFERENCES organizations (id),
            current boolean NOT NULL,
            legal_name text NOT NULL CHECK (length(legal_name) BETWEEN 1 AND 200),
            address jsonb NOT NULL,
            country char(2) NOT NULL,
            company_number text NOT NULL,
            vat_number text NOT NULL,
            email text NOT NULL,
            iban text,
            time_zone text NOT NULL,
            terms_version text NOT NULL REFERENCES terms_versions (version),
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )
    op.execute("CREATE UNIQUE INDEX uq_sellers_current ON sellers (current) WHERE current")
    # Who sells stands on every invoice: everyone may read it.
    _protect("sellers", "INSERT, UPDATE", read_also="current")
    # One row a series: locked by the finalization that takes a number, until it commits.
    op.execute(
        """CREATE TABLE number_series (
            organization_id uuid NOT NULL,
            seller_id uuid NOT NULL,
            series text NOT NULL CHECK (series = 'INV'),
            year integer NOT NULL CHECK (year BETWEEN 2000 AND 9999),
            last_number bigint NOT NULL CHECK (last_number > 0),
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, seller_id, series, year),
            FOREIGN KEY (organization_id, seller_id) REFERENCES sellers (organization_id, id))"""
    )
    _protect("number_series", "INSERT, UPDATE")


def _invoices() -> None:
    op.execute(
        f"""CREATE TABLE invoices (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            provider_organization_id uuid NOT NULL REFERENCES organizations (id),
            subscription_id uuid NOT NULL,
            product_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            kind text NOT NULL CHECK (kind IN ('start', 'period')),
            status text NOT NULL CHECK (status IN ('Draft', 'Sent', 'Cancelled')),
            currency {CURRENCY},
            period_starts_at timestamptz NOT NULL,
            period_ends_at timestamptz NOT NULL,
            subtotal_minor bigint NOT NULL,
            tax_minor bigint NOT NULL,
            total_minor bigint NOT NULL,
            rules_version integer NOT NULL,
            finalize_at timestamptz NOT NULL,
            parked_reason text CHECK (parked_reason IN
                ('too_many_lines', 'negative_total', 'far_above_usual')),
            payment_term_days integer NOT NULL,
            locale text NOT NULL CHECK (locale IN ('en', 'nl')),
            buyer jsonb NOT NULL,
            usage jsonb NOT NULL,
            seller_organization_id uuid,
            seller_id uuid,
            seller jsonb,
            tax_evidence jsonb NOT NULL,
            number text CHECK (number ~ '^INV-[0-9]{{4}}-[0-9]{{6,}}$'),
            issued_on date,
            due_on date,
            supply_from date,
            supply_to date,
            payment_reference text,
            finalized_at timestamptz,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, subscription_id, period_starts_at, kind),
            UNIQUE (seller_organization_id, number),
            CHECK (subtotal_minor + tax_minor = total_minor),
            CHECK (period_starts_at < period_ends_at),
            CONSTRAINT ck_invoices_sent_is_complete CHECK (
                num_nonnulls(number, seller_organization_id, seller_id, seller, issued_on, due_on,
                             supply_from, supply_to, payment_reference, finalized_at)
                = CASE status WHEN 'Sent' THEN 10 ELSE 0 END),
            CONSTRAINT ck_invoices_sent_has_evidence CHECK (
                status <> 'Sent' OR tax_evidence <> '{{}}'),
            CONSTRAINT ck_invoices_parked_is_draft CHECK (
                parked_reason IS NULL OR status <> 'Sent'),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id),
            FOREIGN KEY (provider_organization_id, product_id)
                REFERENCES products (organization_id, id),
            FOREIGN KEY (provider_organization_id, plan_version_id)
                REFERENCES plan_versions (organization_id, id),
            FOREIGN KEY (seller_organization_id, seller_id)
                REFERENCES sellers (organization_id, id))"""
    )
    op.execute(
        "CREATE INDEX ix_invoices_due ON invoices (finalize_at)"
        " WHERE status = 'Draft' AND parked_reason IS NULL"
    )
    op.execute("CREATE INDEX ix_invoices_provider ON invoices (provider_organization_id)")
    _protect("invoices", "INSERT, UPDATE", two_sided=True)


def _parts() -> None:
    op.execute(
        """CREATE TABLE invoice_lines (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            invoice_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            position integer NOT NULL CHECK (position > 0),
            kind text NOT NULL CHECK (kind IN
                ('Subscription', 'ApiUsage', 'Asset', 'Storage', 'Report', 'Other')),
            source_id uuid NOT NULL,
            meter_key text,
            text text NOT NULL CHECK (text IN ('base_fee', 'usage')),
            description text NOT NULL,
            quantity numeric(38, 12) NOT NULL,
            unit_price numeric(30, 12),
            amount_minor bigint NOT NULL,
            tax_category text CHECK (tax_category IN ('S', 'AE', 'O')),
            tax_rate numeric(6, 3),
            starts_at timestamptz NOT NULL,
            ends_at timestamptz NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, invoice_id, position),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    op.execute(
        "CREATE INDEX ix_invoice_lines_subscription"
        " ON invoice_lines (organization_id, subscription_id, starts_at)"
    )
    _protect("invoice_lines", "INSERT, DELETE", two_sided=True)
    op.execute(
        """CREATE TABLE invoice_taxes (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            invoice_id uuid NOT NULL,
            category text NOT NULL CHECK (category IN ('S', 'AE', 'O')),
            rate numeric(6, 3) NOT NULL CHECK (rate >= 0),
            country char(2),
            legal_text_key text CHECK (legal_text_key IN ('reverse_charge', 'outside_scope')),
            base_minor bigint NOT NULL,
            tax_minor bigint NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE NULLS NOT DISTINCT (organization_id, invoice_id, category, rate, country),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id))"""
    )
    _protect("invoice_taxes", "INSERT, DELETE")


def _periods() -> None:
    # A closed period follows the one before: a gap or an overlap cannot be written down.
    op.execute(
        """CREATE TABLE billing_periods (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            anchor_at timestamptz NOT NULL,
            time_zone text NOT NULL,
            number integer NOT NULL CHECK (number >= 0),
            starts_at timestamptz NOT NULL,
            ends_at timestamptz NOT NULL,
            previous_ends_at timestamptz,
            invoice_id uuid,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, subscription_id, starts_at),
            UNIQUE (organization_id, subscription_id, ends_at),
            CHECK (starts_at < ends_at),
            CHECK (previous_ends_at = starts_at),
            FOREIGN KEY (organization_id, subscription_id, previous_ends_at)
                REFERENCES billing_periods (organization_id, subscription_id, ends_at),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id),
            FOREIGN KEY (provider_organization_id, plan_version_id)
                REFERENCES plan_versions (organization_id, id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id))"""
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_billing_periods_first"
        " ON billing_periods (organization_id, subscription_id) WHERE previous_ends_at IS NULL"
    )
    _protect("billing_periods", "INSERT", two_sided=True)


def _documents_and_payment() -> None:
    op.execute(
        """CREATE TABLE invoice_documents (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            invoice_id uuid NOT NULL,
            kind text NOT NULL CHECK (kind = 'pdf'),
            language text NOT NULL CHECK (language IN ('en', 'nl')),
            content bytea NOT NULL,
            sha256 bytea NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, invoice_id, kind, language),
            CHECK (sha256 = sha256(content)),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id))"""
    )
    _protect("invoice_documents", "INSERT")
    op.execute(
        """CREATE TABLE invoice_payment_states (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            invoice_id uuid NOT NULL,
            state text NOT NULL CHECK (state IN ('Pending', 'Paid', 'Failed')),
            paid_at timestamptz,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, invoice_id),
            CHECK ((state = 'Paid') = (paid_at IS NOT NULL)),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id))"""
    )
    _protect("invoice_payment_states", "INSERT, UPDATE")


def _keep_what_was_sent() -> None:
    _function(
        "billing_refuse()",
        """BEGIN
            RAISE EXCEPTION '% of % is refused', TG_OP, TG_TABLE_NAME
                USING ERRCODE = 'restrict_violation';
        END""",
    )
    for table in ("billing_periods", "invoice_documents"):
        _trigger(table, "append_only", "BEFORE UPDATE OR DELETE OR TRUNCATE", "billing_refuse()")
        op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {table} FROM nimbus_owner")
        # Foreign keys lock rows as the owner, which takes the right to change a column of them.
        op.execute(f"GRANT UPDATE (created_at) ON {table} TO nimbus_owner")
    _trigger("invoices", "no_removal", "BEFORE DELETE OR TRUNCATE", "billing_refuse()")
    for table in ("invoice_lines", "invoice_taxes"):
        _trigger(table, "no_change", "BEFORE UPDATE OR TRUNCATE", "billing_refuse()")
    _function(
        "invoice_keep()",
        """BEGIN
            IF OLD.status <> 'Draft' THEN
                RAISE EXCEPTION 'a finalized invoice never changes'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NEW;
        END""",
    )
    _trigger("invoices", "keep", "BEFORE UPDATE", "invoice_keep()", row=True)
    keep_parts()
    keep_sums()


def keep_sums() -> None:
    """Refuse to send an invoice that is not its lines and taxes; replaced in 0020."""
    _function(
        "invoice_adds_up()",
        """DECLARE lines bigint; bases bigint; taxes bigint;
        BEGIN
            SELECT coalesce(sum(amount_minor), 0) INTO lines
                FROM invoice_lines WHERE invoice_id = NEW.id;
            SELECT coalesce(sum(base_minor), 0), coalesce(sum(tax_minor), 0) INTO bases, taxes
                FROM invoice_taxes WHERE invoice_id = NEW.id;
            IF (lines, bases, taxes) <> (NEW.subtotal_minor, NEW.subtotal_minor, NEW.tax_minor)
               OR EXISTS (SELECT FROM invoice_lines
                          WHERE invoice_id = NEW.id AND num_nulls(tax_category, tax_rate) > 0) THEN
                RAISE EXCEPTION 'the lines and taxes are not the invoice'
                    USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END""",
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER adds_up AFTER INSERT OR UPDATE ON invoices"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.status = 'Sent')"
        " EXECUTE FUNCTION invoice_adds_up()"
    )


def keep_parts() -> None:
    """Refuse lines and taxes of what was sent; replaced in 0020."""
    # The share lock makes a line and a finalization at the same moment wait for each other.
    _function(
        "invoice_part_keep()",
        """DECLARE part record := coalesce(NEW, OLD); document text;
        BEGIN
            SELECT status INTO document FROM invoices WHERE id = part.invoice_id FOR SHARE;
            IF document <> 'Draft' THEN
                RAISE EXCEPTION 'a finalized invoice never changes'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN part;
        END""",
    )
    for table in ("invoice_lines", "invoice_taxes"):
        _trigger(table, "keep", "BEFORE INSERT OR DELETE", "invoice_part_keep()", row=True)


def _keep_numbers() -> None:
    keep_numbers()
    _trigger("number_series", "no_removal", "BEFORE DELETE OR TRUNCATE", "billing_refuse()")


def keep_numbers() -> None:
    """A series only counts up by one, and each of its numbers is an invoice when it commits;
    replaced in 0020.
    """
    _function(
        "number_follows()",
        """BEGIN
            IF NEW.last_number
               <> (CASE TG_OP WHEN 'INSERT' THEN 1 ELSE OLD.last_number + 1 END) THEN
                RAISE EXCEPTION 'numbers follow each other' USING ERRCODE = 'check_violation';
            END IF;
            RETURN NEW;
        END""",
    )
    _trigger("number_series", "follows", "BEFORE INSERT OR UPDATE", "number_follows()", row=True)
    _function(
        "number_is_used()",
        """BEGIN
            IF NOT EXISTS (
                SELECT FROM invoices WHERE seller_organization_id = NEW.organization_id
                AND seller_id = NEW.seller_id AND number = concat_ws('-', NEW.series, NEW.year,
                    lpad(NEW.last_number::text, greatest(6, length(NEW.last_number::text)), '0')))
            THEN
                RAISE EXCEPTION 'a number without an invoice' USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END""",
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER is_used AFTER INSERT OR UPDATE ON number_series"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION number_is_used()"
    )


def _function(signature: str, body: str) -> None:
    op.execute(f"CREATE FUNCTION {signature} RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")


def _trigger(table: str, name: str, when: str, function: str, *, row: bool = False) -> None:
    each = "ROW" if row else "STATEMENT"
    op.execute(
        f"CREATE TRIGGER {name} {when} ON {table} FOR EACH {each} EXECUTE FUNCTION {function}"
    )
