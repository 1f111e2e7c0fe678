# SPDX-License-Identifier: Apache-2.0
"""Payments, which are only added, and the plans chosen before an organization is active."""

from alembic import op

from nimbus.migrations.tenancy import protect

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make payments and checkout choices."""
    # An invoice is settled once, by the whole of its total.
    op.execute(
        """CREATE TABLE payments (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            invoice_id uuid NOT NULL,
            method text NOT NULL CHECK (method = 'manual'),
            amount_minor bigint NOT NULL CHECK (amount_minor > 0),
            currency char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            reference text CHECK (length(reference) BETWEEN 1 AND 200),
            received_on date NOT NULL,
            recorded_by uuid NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, invoice_id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id))"""
    )
    protect("payments", verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON payments FROM nimbus_system")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payments"
        " FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse()"
    )
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON payments FROM nimbus_owner")
    op.execute(
        """CREATE TABLE checkout_choices (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL UNIQUE REFERENCES organizations (id),
            product text NOT NULL,
            plan text NOT NULL,
            payment text CHECK (payment = 'invoice'),
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )
    protect("checkout_choices")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE checkout_choices")
    op.execute("DROP TABLE payments")
