# SPDX-License-Identifier: Apache-2.0
"""What the gate asks of the catalogue: host names, address lists, parameters, billable statuses.

The feed's records become one function a kind, which later migrations replace one by one.
"""

from importlib import import_module

from alembic import op

from nimbus.migrations.feed import record_function, watch
from nimbus.migrations.tenancy import protect

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NIL = "00000000-0000-0000-0000-000000000000"

ORGANIZATION = "jsonb_build_object('id', e.id, 'status', e.status)"
PRODUCT = """jsonb_build_object(
    'id', e.id, 'slug', e.slug, 'provider_organization_id', e.organization_id,
    'status', e.status, 'key_in_query', e.key_in_query,
    'hosts', coalesce((
        SELECT jsonb_agg(h.name ORDER BY h.name) FROM product_hosts h WHERE h.product_id = e.id
        ), '[]'),
    'ip_allow', to_jsonb(e.ip_allow), 'ip_deny', to_jsonb(e.ip_deny),
    'parameter_check', e.parameter_check, 'billable_statuses', to_jsonb(e.billable_statuses),
    'websockets', e.websockets,
    'upstreams', coalesce((
        SELECT jsonb_object_agg(u.environment, jsonb_build_object(
            'base_url', u.base_url, 'auth_header', u.auth_header,
            'auth_secret_sealed', translate(encode(u.auth_secret_sealed, 'base64'), E'\\n', ''),
            'connect_timeout_ms', u.connect_timeout_ms,
            'answer_timeout_ms', u.answer_timeout_ms, 'max_concurrent', u.max_concurrent))
        FROM upstreams u WHERE u.product_id = e.id), '{}'),
    'routes', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'id', r.id, 'method', r.method, 'path', r.path, 'upstream_path', r.upstream_path,
            'scope', r.scope, 'minimum_rank', m.rank, 'minimum_plan', m.name,
            'weight', r.weight,
            'ip_allow', to_jsonb(r.ip_allow), 'ip_deny', to_jsonb(r.ip_deny),
            'required', coalesce((
                SELECT jsonb_agg(p.value -> 'name') FROM jsonb_array_elements(r.parameters) p
                WHERE p.value ->> 'place' = 'query' AND (p.value ->> 'required')::boolean), '[]'),
            'strict_journal', r.strict_journal,
            'rate', grant_rate(r.rate_amount, r.rate_period, r.rate_burst)) ORDER BY r.id)
        FROM routes r LEFT JOIN plans m ON m.id = r.minimum_plan_id
        WHERE r.product_id = e.id), '[]'))"""
# A version without its plan is none.
PLAN = """jsonb_build_object(
    'id', e.id, 'plan_id', p.id, 'product_id', p.product_id, 'slug', p.slug, 'name', p.name,
    'rank', p.rank, 'rate', grant_rate(e.rate_amount, e.rate_period, e.rate_burst),
    'over_quota_policy', e.over_quota_policy)
    FROM plans p WHERE p.id = e.plan_id"""
# A trial that will be paid goes on by itself: its end is no end of service.
SUBSCRIPTION = """jsonb_build_object(
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
        WHERE q.subscription_id = e.id AND q.period_ends_at > business_now), '[]'))"""
KEY = """jsonb_build_object(
    'id', e.id, 'hash', encode(e.key_hash, 'hex'),
    'retired_hash', encode(e.retired_hash, 'hex'),
    'retires_at', grant_instant(e.retires_at), 'organization_id', e.organization_id,
    'environment', e.environment, 'scopes', to_jsonb(e.scopes),
    'ip_allow', to_jsonb(e.ip_allow), 'status', e.status,
    'expires_at', grant_instant(e.expires_at), 'rate_per_minute', e.rate_per_minute,
    'product_id', e.product_id, 'subscription_id', e.subscription_id)"""
