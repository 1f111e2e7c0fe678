# SPDX-License-Identifier: Apache-2.0
"""What balances are told and proved by, when bills read usage, when a trial's end is told."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

COLUMNS = {
    "spend_standings": {
        "keyless": "numeric NOT NULL DEFAULT 0",
        "spent_before": "numeric NOT NULL DEFAULT 0",
        "told_of": "numeric",
    },
    "billing_periods": {"read_at": "timestamptz NOT NULL DEFAULT now()"},
    "subscriptions": {"trial_notice_at": "timestamptz"},
}


def upgrade() -> None:
    """Add the columns, and what they are for the rows that are there."""
    for table, columns in COLUMNS.items():
        for name, column in columns.items():
            op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {column}")
    # Of an organization's month, what is no key's: the keys' months and this come to the whole.
    op.execute(
        """UPDATE spend_standings o SET keyless = o.used - coalesce((
            SELECT sum(k.used) FROM spend_standings k
            WHERE k.organization_id = o.organization_id AND k.kind = 'key_spend'
              AND k.period_starts_at = o.period_starts_at), 0)
        WHERE o.kind = 'organization_spend'"""
    )
    # What was spent when the balance began: it counts what all months have spent since.
    op.execute(
        """UPDATE spend_standings b SET told_of = greatest(0, b.limit_micro - b.used),
            spent_before = coalesce((
                SELECT sum(o.used) FROM spend_standings o
                WHERE o.organization_id = b.organization_id AND o.kind = 'organization_spend'), 0)
                - b.used
        WHERE b.kind = 'balance'"""
    )
    op.execute("ALTER TABLE spend_standings ADD CHECK ((kind = 'balance') = (told_of IS NOT NULL))")
    for statement in (
        "ALTER TABLE billing_periods DISABLE TRIGGER append_only",
        "GRANT UPDATE (read_at) ON billing_periods TO nimbus_owner",
        "UPDATE billing_periods SET read_at = created_at",
        "REVOKE UPDATE (read_at) ON billing_periods FROM nimbus_owner",
        "ALTER TABLE billing_periods ENABLE TRIGGER append_only",
    ):
        op.execute(statement)
    op.execute(
        "UPDATE subscriptions SET trial_notice_at = trial_ends_at"
        " - least(interval '3 days', (trial_ends_at - started_at) / 2) WHERE status = 'Trial'"
    )
    op.execute(
        "CREATE INDEX ix_subscriptions_trial_notice_at ON subscriptions (trial_notice_at)"
        " WHERE trial_notice_at IS NOT NULL"
    )


def downgrade() -> None:
    """Take them away."""
    for table, columns in COLUMNS.items():
        for name in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
