# SPDX-License-Identifier: Apache-2.0
"""Access: API keys, and the numbered feed by which gateways know what holds.

The feed has one row an entity: the number of its last change. A deferred constraint trigger
numbers the change at commit under one lock that is held until the commit is visible, so a reader
who follows the numbers never skips one that becomes visible later. What a change says is read
when it is asked for, and so is never older than its number.
"""

from alembic import op

from nimbus.migrations.tenancy import definer_function, protect

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NIL = "00000000-0000-0000-0000-000000000000"
FEED_LOCK = 7_303_006
DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"

KEY_COLUMNS = (
    "key_hash, environment, scopes, ip_allow, status, expires_at, rate_per_minute, product_id,"
    " subscription_id, retired_hash, retires_at"
)
# Which changes of which tables gateways hear of: kind, the column with the entity's id, verbs.
WATCHED = (
    ("organizations", "organization", "id", "INSERT OR UPDATE OF status OR DELETE"),
    ("products", "product", "id", "INSERT OR UPDATE OR DELETE"),
    ("upstreams", "product", "product_id", "INSERT OR UPDATE OR DELETE"),
    ("routes", "product", "product_id", "INSERT OR UPDATE OR DELETE"),
    ("plan_versions", "plan", "id", "INSERT OR DELETE"),
    (
        "subscriptions",
        "subscription",
        "id",
        "INSERT OR DELETE OR UPDATE OF status, plan_version_id, trial_ends_at, ends_at, payment",
    ),
    (
        "api_keys",
        "key",
        "id",
        f"INSERT OR UPDATE OF {KEY_COLUMNS}",
    ),
)
GATEWAY_FUNCTIONS = (
    "gateway_snapshot()",
    "gateway_feed(bigint)",
    "gateway_key(bytea)",
    "gateway_hello(uuid, text, text)",
    "gateway_confirm(uuid, bigint, bigint)",
)
FEED_ROW = "TABLE (number bigint, kind text, id uuid, record jsonb)"


def upgrade() -> None:
    """Make the keys, the feed, its triggers, and what a gateway may execute."""
    _keys()
    _key_guards()
    _feed()
    _triggers()
    _record_parts()
    make_records()
    _gateways()
    _gateway_reads()
    for signature in GATEWAY_FUNCTIONS:
        definer_function(signature, "nimbus_gateway")


def downgrade() -> None:
    """Drop them in reverse; the triggers on other rooms' tables first."""
    for signature in GATEWAY_FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    for table in (*(watched[0] for watched in WATCHED), "plans", "test_clock"):
        op.execute(f"DROP TRIGGER feed ON {table}")
    for signature in (
        "grant_records(uuid[])",
        "grant_rate(integer, text, integer)",
        "grant_instant(timestamptz)",
        "grant_feed_row()",
        "grant_feed_plan()",
        "grant_feed_clock()",
        "grant_feed_note(text, uuid)",
        "access_key_by_hash(bytea)",
    ):
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TABLE gateway_instances, grant_feed, api_key_hashes, api_keys")
    op.execute("DROP SEQUENCE grant_feed_numbers")
    op.execute("DROP FUNCTION keep_key()")
    op.execute("DROP FUNCTION keep_key_hash()")