COLUMNS = {
    "products": (
        "ip_allow cidr[] NOT NULL DEFAULT '{}'",
        "ip_deny cidr[] NOT NULL DEFAULT '{}'",
        "parameter_check boolean NOT NULL DEFAULT false",
        "billable_statuses text[] CHECK (cardinality(billable_statuses) BETWEEN 1 AND 100)",
        "websockets boolean NOT NULL DEFAULT false",
    ),
    "upstreams": (
        "max_concurrent integer NOT NULL DEFAULT 256 CHECK (max_concurrent BETWEEN 1 AND 100000)",
    ),
    "routes": (
        "ip_allow cidr[] NOT NULL DEFAULT '{}'",
        "ip_deny cidr[] NOT NULL DEFAULT '{}'",
        "parameters jsonb NOT NULL DEFAULT '[]'",
        "strict_journal boolean NOT NULL DEFAULT false",
    ),
}
RECORDS = {
    "grant_organization(e organizations)": ORGANIZATION,
    "grant_product(e products)": PRODUCT,
    "grant_plan(e plan_versions)": PLAN,
    "grant_subscription(e subscriptions, business_now timestamptz)": SUBSCRIPTION,
    "grant_key(e api_keys)": KEY,
}


def upgrade() -> None:
    """Add the columns and host names, and give each kind of record its function."""
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    _hosts()
    for signature, record in RECORDS.items():
        record_function(signature, record)
    make_records()


def downgrade() -> None:
    """Say all records in one function again."""
    import_module("nimbus.migrations.versions.0006_access").make_records()
    for signature in RECORDS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TABLE product_hosts")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column.split()[0]}")


def _hosts() -> None:
    # A name leads to one product, whoever's it is: unique over the installation.
    op.execute(
        """CREATE TABLE product_hosts (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            name text NOT NULL CONSTRAINT uq_product_hosts_name UNIQUE CHECK (
                length(name) <= 253 AND name ~
                    '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            FOREIGN KEY (organization_id, product_id)
                REFERENCES products (organization_id, id) ON DELETE CASCADE)"""
    )
    op.execute("CREATE INDEX ix_product_hosts_product ON product_hosts (product_id)")
    protect(
        "product_hosts",
        read_also="EXISTS (SELECT 1 FROM products p WHERE p.id = product_id)",
        verbs="SELECT, INSERT, DELETE",
    )
    watch(
        "product_hosts",
        "INSERT OR UPDATE OR DELETE",
        "grant_feed_row('product', 'product_id')",
    )


def make_records(more: str = "") -> None:
    """Say all kinds in one function; `more` are the kinds that a later migration adds."""
    # A gateway that starts need not know revoked keys; one that asks is told.
    op.execute(
        f"""CREATE OR REPLACE FUNCTION grant_records(ids uuid[])
        RETURNS TABLE (kind text, id uuid, record jsonb) LANGUAGE plpgsql STABLE
        SET search_path = pg_catalog, public, pg_temp AS $$
        #variable_conflict use_column
        DECLARE
            business_now timestamptz :=
                coalesce((SELECT instant FROM test_clock), clock_timestamp());
        BEGIN
            RETURN QUERY
            SELECT 'clock', '{NIL}'::uuid, jsonb_build_object('now', grant_instant(c.instant))
                FROM test_clock c WHERE ids IS NULL OR '{NIL}' = ANY (ids)
            UNION ALL SELECT 'organization', e.id, grant_organization(e)
                FROM organizations e WHERE ids IS NULL OR e.id = ANY (ids)
            UNION ALL SELECT 'product', e.id, grant_product(e)
                FROM products e WHERE ids IS NULL OR e.id = ANY (ids)
            UNION ALL SELECT 'plan', e.id, grant_plan(e)
                FROM plan_versions e WHERE ids IS NULL OR e.id = ANY (ids)
            UNION ALL SELECT 'subscription', e.id, grant_subscription(e, business_now)
                FROM subscriptions e
                WHERE e.status <> 'Expired' AND (ids IS NULL OR e.id = ANY (ids))
            UNION ALL SELECT 'key', e.id, grant_key(e)
                FROM api_keys e
                WHERE (ids IS NULL AND e.status = 'Active') OR e.id = ANY (ids)
            {more};
        END $$"""
    )
