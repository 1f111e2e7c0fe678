# SPDX-License-Identifier: Apache-2.0
"""What corrects and lowers bills: credit notes, wallet, coupons; one-off items and thresholds."""

from importlib import import_module

from alembic import op

from nimbus.migrations.tenancy import protect

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

CURRENCY = "char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$')"
TABLES = (
    "billing_thresholds",
    "one_off_items",
    "coupon_uses",
    "coupon_redemptions",
    "coupons",
    "wallet_entries",
    "wallet_top_ups",
    "credit_note_documents",
    "credit_note_taxes",
    "credit_note_lines",
    "credit_notes",
)
APPEND_ONLY = (
    "wallet_entries",
    "wallet_top_ups",
    "coupon_uses",
    "credit_note_documents",
    "credit_note_taxes",
    "credit_note_lines",
    "credit_notes",
)


def upgrade() -> None:
    """Make the tables; what is issued, drawn or used is only added to."""
    _credit_notes()
    _parts_of_credit_notes()
    _credit_notes_mirror()
    _wallet()
    _what_is_left()
    _coupons()
    _items_and_thresholds()
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse()"
        )
        op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {table} FROM nimbus_owner")
        # Foreign keys lock rows as the owner, which takes the right to change a column of them.
        op.execute(f"GRANT UPDATE (created_at) ON {table} TO nimbus_owner")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP VIEW wallet_left")
    money = import_module("nimbus.migrations.versions.0012_money")
    money.make_credits()
    op.execute(
        "INSERT INTO balance_credits (id, organization_id, amount_minor, currency, reason,"
        " credited_by, created_at) SELECT id, organization_id, amount_minor, currency,"
        " coalesce(reason, kind), made_by, created_at FROM wallet_entries"
        " WHERE kind IN ('grant', 'top_up')"
    )
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION wallet_keep(), credit_note_mirrors(), currency_minor(text)")