def _keys() -> None:
    op.execute(
        """CREATE TABLE api_keys (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            name text NOT NULL CHECK (name ~ '^[A-Za-z0-9 ._-]{1,100}$'),
            environment text NOT NULL CHECK (environment IN ('Test', 'Live')),
            prefix text NOT NULL,
            last8 text NOT NULL CHECK (length(last8) = 8),
            key_hash bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
            pepper_version integer NOT NULL,
            scopes text[] NOT NULL,
            rate_per_minute integer CHECK (rate_per_minute BETWEEN 1 AND 1000000),
            ip_allow cidr[] NOT NULL,
            product_id uuid,
            product_organization_id uuid,
            subscription_id uuid,
            expires_at timestamptz,
            status text NOT NULL CHECK (status IN ('Active', 'Revoked')),
            revoked_at timestamptz,
            revoked_by uuid,
            revoke_reason text CHECK (length(revoke_reason) <= 500),
            retired_hash bytea UNIQUE,
            retires_at timestamptz,
            created_by uuid,
            last_used_at timestamptz,
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            CHECK ((status = 'Revoked') = (revoked_at IS NOT NULL)),
            CHECK ((retired_hash IS NULL) = (retires_at IS NULL)),
            CHECK ((product_id IS NULL) = (product_organization_id IS NULL)),
            FOREIGN KEY (product_organization_id, product_id)
                REFERENCES products (organization_id, id),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    protect("api_keys", verbs="SELECT, INSERT, UPDATE")
    # Every hash that ever was a key's: none is issued twice, whatever became of the key.
    op.execute(
        """CREATE TABLE api_key_hashes (
            key_hash bytea PRIMARY KEY,
            organization_id uuid NOT NULL,
            key_id uuid NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            FOREIGN KEY (organization_id, key_id) REFERENCES api_keys (organization_id, id))"""
    )
    protect("api_key_hashes", verbs="SELECT")
    op.execute("REVOKE INSERT, UPDATE, DELETE ON api_key_hashes FROM nimbus_system")
    op.execute(
        f"""CREATE FUNCTION access_key_by_hash(hash bytea) RETURNS SETOF api_keys
        LANGUAGE sql STABLE {DEFINER} AS $$
            SELECT * FROM api_keys WHERE key_hash = hash OR retired_hash = hash
        $$"""
    )
    definer_function("access_key_by_hash(bytea)", "nimbus_app, nimbus_system")


def _key_guards() -> None:
    op.execute(
        """CREATE FUNCTION keep_key() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN
                RAISE EXCEPTION 'a key is never deleted' USING ERRCODE = '23001';
            ELSIF OLD.status = 'Revoked'
                  AND (NEW.status, NEW.key_hash) IS DISTINCT FROM (OLD.status, OLD.key_hash) THEN
                RAISE EXCEPTION 'a revoked key stays revoked' USING ERRCODE = '23001';
            END IF;
            RETURN NEW;
        END $$"""
    )
    op.execute(
        "CREATE TRIGGER keep_key BEFORE UPDATE OR DELETE ON api_keys"
        " FOR EACH ROW EXECUTE FUNCTION keep_key()"
    )
    op.execute(
        f"""CREATE FUNCTION keep_key_hash() RETURNS trigger LANGUAGE plpgsql {DEFINER} AS $$
        BEGIN
            IF TG_OP = 'INSERT' OR NEW.key_hash <> OLD.key_hash THEN
                INSERT INTO api_key_hashes (key_hash, organization_id, key_id)
                    VALUES (NEW.key_hash, NEW.organization_id, NEW.id);
            END IF;
            RETURN NULL;
        END $$"""
    )
    op.execute("REVOKE EXECUTE ON FUNCTION keep_key_hash() FROM PUBLIC")
    op.execute(
        "CREATE TRIGGER keep_key_hash AFTER INSERT OR UPDATE OF key_hash ON api_keys"
        " FOR EACH ROW EXECUTE FUNCTION keep_key_hash()"
    )


def _feed() -> None:
    op.execute("CREATE SEQUENCE grant_feed_numbers")
    op.execute(
        """CREATE TABLE grant_feed (
            number bigint PRIMARY KEY,
            kind text NOT NULL,
            entity_id uuid NOT NULL,
            transaction_id xid8 NOT NULL,
            changed_at timestamptz NOT NULL,
            UNIQUE (kind, entity_id))"""
    )
    op.execute("GRANT SELECT ON grant_feed TO nimbus_system")
    # The lock is let go after the commit can be seen, so numbers are seen in their order.
    op.execute(
        f"""CREATE FUNCTION grant_feed_note(what text, entity uuid) RETURNS void
        LANGUAGE plpgsql {DEFINER} AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock({FEED_LOCK});
            INSERT INTO grant_feed AS f (number, kind, entity_id, transaction_id, changed_at)
                VALUES (nextval('grant_feed_numbers'), what, entity, pg_current_xact_id(),
                        clock_timestamp())
                ON CONFLICT (kind, entity_id) DO UPDATE SET number = excluded.number,
                    transaction_id = excluded.transaction_id, changed_at = excluded.changed_at
                WHERE f.transaction_id <> excluded.transaction_id;
            PERFORM pg_notify('nimbus_feed', '');
        END $$"""
    )
    definer_function("grant_feed_note(text, uuid)", "nimbus_app, nimbus_system")


def _triggers() -> None:
    op.execute(
        """CREATE FUNCTION grant_feed_row() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
        BEGIN
            PERFORM grant_feed_note(TG_ARGV[0], (changed ->> TG_ARGV[1])::uuid);
            RETURN NULL;
        END $$"""
    )
    # A plan's name and rank are in its versions' records and in those of its product's routes.
    op.execute(
        """CREATE FUNCTION grant_feed_plan() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE changed plans := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
        BEGIN
            PERFORM grant_feed_note('product', changed.product_id);
            PERFORM grant_feed_note('plan', v.id) FROM plan_versions v WHERE v.plan_id = changed.id;
            RETURN NULL;
        END $$"""
    )
    op.execute(
        f"""CREATE FUNCTION grant_feed_clock() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM grant_feed_note('clock', '{NIL}');
            RETURN NULL;
        END $$"""
    )
    for table, kind, column, verbs in WATCHED:
        _watch(table, verbs, f"grant_feed_row('{kind}', '{column}')")
    _watch("plans", "INSERT OR UPDATE OR DELETE", "grant_feed_plan()")
    _watch("test_clock", "INSERT OR UPDATE OR DELETE", "grant_feed_clock()")


def _watch(table: str, verbs: str, function: str) -> None:
    op.execute(
        f"CREATE CONSTRAINT TRIGGER feed AFTER {verbs} ON {table}"
        f" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}"
    )


def _record_parts() -> None:
    op.execute(
        """CREATE FUNCTION grant_instant(instant timestamptz) RETURNS text LANGUAGE sql IMMUTABLE
        AS $$ SELECT to_char(instant AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$"""
    )
    op.execute(
        """CREATE FUNCTION grant_rate(amount integer, period text, burst integer) RETURNS jsonb
        LANGUAGE sql IMMUTABLE AS $$
            SELECT CASE WHEN amount IS NOT NULL THEN jsonb_build_object('amount', amount,
                'burst', burst, 'period_s', CASE period WHEN 'second' THEN 1
                    WHEN 'minute' THEN 60 WHEN 'hour' THEN 3600 END) END
        $$"""
    )


def make_records() -> None:
    """Make or replace what is live now: of everything, or (with `ids`) of these; who is not in
    the answer is gone.
    """
    records = (_CLOCK, _ORGANIZATION, _PRODUCT, _PLAN, _SUBSCRIPTION, _KEY)
    asked = "(ids IS NULL OR e.id = ANY (ids))"
    queries = "\n UNION ALL ".join(record.replace("{ASKED}", asked) for record in records)
    op.execute(
        f"""CREATE OR REPLACE FUNCTION grant_records(ids uuid[])
        RETURNS TABLE (kind text, id uuid, record jsonb) LANGUAGE plpgsql STABLE
        SET search_path = pg_catalog, public, pg_temp AS $$
        #variable_conflict use_column
        DECLARE
            business_now timestamptz :=
                coalesce((SELECT instant FROM test_clock), clock_timestamp());
        BEGIN
            RETURN QUERY {queries};
        END $$"""
    )
    op.execute("REVOKE EXECUTE ON FUNCTION grant_records(uuid[]) FROM PUBLIC")


_CLOCK = f"""
    SELECT 'clock', '{NIL}'::uuid, jsonb_build_object('now', grant_instant(e.instant))
    FROM (SELECT c.instant, '{NIL}'::uuid AS id FROM test_clock c) e WHERE {{ASKED}}"""
_ORGANIZATION = """
    SELECT 'organization', e.id, jsonb_build_object('id', e.id, 'status', e.status)
    FROM organizations e WHERE {ASKED}"""
_PRODUCT = """
    SELECT 'product', e.id, jsonb_build_object(
        'id', e.id, 'slug', e.slug, 'provider_organization_id', e.organization_id,
        'status', e.status, 'key_in_query', e.key_in_query,
        'upstreams', coalesce((
            SELECT jsonb_object_agg(u.environment, jsonb_build_object(
                'base_url', u.base_url, 'auth_header', u.auth_header,
                'auth_secret_sealed',
                    translate(encode(u.auth_secret_sealed, 'base64'), E'\\n', ''),
                'connect_timeout_ms', u.connect_timeout_ms,
                'answer_timeout_ms', u.answer_timeout_ms))
            FROM upstreams u WHERE u.product_id = e.id), '{}'),
        'routes', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'id', r.id, 'method', r.method, 'path', r.path, 'upstream_path', r.upstream_path,
                'scope', r.scope, 'minimum_rank', m.rank, 'minimum_plan', m.name,
                'weight', r.weight,
                'rate', grant_rate(r.rate_amount, r.rate_period, r.rate_burst)) ORDER BY r.id)
            FROM routes r LEFT JOIN plans m ON m.id = r.minimum_plan_id
            WHERE r.product_id = e.id), '[]'))
    FROM products e WHERE {ASKED}"""
_PLAN = """
    SELECT 'plan', e.id, jsonb_build_object(
        'id', e.id, 'plan_id', p.id, 'product_id', p.product_id, 'slug', p.slug, 'name', p.name,
        'rank', p.rank, 'rate', grant_rate(e.rate_amount, e.rate_period, e.rate_burst),
        'over_quota_policy', e.over_quota_policy)
    FROM plan_versions e JOIN plans p ON p.id = e.plan_id WHERE {ASKED}"""
# A trial that will be paid goes on by itself: its end is no end of service.
_SUBSCRIPTION = """
    SELECT 'subscription', e.id, jsonb_build_object(
        'id', e.id, 'organization_id', e.organization_id,
        'provider_organization_id', e.provider_organization_id, 'product_id', e.product_id,
        'plan_version_id', e.plan_version_id, 'status', e.status,
        'trial_ends_at', CASE WHEN e.payment IS NULL THEN grant_instant(e.trial_ends_at) END,
        'ends_at', grant_instant(e.ends_at),
        'standings', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'id', q.id, 'meter_key', q.meter_key, 'limit', q.limit_units, 'policy', q.policy,
                'period_starts_at', grant_instant(q.period_starts_at),
                'period_ends_at', grant_instant(q.period_ends_at)) ORDER BY q.id)
            FROM quota_standings q
            WHERE q.subscription_id = e.id AND q.period_ends_at > business_now), '[]'))
    FROM subscriptions e WHERE e.status <> 'Expired' AND {ASKED}"""
# A gateway that starts need not know revoked keys; one that asks is told.
_KEY = """
    SELECT 'key', e.id, jsonb_build_object(
        'id', e.id, 'hash', encode(e.key_hash, 'hex'),
        'retired_hash', encode(e.retired_hash, 'hex'),
        'retires_at', grant_instant(e.retires_at), 'organization_id', e.organization_id,
        'environment', e.environment, 'scopes', to_jsonb(e.scopes),
        'ip_allow', to_jsonb(e.ip_allow), 'status', e.status,
        'expires_at', grant_instant(e.expires_at), 'rate_per_minute', e.rate_per_minute,
        'product_id', e.product_id, 'subscription_id', e.subscription_id)
    FROM api_keys e WHERE {ASKED} AND (ids IS NOT NULL OR e.status = 'Active')"""


def _gateways() -> None:
    op.execute(
        """CREATE TABLE gateway_instances (
            id uuid PRIMARY KEY,
            node text NOT NULL,
            journal text NOT NULL,
            number bigint NOT NULL DEFAULT 0,
            journal_sequence bigint NOT NULL DEFAULT 0,
            started_at timestamptz NOT NULL,
            seen_at timestamptz NOT NULL)"""
    )
    op.execute("GRANT SELECT, DELETE ON gateway_instances TO nimbus_system")
    op.execute(
        f"""CREATE FUNCTION gateway_hello(gateway uuid, node text, journal text) RETURNS void
        LANGUAGE plpgsql {DEFINER} AS $$
        #variable_conflict use_variable
        BEGIN
            INSERT INTO gateway_instances (id, node, journal, started_at, seen_at)
                VALUES (gateway, node, journal, clock_timestamp(), clock_timestamp())
                ON CONFLICT (id) DO UPDATE SET node = excluded.node, journal = excluded.journal,
                    seen_at = excluded.seen_at;
        END $$"""
    )
    op.execute(
        f"""CREATE FUNCTION gateway_confirm(gateway uuid, number bigint, journal_sequence bigint)
        RETURNS void LANGUAGE plpgsql {DEFINER} AS $$
        BEGIN
            UPDATE gateway_instances g SET number = gateway_confirm.number,
                journal_sequence = gateway_confirm.journal_sequence, seen_at = clock_timestamp()
                WHERE g.id = gateway;
        END $$"""
    )


def _gateway_reads() -> None:
    """STABLE: number and records come from one snapshot, the caller's statement's."""
    head = "coalesce((SELECT max(f.number) FROM grant_feed f), 0)"
    op.execute(
        f"""CREATE FUNCTION gateway_snapshot() RETURNS {FEED_ROW}
        LANGUAGE plpgsql STABLE {DEFINER} AS $$
        #variable_conflict use_column
        BEGIN
            RETURN QUERY SELECT {head}, r.kind, r.id, r.record FROM grant_records(NULL) r;
        END $$"""
    )
    # After a number that is still to come: another database stands here now; begin anew.
    op.execute(
        f"""CREATE FUNCTION gateway_feed(after bigint) RETURNS {FEED_ROW}
        LANGUAGE plpgsql STABLE {DEFINER} AS $$
        #variable_conflict use_column
        DECLARE head bigint := {head}; changed uuid[];
        BEGIN
            IF after > head THEN
                RETURN QUERY SELECT head, 'reset', '{NIL}'::uuid, NULL::jsonb;
            ELSIF after < head THEN
                SELECT array_agg(f.entity_id) INTO changed FROM grant_feed f
                    WHERE f.number > after;
                RETURN QUERY SELECT f.number, f.kind, f.entity_id, r.record
                    FROM grant_feed f
                    LEFT JOIN grant_records(changed) r ON r.kind = f.kind AND r.id = f.entity_id
                    WHERE f.number > after ORDER BY f.number;
            END IF;
        END $$"""
    )
    op.execute(
        f"""CREATE FUNCTION gateway_key(key_hash bytea) RETURNS {FEED_ROW}
        LANGUAGE plpgsql STABLE {DEFINER} AS $$
        #variable_conflict use_column
        DECLARE head bigint := {head}; wanted uuid[];
        BEGIN
            SELECT ARRAY[k.id, k.organization_id] || array(
                    SELECT s.id FROM subscriptions s
                    WHERE s.organization_id = k.organization_id AND s.status <> 'Expired')
                INTO wanted FROM api_keys k
                WHERE k.key_hash = gateway_key.key_hash OR k.retired_hash = gateway_key.key_hash;
            IF FOUND THEN
                RETURN QUERY SELECT head, r.kind, r.id, r.record FROM grant_records(wanted) r;
            END IF;
        END $$"""
    )
