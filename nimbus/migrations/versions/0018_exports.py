# SPDX-License-Identifier: Apache-2.0
"""Exports of the request log; and what a provider may know of who calls: a name."""

from alembic import op

from nimbus.migrations.tenancy import CURRENT_ORGANIZATION, definer_function, protect

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

CONSUMERS = "usage_consumers()"


def upgrade() -> None:
    """Make the table of exports, and the function that names consumers."""
    # `rows_total` is counted before the work begins; calls that arrive meanwhile come on top, so
    # it is a measure of progress and no bound.
    op.execute(
        """CREATE TABLE usage_exports (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            user_id uuid NOT NULL,
            format text NOT NULL CHECK (format IN ('csv', 'jsonl', 'parquet')),
            filters jsonb NOT NULL,
            starts_at timestamptz NOT NULL,
            ends_at timestamptz NOT NULL,
            status text NOT NULL
                CHECK (status IN ('Waiting', 'Running', 'Ready', 'Failed', 'Expired')),
            rows_done bigint NOT NULL CHECK (rows_done >= 0),
            rows_total bigint NOT NULL CHECK (rows_total >= 0),
            bytes bigint NOT NULL CHECK (bytes >= 0),
            reason text CHECK ((reason IS NOT NULL) = (status = 'Failed')),
            expires_at timestamptz NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            CHECK (starts_at < ends_at))"""
    )
    op.execute(
        "CREATE INDEX ix_usage_exports_expires_at ON usage_exports (expires_at)"
        " WHERE status <> 'Expired'"
    )
    protect("usage_exports", verbs="SELECT, INSERT, UPDATE")
    # Who calls a provider's products: their names, and nothing else of them.
    op.execute(
        f"""CREATE FUNCTION usage_consumers() RETURNS TABLE (id uuid, name text)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
            SELECT o.id, o.name FROM organizations o WHERE o.id IN (
                SELECT s.organization_id FROM subscriptions s
                WHERE s.provider_organization_id = {CURRENT_ORGANIZATION})
        $$"""
    )
    definer_function(CONSUMERS, "nimbus_app, nimbus_system")


def downgrade() -> None:
    """Drop them; the files stay where they are."""
    op.execute(f"DROP FUNCTION {CONSUMERS}")
    op.execute("DROP TABLE usage_exports")
