# SPDX-License-Identifier: Apache-2.0
"""Signs of abuse that gateways report, and the addresses and keys that are blocked for a time.

Both are the operator's: no tenant's row, so no organization. Gateways hear of blocks by the feed.
"""

from importlib import import_module

from alembic import op

from nimbus.migrations.feed import record_function, watch
from nimbus.migrations.tenancy import definer_function

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
ALERT = "gateway_alert(uuid, uuid, text, cidr, uuid, integer)"
BLOCK = """jsonb_build_object('network', e.network, 'key_id', e.key_id,
    'ends_at', grant_instant(e.ends_at))"""


def upgrade() -> None:
    """Make the tables, the function that gateways report by, and the records of blocks."""
    op.execute(
        """CREATE TABLE abuse_alerts (
            id uuid PRIMARY KEY,
            kind text NOT NULL CHECK (kind IN ('refused_keys', 'path_scan', 'many_addresses')),
            network cidr,
            key_id uuid REFERENCES api_keys (id),
            gateway_id uuid NOT NULL,
            count integer NOT NULL CHECK (count > 0),
            raised_at timestamptz NOT NULL,
            announced_at timestamptz,
            CHECK ((network IS NULL) <> (key_id IS NULL)))"""
    )
    op.execute("CREATE INDEX ON abuse_alerts (raised_at) WHERE announced_at IS NULL")
    op.execute("GRANT SELECT, UPDATE ON abuse_alerts TO nimbus_system")
    op.execute(
        """CREATE TABLE blocks (
            id uuid PRIMARY KEY,
            network cidr,
            key_id uuid REFERENCES api_keys (id),
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
            ends_at timestamptz NOT NULL,
            lifted_at timestamptz,
            created_by uuid,
            created_at timestamptz NOT NULL,
            CHECK ((network IS NULL) <> (key_id IS NULL)))"""
    )
    op.execute("GRANT SELECT, INSERT, UPDATE ON blocks TO nimbus_system")
    watch("blocks", "INSERT OR UPDATE", "grant_feed_row('block', 'id')")
    record_function("grant_block(e blocks)", BLOCK)
    _alert()
    import_module("nimbus.migrations.versions.0011_gate").make_records(
        """UNION ALL SELECT 'block', e.id, grant_block(e)
                FROM blocks e
                WHERE e.lifted_at IS NULL AND e.ends_at > business_now
                    AND (ids IS NULL OR e.id = ANY (ids))"""
    )


def downgrade() -> None:
    """Forget both."""
    import_module("nimbus.migrations.versions.0011_gate").make_records()
    op.execute(f"DROP FUNCTION {ALERT}")
    op.execute("DROP FUNCTION grant_block(blocks)")
    op.execute("DROP TABLE blocks")
    op.execute("DROP TABLE abuse_alerts")
    op.execute("DELETE FROM grant_feed WHERE kind = 'block'")


def _alert() -> None:
    """A gateway reports; a key that is not known (any more) is no alert."""
    op.execute(
        f"""CREATE FUNCTION gateway_alert(gateway uuid, alert uuid, what text,
            network cidr, key uuid, reached integer) RETURNS void LANGUAGE sql {DEFINER} AS $$
            INSERT INTO abuse_alerts (id, kind, network, key_id, gateway_id, count, raised_at)
            SELECT alert, what, network, key, gateway, reached,
                coalesce((SELECT instant FROM test_clock), clock_timestamp())
            WHERE key IS NULL OR EXISTS (SELECT FROM api_keys k WHERE k.id = key)
            ON CONFLICT (id) DO NOTHING
        $$"""
    )
    definer_function(ALERT, "nimbus_gateway")
