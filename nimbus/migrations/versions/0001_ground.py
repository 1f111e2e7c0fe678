# SPDX-License-Identifier: Apache-2.0
"""The ground: job queue, audit trail, outbox, idempotency, throttles, test clock."""

from alembic import op
from procrastinate.schema import SchemaManager

from nimbus.migrations.tenancy import CURRENT_ORGANIZATION, definer_function, owner_policy, protect

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NIL = "00000000-0000-0000-0000-000000000000"


def upgrade() -> None:
    """Make the ground's tables and functions."""
    _job_queue()
    _audit()
    _outbox()
    _idempotency()
    _throttles()
    _test_clock()


def downgrade() -> None:
    """Leave an empty schema."""
    for table in (
        "test_clock",
        "throttles",
        "idempotency_keys",
        "outbox",
        "audit_log",
        "audit_heads",
    ):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION audit_append(uuid, uuid, text)")
    op.execute("DROP FUNCTION throttle_take(bytea, integer, integer)")
    for table in ("events", "periodic_defers", "jobs", "workers"):
        op.execute(f"DROP TABLE procrastinate_{table} CASCADE")
    op.execute(
        """DO $$ DECLARE f record; BEGIN
        FOR f IN SELECT oid::regprocedure AS name FROM pg_proc WHERE proname LIKE 'procrastinate_%'
        LOOP EXECUTE 'DROP FUNCTION ' || f.name; END LOOP; END $$"""
    )
    for name in ("job_to_defer_v1", "job_status", "job_event_type"):
        op.execute(f"DROP TYPE procrastinate_{name}")


def _job_queue() -> None:
    bind = op.get_bind()
    bind.exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
    for table in ("jobs", "events", "periodic_defers", "workers"):
        op.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON procrastinate_{table} TO nimbus_system"
        )
    # Whoever changes something may enqueue, and see no more of the queue than the new job's id.
    op.execute(
        "GRANT INSERT, SELECT (id, queueing_lock, status) ON procrastinate_jobs TO nimbus_app"
    )
    op.execute("GRANT INSERT ON procrastinate_events TO nimbus_app")
    op.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO nimbus_app, nimbus_system")


