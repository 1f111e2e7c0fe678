# SPDX-License-Identifier: Apache-2.0
"""The catalogue: products with upstreams, routes and meters; plans with versions and prices."""

from alembic import op

from nimbus.migrations.tenancy import definer_function, protect

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SLUG = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
TERMS = ("plan_prices", "plan_charges", "plan_quotas")


def upgrade() -> None:
    """Make the catalogue's tables, who may read them, and what may never change."""
    _products()
    _upstreams()
    _meters()
    _plans()
    _plan_versions()
    _plan_terms()
    _routes()
    _immutable_versions()
    _operator()


def downgrade() -> None:
    """Drop them in reverse."""
    op.execute("DROP FUNCTION catalog_operator()")
    op.execute("ALTER TABLE plans DROP CONSTRAINT fk_plans_current_version")
    op.execute("DROP TABLE routes, plan_quotas, plan_charges, plan_prices, plan_versions")
    op.execute("DROP TABLE plans, meters, upstreams, products")
    op.execute("DROP FUNCTION keep_published_version()")
    op.execute("DROP FUNCTION keep_published_terms()")
    op.execute("DROP FUNCTION refuse_published(uuid)")


def _products() -> None:
    op.execute(
        f"""CREATE TABLE products (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            slug text NOT NULL CONSTRAINT uq_products_slug UNIQUE CHECK (slug ~ '{SLUG}'),
            name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
            category text NOT NULL CHECK (length(category) <= 50),
            short_description text NOT NULL CHECK (length(short_description) <= 300),
            description text NOT NULL CHECK (length(description) <= 20000),
            version_label text NOT NULL CHECK (length(version_label) <= 40),
            status text NOT NULL CHECK (status IN ('draft', 'published', 'retired')),
            visibility text NOT NULL CHECK (visibility IN ('public', 'unlisted')),
            key_in_query boolean NOT NULL,
            published_at timestamptz,
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )
    protect("products", read_also="status = 'published'")


def _upstreams() -> None:
    # No `read_also`: addresses and credentials of upstreams are their provider's alone.
    op.execute(
        """CREATE TABLE upstreams (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            environment text NOT NULL CHECK (environment IN ('Live', 'Test')),
            base_url text NOT NULL CHECK (length(base_url) <= 2000),
            auth_header text CHECK (length(auth_header) BETWEEN 1 AND 100),
            auth_secret_sealed bytea,
            connect_timeout_ms integer NOT NULL CHECK (connect_timeout_ms BETWEEN 1 AND 60000),
            answer_timeout_ms integer NOT NULL CHECK (answer_timeout_ms BETWEEN 1 AND 600000),
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, product_id, environment),
            CHECK ((auth_header IS NULL) = (auth_secret_sealed IS NULL)),
            FOREIGN KEY (organization_id, product_id)
                REFERENCES products (organization_id, id) ON DELETE CASCADE)"""
    )
    protect("upstreams")


def _meters() -> None:
    op.execute(
        """CREATE TABLE meters (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            key text NOT NULL CHECK (key ~ '^[a-z][a-z0-9_]{0,49}$'),
            unit text NOT NULL CHECK (length(unit) BETWEEN 1 AND 40),
            aggregation text NOT NULL CHECK (aggregation IN
                ('count', 'sum', 'max', 'last', 'unique', 'time_weighted')),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            CONSTRAINT uq_meters_key UNIQUE (organization_id, product_id, key),
            FOREIGN KEY (organization_id, product_id)
                REFERENCES products (organization_id, id) ON DELETE CASCADE)"""
    )
    protect("meters", read_also=_of_visible("products", "product_id"))


def _plans() -> None:
    op.execute(
        f"""CREATE TABLE plans (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            slug text NOT NULL CHECK (slug ~ '{SLUG}'),
            name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
            rank integer NOT NULL CHECK (rank BETWEEN 0 AND 1000000),
            status text NOT NULL CHECK (status IN ('draft', 'active', 'archived')),
            visibility text NOT NULL CHECK (visibility IN ('public', 'unlisted')),
            current_version_id uuid NOT NULL,
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, product_id, id),
            CONSTRAINT uq_plans_slug UNIQUE (organization_id, product_id, slug),
            FOREIGN KEY (organization_id, product_id)
                REFERENCES products (organization_id, id) ON DELETE CASCADE)"""
    )
    # Ranks decide what a plan includes and which change is an upgrade: no two may be equal.
    op.execute(
        "CREATE UNIQUE INDEX uq_plans_rank ON plans (organization_id, product_id, rank)"
        " WHERE status <> 'archived'"
    )
    protect("plans", read_also=f"status = 'active' AND {_of_visible('products', 'product_id')}")


def _plan_versions() -> None:
    op.execute(
        """CREATE TABLE plan_versions (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            plan_id uuid NOT NULL,
            number integer NOT NULL CHECK (number >= 1),
            interval text NOT NULL CHECK (interval IN ('day', 'week', 'month', 'quarter', 'year')),
            interval_count integer NOT NULL CHECK (interval_count BETWEEN 1 AND 100),
            base_fee_timing text NOT NULL CHECK (base_fee_timing IN ('advance', 'arrears')),
            proration text NOT NULL CHECK (proration IN ('second', 'day', 'none')),
            anchor text NOT NULL CHECK (anchor IN ('start', 'calendar')),
            grace_hours integer NOT NULL CHECK (grace_hours BETWEEN 0 AND 720),
            trial_days integer NOT NULL CHECK (trial_days BETWEEN 0 AND 365),
            rate_amount integer CHECK (rate_amount BETWEEN 1 AND 1000000),
            rate_period text CHECK (rate_period IN ('second', 'minute', 'hour')),
            rate_burst integer CHECK (rate_burst BETWEEN 1 AND 1000000),
            over_quota_policy text NOT NULL
                CHECK (over_quota_policy IN ('deny', 'warn', 'allow', 'overage')),
            payment_on_invoice boolean NOT NULL,
            payment_term_days integer NOT NULL CHECK (payment_term_days BETWEEN 0 AND 365),
            published_at timestamptz,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, plan_id, id),
            UNIQUE (organization_id, product_id, id),
            UNIQUE (organization_id, plan_id, number),
            CHECK (num_nulls(rate_amount, rate_period) <> 1),
            CHECK (rate_burst IS NULL OR rate_amount IS NOT NULL),
            FOREIGN KEY (organization_id, product_id, plan_id)
                REFERENCES plans (organization_id, product_id, id) ON DELETE CASCADE)"""
    )
    op.execute(
        "ALTER TABLE plans ADD CONSTRAINT fk_plans_current_version"
        " FOREIGN KEY (organization_id, id, current_version_id)"
        " REFERENCES plan_versions (organization_id, plan_id, id)"
        " DEFERRABLE INITIALLY DEFERRED"
    )
    # The plan's own policy decides within: others see active plans of published products.
    protect(
        "plan_versions",
        read_also="EXISTS (SELECT 1 FROM plans p WHERE p.current_version_id = plan_versions.id)",
    )


def _plan_terms() -> None:
    version = (
        "FOREIGN KEY (organization_id, product_id, plan_version_id)"
        " REFERENCES plan_versions (organization_id, product_id, id) ON DELETE CASCADE"
    )
    # Asked at commit, because a product's meters and plans go together.
    meter = (
        "FOREIGN KEY (organization_id, product_id, meter_key)"
        " REFERENCES meters (organization_id, product_id, key) DEFERRABLE INITIALLY DEFERRED"
    )
    op.execute(
        f"""CREATE TABLE plan_prices (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            currency char(3) NOT NULL CHECK (currency ~ '^[A-Z]{{3}}$'),
            base_fee_minor bigint NOT NULL CHECK (base_fee_minor >= 0),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, plan_version_id, currency),
            {version})"""
    )
    op.execute(
        f"""CREATE TABLE plan_charges (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            currency char(3) NOT NULL,
            position integer NOT NULL CHECK (position >= 0),
            meter_key text NOT NULL,
            model text NOT NULL,
            included numeric(38, 12) NOT NULL CHECK (included >= 0),
            unit_price numeric(30, 12) NOT NULL CHECK (unit_price >= 0),
            terms jsonb NOT NULL,
            description jsonb,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, plan_version_id, currency, meter_key),
            FOREIGN KEY (organization_id, plan_version_id, currency) REFERENCES
                plan_prices (organization_id, plan_version_id, currency) ON DELETE CASCADE,
            {version},
            {meter})"""
    )
    op.execute(
        f"""CREATE TABLE plan_quotas (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            meter_key text NOT NULL,
            amount bigint CHECK (amount >= 0),
            period text NOT NULL CHECK (period IN ('day', 'week', 'month', 'year', 'cycle')),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, plan_version_id, meter_key, period),
            {version},
            {meter})"""
    )
    for table in TERMS:
        op.execute(f"CREATE INDEX ix_{table}_version ON {table} (plan_version_id)")
        protect(table, read_also=_of_visible("plan_versions", "plan_version_id"))


def _routes() -> None:
    op.execute(
        """CREATE TABLE routes (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            method text NOT NULL CHECK (method IN
                ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS')),
            path text NOT NULL CHECK (path ~ '^/' AND length(path) <= 500),
            upstream_path text NOT NULL CHECK (upstream_path ~ '^/'),
            title text NOT NULL CHECK (length(title) <= 100),
            description text NOT NULL CHECK (length(description) <= 5000),
            minimum_plan_id uuid,
            scope text,
            weight integer NOT NULL CHECK (weight BETWEEN 0 AND 1000000),
            rate_amount integer CHECK (rate_amount BETWEEN 1 AND 1000000),
            rate_period text CHECK (rate_period IN ('second', 'minute', 'hour')),
            rate_burst integer CHECK (rate_burst BETWEEN 1 AND 1000000),
            public boolean NOT NULL,
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            CHECK (num_nulls(rate_amount, rate_period) <> 1),
            CHECK (rate_burst IS NULL OR rate_amount IS NOT NULL),
            FOREIGN KEY (organization_id, product_id)
                REFERENCES products (organization_id, id) ON DELETE CASCADE,
            FOREIGN KEY (organization_id, product_id, minimum_plan_id)
                REFERENCES plans (organization_id, product_id, id)
                DEFERRABLE INITIALLY DEFERRED)"""
    )
    # /farms/{id} and /farms/{farm} would answer the same calls: one of them only.
    op.execute(
        "CREATE UNIQUE INDEX uq_routes_path ON routes (organization_id, product_id, method,"
        " regexp_replace(path, '\\{[^}]*\\}', '{}', 'g'))"
    )
    protect("routes", read_also=f"public AND {_of_visible('products', 'product_id')}")


def _immutable_versions() -> None:
    """What a subscriber signed stays as it was; it goes only with the whole plan."""
    op.execute(
        """CREATE FUNCTION keep_published_version() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN
                IF OLD.published_at IS NULL
                   OR NOT EXISTS (SELECT 1 FROM plans WHERE id = OLD.plan_id) THEN
                    RETURN OLD;
                END IF;
            ELSIF OLD.published_at IS NULL THEN
                RETURN NEW;
            END IF;
            RAISE EXCEPTION 'a published plan version never changes' USING ERRCODE = '23001';
        END $$"""
    )
    op.execute(
        "CREATE TRIGGER keep_published BEFORE UPDATE OR DELETE ON plan_versions"
        " FOR EACH ROW EXECUTE FUNCTION keep_published_version()"
    )
    op.execute(
        """CREATE FUNCTION refuse_published(version uuid) RETURNS void LANGUAGE plpgsql AS $$
        DECLARE published timestamptz;
        BEGIN
            SELECT published_at INTO published FROM plan_versions WHERE id = version FOR SHARE;
            IF published IS NOT NULL THEN
                RAISE EXCEPTION 'the terms of a published plan version never change'
                    USING ERRCODE = '23001';
            END IF;
        END $$"""
    )
    op.execute(
        """CREATE FUNCTION keep_published_terms() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP <> 'INSERT' THEN
                PERFORM refuse_published(OLD.plan_version_id);
            END IF;
            IF TG_OP = 'DELETE' THEN
                RETURN OLD;
            END IF;
            PERFORM refuse_published(NEW.plan_version_id);
            RETURN NEW;
        END $$"""
    )
    for table in TERMS:
        op.execute(
            f"CREATE TRIGGER keep_published BEFORE INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION keep_published_terms()"
        )


def _operator() -> None:
    """Whose product is meant where none is named: the operator is who the seller's data is of."""
    op.execute(
        """CREATE FUNCTION catalog_operator() RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        BEGIN
            RETURN (SELECT organization_id FROM sellers WHERE current);
        END $$"""
    )
    definer_function("catalog_operator()", "nimbus_app, nimbus_system")


def _of_visible(parent: str, column: str) -> str:
    """A condition under the parent's own policy: who sees the parent sees what belongs to it."""
    return f"EXISTS (SELECT 1 FROM {parent} parent WHERE parent.id = {column})"
