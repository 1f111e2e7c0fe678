# SPDX-License-Identifier: Apache-2.0
"""Ledger: transfers that can only be added, one hash chain an organization."""

from alembic import op

from nimbus.migrations.tenancy import definer_function, owner_policy

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ACCOUNTS = (
    "('receivable', 'revenue', 'vat_payable', 'cash:manual', 'cash:bank', 'cash:sepa',"
    " 'cash:stripe', 'cash:mollie')"
)
APPEND = "ledger_append(uuid, text, uuid, timestamptz, jsonb)"


def upgrade() -> None:
    """Make the transfers, the chains' heads, and the one function that adds to them."""
    _tables()
    _append_only()
    _append()


def downgrade() -> None:
    """Drop the ledger."""
    op.execute(f"DROP FUNCTION {APPEND}")
    op.execute("DROP FUNCTION ledger_hash(bytea, ledger_transfers)")
    op.execute("DROP TABLE ledger_transfers")
    op.execute("DROP TABLE ledger_heads")
    op.execute("DROP FUNCTION ledger_refuse()")


def _tables() -> None:
    op.execute(
        """CREATE TABLE ledger_heads (
            organization_id uuid PRIMARY KEY REFERENCES organizations (id),
            sequence bigint NOT NULL,
            hash bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now())"""
    )
    # One row is one transfer: it has both its sides, so it cannot be out of balance.
    op.execute(
        f"""CREATE TABLE ledger_transfers (
            id uuid NOT NULL,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            sequence bigint NOT NULL CHECK (sequence > 0),
            debit_account text NOT NULL CHECK (debit_account IN {ACCOUNTS}),
            credit_account text NOT NULL CHECK (credit_account IN {ACCOUNTS}),
            amount_minor bigint NOT NULL CHECK (amount_minor > 0),
            currency char(3) NOT NULL CHECK (currency ~ '^[A-Z]{{3}}$'),
            source_kind text NOT NULL CHECK (source_kind ~ '^[a-z_]+$'),
            source_id uuid NOT NULL,
            leg text NOT NULL CHECK (leg ~ '^[A-Za-z0-9_.:]+$'),
            occurred_at timestamptz NOT NULL,
            hash bytea NOT NULL,
            created_at timestamptz NOT NULL,
            PRIMARY KEY (organization_id, sequence),
            UNIQUE (organization_id, id),
            UNIQUE (source_kind, source_id, leg),
            CHECK (debit_account <> credit_account))"""
    )
    for table in ("ledger_heads", "ledger_transfers"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        owner_policy(table)
        op.execute(f"GRANT SELECT ON {table} TO nimbus_system")


def _append_only() -> None:
    op.execute(
        """CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'restrict_violation';
        END $$"""
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transfers"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()"
    )
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON ledger_transfers FROM nimbus_owner")


def _append() -> None:
    op.execute(
        r"""CREATE FUNCTION ledger_hash(previous bytea, entry ledger_transfers)
        RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
            SELECT sha256(
                previous || uuid_send(entry.id) || uuid_send(entry.organization_id)
                || int8send(entry.sequence) || int8send(entry.amount_minor)
                || timestamptz_send(entry.occurred_at) || timestamptz_send(entry.created_at)
                || convert_to(concat_ws(E'\n', entry.debit_account, entry.credit_account,
                    entry.currency, entry.source_kind, entry.source_id, entry.leg), 'UTF8'))
        $$"""
    )
    op.execute("REVOKE EXECUTE ON FUNCTION ledger_hash(bytea, ledger_transfers) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION ledger_hash(bytea, ledger_transfers) TO nimbus_system")
    make_append()


def make_append() -> None:
    """Add a fact's transfers to its organization's chain; replaced in 0020."""
    # The head is locked until commit: a chain has one writer at a time.
    op.execute(
        """CREATE FUNCTION ledger_append(
            organization uuid, kind text, source uuid, moment timestamptz, legs jsonb)
        RETURNS void LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE head ledger_heads; entry ledger_transfers; item jsonb;
        BEGIN
            INSERT INTO ledger_heads (organization_id, sequence, hash)
                VALUES (organization, 0, sha256(uuid_send(organization))) ON CONFLICT DO NOTHING;
            SELECT * INTO head FROM ledger_heads WHERE organization_id = organization FOR UPDATE;
            FOR item IN SELECT * FROM jsonb_array_elements(legs) LOOP
                entry := jsonb_populate_record(NULL::ledger_transfers, item);
                entry.organization_id := organization;
                entry.sequence := head.sequence + 1;
                entry.source_kind := kind;
                entry.source_id := source;
                entry.occurred_at := moment;
                entry.created_at := now();
                entry.hash := ledger_hash(head.hash, entry);
                INSERT INTO ledger_transfers SELECT entry.*;
                head.sequence := entry.sequence;
                head.hash := entry.hash;
            END LOOP;
            UPDATE ledger_heads SET sequence = head.sequence, hash = head.hash
                WHERE organization_id = organization;
        END $$"""
    )
    definer_function(APPEND, "nimbus_system")