def _audit() -> None:
    op.execute(
        """CREATE TABLE audit_heads (
            organization_id uuid PRIMARY KEY,
            sequence bigint NOT NULL,
            hash bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now())"""
    )
    op.execute(
        """CREATE TABLE audit_log (
            id uuid NOT NULL,
            organization_id uuid NOT NULL,
            sequence bigint NOT NULL,
            action text NOT NULL,
            entity_type text NOT NULL,
            entity_id uuid NOT NULL,
            user_id uuid,
            at timestamptz NOT NULL,
            body text NOT NULL,
            hash bytea NOT NULL,
            transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, sequence),
            UNIQUE (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_audit_log_entity ON audit_log (organization_id, entity_id)")
    make_audit_append()
    for table in ("audit_heads", "audit_log"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        owner_policy(table)
        # The platform's own trail (NIL) is not an organization's to read.
        op.execute(
            f"CREATE POLICY tenant_select ON {table} FOR SELECT TO nimbus_app USING"
            f" (organization_id = {CURRENT_ORGANIZATION} AND organization_id <> '{NIL}')"
        )
        op.execute(f"GRANT SELECT ON {table} TO nimbus_app, nimbus_system")


def make_audit_append() -> None:
    """Add a row to an organization's chain; replaced in 0020."""
    # One chain an organization: hash = sha256(previous hash, sequence, body).
    op.execute(
        f"""CREATE FUNCTION audit_append(row_id uuid, organization uuid, content text)
        RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE head audit_heads; fields jsonb := content::jsonb;
        BEGIN
            IF session_user = 'nimbus_app' AND organization <> {CURRENT_ORGANIZATION}
               AND organization <> '{NIL}' THEN
                RAISE EXCEPTION 'an audit row of another organization' USING ERRCODE = '42501';
            END IF;
            INSERT INTO audit_heads (organization_id, sequence, hash)
                VALUES (organization, 0, sha256(uuid_send(organization))) ON CONFLICT DO NOTHING;
            SELECT * INTO head FROM audit_heads WHERE organization_id = organization FOR UPDATE;
            head.sequence := head.sequence + 1;
            head.hash := sha256(
                head.hash || int8send(head.sequence) || convert_to(content, 'UTF8'));
            INSERT INTO audit_log (id, organization_id, sequence, action, entity_type, entity_id,
                                   user_id, at, body, hash)
                VALUES (row_id, organization, head.sequence, fields->>'action',
                        fields->>'entity_type', (fields->>'entity_id')::uuid,
                        (fields->>'user_id')::uuid, (fields->>'at')::timestamptz,
                        content, head.hash);
            UPDATE audit_heads SET sequence = head.sequence, hash = head.hash
                WHERE organization_id = organization;
            RETURN head.sequence;
        END $$"""
    )
    definer_function("audit_append(uuid, uuid, text)", "nimbus_app, nimbus_system")


def _outbox() -> None:
    op.execute(
        """CREATE TABLE outbox (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid,
            name text NOT NULL,
            entity_type text NOT NULL,
            entity_id uuid NOT NULL,
            payload jsonb NOT NULL,
            occurred_at timestamptz NOT NULL,
            transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
            created_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_outbox_organization ON outbox (organization_id, occurred_at)")
    protect("outbox", two_sided=True, verbs="SELECT, INSERT")
    # A visitor's facts (a registration) belong to the platform: they may be written, not read.
    op.execute(
        "CREATE POLICY platform_insert ON outbox FOR INSERT TO nimbus_app"
        f" WITH CHECK (organization_id = '{NIL}')"
    )


def _idempotency() -> None:
    op.execute(
        """CREATE TABLE idempotency_keys (
            organization_id uuid NOT NULL,
            actor_id uuid NOT NULL,
            key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
            operation text NOT NULL,
            request_hash bytea NOT NULL,
            status integer NOT NULL,
            response jsonb,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, actor_id, operation, key))"""
    )
    protect("idempotency_keys", verbs="SELECT, INSERT, DELETE")


def _throttles() -> None:
    op.execute(
        """CREATE UNLOGGED TABLE throttles (
            bucket bytea PRIMARY KEY,
            full_at timestamptz NOT NULL)"""
    )
    # GCRA in one statement: `full_at` is when the bucket will be empty again.
    op.execute(
        """CREATE FUNCTION throttle_take(bucket_key bytea, amount integer, seconds integer)
        RETURNS double precision LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE
            step interval := make_interval(secs => seconds::double precision / amount);
            span interval := make_interval(secs => seconds);
            moment timestamptz := clock_timestamp();
            known timestamptz;
        BEGIN
            INSERT INTO throttles VALUES (bucket_key, moment) ON CONFLICT DO NOTHING;
            SELECT full_at INTO known FROM throttles WHERE bucket = bucket_key FOR UPDATE;
            known := greatest(known, moment) + step;
            IF known - moment > span THEN
                RETURN extract(epoch FROM known - moment - span);
            END IF;
            UPDATE throttles SET full_at = known WHERE bucket = bucket_key;
            RETURN 0;
        END $$"""
    )
    definer_function("throttle_take(bytea, integer, integer)", "nimbus_app, nimbus_system")
    op.execute("GRANT SELECT, DELETE ON throttles TO nimbus_system")


def _test_clock() -> None:
    op.execute(
        """CREATE TABLE test_clock (
            one boolean PRIMARY KEY DEFAULT true CHECK (one),
            instant timestamptz NOT NULL)"""
    )
    op.execute("GRANT SELECT ON test_clock TO nimbus_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON test_clock TO nimbus_system")