def _protect(table: str, *, two_sided: bool = False, system: str = "INSERT") -> None:
    """The application reads; what nimbus_system may do beside SELECT is `system`."""
    protect(table, two_sided=two_sided, verbs="SELECT")
    op.execute(f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM nimbus_system")
    op.execute(f"GRANT {system} ON {table} TO nimbus_system")


def _credit_notes() -> None:
    op.execute(
        f"""CREATE TABLE credit_notes (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            invoice_id uuid NOT NULL,
            seller_organization_id uuid NOT NULL,
            seller_id uuid NOT NULL,
            number text NOT NULL CHECK (number ~ '^CN-[0-9]{{4}}-[0-9]{{6,}}$'),
            currency {CURRENCY},
            subtotal_minor bigint NOT NULL CHECK (subtotal_minor >= 0),
            tax_minor bigint NOT NULL,
            total_minor bigint NOT NULL CHECK (total_minor > 0),
            disposition text NOT NULL CHECK (disposition IN ('refund', 'credit')),
            open_minor bigint NOT NULL CHECK (open_minor BETWEEN 0 AND total_minor),
            refund_minor bigint NOT NULL CHECK (refund_minor >= 0),
            credit_minor bigint NOT NULL CHECK (credit_minor >= 0),
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
            issued_on date NOT NULL,
            issued_by uuid NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (seller_organization_id, number),
            CHECK (subtotal_minor + tax_minor = total_minor),
            CHECK (open_minor + refund_minor + credit_minor = total_minor),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id),
            FOREIGN KEY (seller_organization_id, seller_id)
                REFERENCES sellers (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_credit_notes_invoice_id ON credit_notes (invoice_id)")
    op.execute("CREATE INDEX ix_credit_notes_provider ON credit_notes (provider_organization_id)")
    _protect("credit_notes", two_sided=True)


def _parts_of_credit_notes() -> None:
    op.execute(
        """CREATE TABLE credit_note_lines (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            credit_note_id uuid NOT NULL,
            invoice_line_id uuid NOT NULL,
            position integer NOT NULL CHECK (position > 0),
            amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
            coupon_minor bigint NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, credit_note_id, position),
            UNIQUE (organization_id, credit_note_id, invoice_line_id),
            FOREIGN KEY (organization_id, credit_note_id)
                REFERENCES credit_notes (organization_id, id),
            FOREIGN KEY (organization_id, invoice_line_id)
                REFERENCES invoice_lines (organization_id, id))"""
    )
    _protect("credit_note_lines", two_sided=True)
    op.execute(
        """CREATE TABLE credit_note_taxes (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            credit_note_id uuid NOT NULL,
            invoice_tax_id uuid NOT NULL,
            base_minor bigint NOT NULL,
            tax_minor bigint NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, credit_note_id, invoice_tax_id),
            FOREIGN KEY (organization_id, credit_note_id)
                REFERENCES credit_notes (organization_id, id),
            FOREIGN KEY (organization_id, invoice_tax_id)
                REFERENCES invoice_taxes (organization_id, id))"""
    )
    _protect("credit_note_taxes")
    op.execute(
        """CREATE TABLE credit_note_documents (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            credit_note_id uuid NOT NULL,
            language text NOT NULL CHECK (language IN ('en', 'nl')),
            content bytea NOT NULL,
            sha256 bytea NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, credit_note_id, language),
            CHECK (sha256 = sha256(content)),
            FOREIGN KEY (organization_id, credit_note_id)
                REFERENCES credit_notes (organization_id, id))"""
    )
    _protect("credit_note_documents")


def _credit_notes_mirror() -> None:
    # A credit note adds up, and with those before it never takes more than the invoice has: by
    # line, by rate, and in all. The invoice's row is locked by who issues one.
    op.execute(
        """CREATE FUNCTION credit_note_mirrors() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE lines bigint; bases bigint; taxes bigint;
        BEGIN
            SELECT coalesce(sum(amount_minor - coupon_minor), 0) INTO lines
                FROM credit_note_lines WHERE credit_note_id = NEW.id;
            SELECT coalesce(sum(base_minor), 0), coalesce(sum(tax_minor), 0) INTO bases, taxes
                FROM credit_note_taxes WHERE credit_note_id = NEW.id;
            IF (lines, bases, taxes) <> (NEW.subtotal_minor, NEW.subtotal_minor, NEW.tax_minor)
               OR EXISTS (
                SELECT FROM credit_note_lines c JOIN credit_notes n ON n.id = c.credit_note_id
                JOIN invoice_lines l ON l.id = c.invoice_line_id
                WHERE n.invoice_id = NEW.invoice_id GROUP BY l.id
                HAVING l.invoice_id <> NEW.invoice_id
                    OR sum(c.amount_minor) NOT BETWEEN least(l.amount_minor, 0)
                        AND greatest(l.amount_minor, 0))
               OR EXISTS (
                SELECT FROM credit_note_taxes c JOIN credit_notes n ON n.id = c.credit_note_id
                JOIN invoice_taxes t ON t.id = c.invoice_tax_id
                WHERE n.invoice_id = NEW.invoice_id GROUP BY t.id
                HAVING t.invoice_id <> NEW.invoice_id
                    OR sum(c.tax_minor) NOT BETWEEN least(t.tax_minor, 0)
                        AND greatest(t.tax_minor, 0)) THEN
                RAISE EXCEPTION 'the credit note is not a part of its invoice'
                    USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END $$"""
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER credit_note_mirrors AFTER INSERT ON credit_notes"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION credit_note_mirrors()"
    )


def _wallet() -> None:
    op.execute(
        f"""CREATE TABLE wallet_top_ups (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
            currency {CURRENCY},
            payment_reference text NOT NULL,
            requested_by uuid NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )
    _protect("wallet_top_ups")
    op.execute("GRANT INSERT ON wallet_top_ups TO nimbus_app")
    # Money in, and each part of it going out again: what is left of an entry is its amount and
    # those of the entries that draw on it.
    op.execute(
        f"""CREATE TABLE wallet_entries (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            kind text NOT NULL CHECK (kind IN
                ('top_up', 'grant', 'credit_note', 'draw', 'expiry')),
            amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
            currency {CURRENCY},
            source_entry_id uuid,
            top_up_id uuid,
            invoice_id uuid,
            credit_note_id uuid,
            priority integer NOT NULL DEFAULT 0,
            expires_at timestamptz,
            reason text CHECK (length(reason) BETWEEN 1 AND 500),
            made_by uuid,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, top_up_id),
            UNIQUE (organization_id, credit_note_id),
            UNIQUE (organization_id, source_entry_id, kind, invoice_id),
            CHECK ((amount_minor < 0) = (kind IN ('draw', 'expiry'))),
            CHECK ((source_entry_id IS NOT NULL) = (kind IN ('draw', 'expiry'))),
            CHECK ((top_up_id IS NOT NULL) = (kind = 'top_up')),
            CHECK ((credit_note_id IS NOT NULL) = (kind = 'credit_note')),
            CHECK ((invoice_id IS NOT NULL) = (kind = 'draw')),
            FOREIGN KEY (organization_id, source_entry_id)
                REFERENCES wallet_entries (organization_id, id),
            FOREIGN KEY (organization_id, top_up_id)
                REFERENCES wallet_top_ups (organization_id, id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id),
            FOREIGN KEY (organization_id, credit_note_id)
                REFERENCES credit_notes (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_wallet_entries_invoice_id ON wallet_entries (invoice_id)")
    op.execute(
        "CREATE INDEX ix_wallet_entries_expires_at ON wallet_entries (expires_at)"
        " WHERE expires_at IS NOT NULL"
    )
    _protect("wallet_entries")


def _what_is_left() -> None:
    # The lock on the entry that is drawn on makes two draws wait for each other.
    op.execute(
        """CREATE FUNCTION wallet_keep() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE held bigint; unit text;
        BEGIN
            SELECT amount_minor, currency INTO held, unit FROM wallet_entries
                WHERE id = NEW.source_entry_id FOR UPDATE;
            IF unit <> NEW.currency OR held + (SELECT sum(amount_minor) FROM wallet_entries
                WHERE organization_id = NEW.organization_id
                  AND source_entry_id = NEW.source_entry_id) < 0 THEN
                RAISE EXCEPTION 'more is drawn than there is' USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END $$"""
    )
    op.execute(
        "CREATE TRIGGER keep AFTER INSERT ON wallet_entries FOR EACH ROW"
        " WHEN (NEW.source_entry_id IS NOT NULL) EXECUTE FUNCTION wallet_keep()"
    )

    # Whoever draws on an entry locks it, which takes the right to change a column; none is changed.
    for table in ("wallet_entries", "wallet_top_ups"):
        op.execute(f"GRANT UPDATE (created_at) ON {table} TO nimbus_system")
    # What is left of each entry that brought money in.
    op.execute(
        """CREATE VIEW wallet_left WITH (security_invoker = true) AS
            SELECT e.*, e.amount_minor + coalesce((
                SELECT sum(d.amount_minor) FROM wallet_entries d
                WHERE d.organization_id = e.organization_id AND d.source_entry_id = e.id),
                0)::bigint AS left_minor
            FROM wallet_entries e WHERE e.source_entry_id IS NULL"""
    )
    op.execute("GRANT SELECT ON wallet_left TO nimbus_app, nimbus_system")
    # What was put on balances by hand until now is in the wallet from here on.
    op.execute(
        "INSERT INTO wallet_entries (id, organization_id, kind, amount_minor, currency, reason,"
        " made_by, created_at) SELECT id, organization_id, 'grant', amount_minor, currency, reason,"
        " credited_by, created_at FROM balance_credits"
    )
    op.execute("DROP TABLE balance_credits")


def _coupons() -> None:
    op.execute(
        """CREATE TABLE coupons (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            code text NOT NULL CHECK (code ~ '^[A-Z0-9-]{3,40}$'),
            name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
            percent numeric(6, 3) CHECK (percent > 0 AND percent <= 100),
            amount_minor bigint CHECK (amount_minor > 0),
            currency char(3) CHECK (currency ~ '^[A-Z]{3}$'),
            times integer CHECK (times BETWEEN 1 AND 1000),
            plan_id uuid,
            meter_key text,
            redeem_by timestamptz,
            redemptions_max integer CHECK (redemptions_max > 0),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, code),
            CHECK (num_nonnulls(percent, amount_minor) = 1),
            CHECK ((amount_minor IS NULL) = (currency IS NULL)))"""
    )
    _protect("coupons")
    # Whoever redeems one locks it, so that it is not redeemed too often.
    op.execute("GRANT UPDATE (created_at) ON coupons TO nimbus_system")
    op.execute(
        """CREATE TABLE coupon_redemptions (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            coupon_organization_id uuid NOT NULL,
            coupon_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, coupon_id, subscription_id),
            FOREIGN KEY (coupon_organization_id, coupon_id)
                REFERENCES coupons (organization_id, id),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    op.execute(
        "CREATE INDEX ix_coupon_redemptions_subscription_id ON coupon_redemptions (subscription_id)"
    )
    _protect("coupon_redemptions")
    op.execute(
        """CREATE TABLE coupon_uses (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            redemption_id uuid NOT NULL,
            invoice_id uuid NOT NULL,
            amount_minor bigint NOT NULL CHECK (amount_minor > 0),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, redemption_id, invoice_id),
            FOREIGN KEY (organization_id, redemption_id)
                REFERENCES coupon_redemptions (organization_id, id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id))"""
    )
    _protect("coupon_uses")


def _items_and_thresholds() -> None:
    # `rules.money.minor_digits`: how many minor units one unit has.
    op.execute(
        """CREATE FUNCTION currency_minor(currency text) RETURNS numeric
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
            SELECT CASE
                WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG',
                    'RWF', 'UGX', 'VND', 'VUV', 'XAF', 'XOF', 'XPF') THEN 1
                WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN 1000
                WHEN currency IN ('CLF', 'UYW') THEN 10000
                ELSE 100 END::numeric
        $$"""
    )
    # An item is billed when a line names it as its source: nothing here ever changes.
    op.execute(
        f"""CREATE TABLE one_off_items (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            description text NOT NULL CHECK (length(description) BETWEEN 1 AND 200),
            amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
            currency {CURRENCY},
            made_by uuid NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_one_off_items_subscription_id ON one_off_items (subscription_id)")
    _protect("one_off_items", two_sided=True)
    op.execute(
        """CREATE TABLE billing_thresholds (
            subscription_id uuid NOT NULL,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            PRIMARY KEY (organization_id, subscription_id),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    _protect("billing_thresholds", two_sided=True, system="INSERT, UPDATE, DELETE")
