# SPDX-License-Identifier: Apache-2.0
"""Write-offs: what of a sent invoice will not be paid any more; a fact that is only added."""

from alembic import op

from nimbus.migrations.tenancy import protect

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and let a payment state say it."""
    op.execute(
        """CREATE TABLE write_offs (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            invoice_id uuid NOT NULL,
            amount_minor bigint NOT NULL CHECK (amount_minor > 0),
            currency char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
            made_by uuid NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, invoice_id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id))"""
    )
    protect("write_offs", verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON write_offs FROM nimbus_system")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON write_offs"
        " FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse()"
    )
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON write_offs FROM nimbus_owner")
    # Foreign keys lock rows as the owner, which takes the right to change a column of them.
    op.execute("GRANT UPDATE (created_at) ON write_offs TO nimbus_owner")
    _states("('Pending', 'Paid', 'Failed', 'WrittenOff')")


def downgrade() -> None:
    """Forget it: what was written off is to be paid again."""
    op.execute("DROP TABLE write_offs")
    op.execute("UPDATE invoice_payment_states SET state = 'Pending' WHERE state = 'WrittenOff'")
    _states("('Pending', 'Paid', 'Failed')")


def _states(names: str) -> None:
    name = "invoice_payment_states_state_check"
    op.execute(
        f"ALTER TABLE invoice_payment_states DROP CONSTRAINT {name},"
        f" ADD CONSTRAINT {name} CHECK (state IN {names})"
    )
