# SPDX-License-Identifier: Apache-2.0
"""Quotas that roll over, are reset and raised; entitlements; quotas of keys; what was told.

A standing that is counted anew keeps its row and its leases; what it had counted becomes a row of
its own, closed. A key's quota is a standing beside the key's money, in units.
"""

from importlib import import_module
from typing import Any

from alembic import op

from nimbus.migrations.feed import record_function, watch
from nimbus.migrations.tenancy import protect

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

STORING_LOCK = 7_303_020
UNITS = 10**15
QUOTA_COLUMNS = (
    f"overage_cap bigint CHECK (overage_cap BETWEEN 0 AND {UNITS})",
    f"roll_over bigint NOT NULL DEFAULT 0 CHECK (roll_over BETWEEN 0 AND {UNITS})",
    "roll_over_windows smallint NOT NULL DEFAULT 1 CHECK (roll_over_windows BETWEEN 1 AND 12)",
    "on_plan_change text NOT NULL DEFAULT 'carry' CHECK (on_plan_change IN ('carry', 'reset'))",
)
STANDING_COLUMNS = (
    "plan_version_id uuid",
    "own_units bigint CHECK (own_units >= 0)",
    "best_units bigint CHECK (best_units >= 0)",
    "used_before numeric(38, 12) NOT NULL DEFAULT 0 CHECK (used_before >= 0)",
    "rolled bigint[] NOT NULL DEFAULT '{}'",
    "increase_units bigint NOT NULL DEFAULT 0 CHECK (increase_units >= 0)",
    "overage_cap bigint CHECK (overage_cap >= 0)",
    "told smallint NOT NULL DEFAULT 0 CHECK (told IN (0, 50, 80, 100))",
    "rolls_over_at timestamptz",
    "closed_at timestamptz",
    "closed_because text CHECK ((closed_at IS NULL) = (closed_because IS NULL))",
)
TOLD = "told smallint NOT NULL DEFAULT 0 CHECK (told IN (0, 50, 80, 100))"
ONE_OPEN = "organization_id, subscription_id, meter_key, period, period_starts_at"
CEILING = """CASE WHEN quota.policy = 'deny' THEN quota.limit_units
                WHEN quota.policy = 'overage' THEN quota.limit_units + quota.overage_cap END"""
# A key that has a quota, and no row of this month: it begins with what the key has used already.
OPEN_KEY_QUOTAS = f"""
            IF EXISTS (SELECT FROM api_keys k
                WHERE k.organization_id = organization AND k.id = ANY (keys)
                  AND k.monthly_quota IS NOT NULL AND NOT EXISTS (
                    SELECT FROM spend_standings s WHERE s.organization_id = organization
                      AND s.kind = 'key_quota' AND s.key_id = k.id AND s.period_starts_at = starts))
            THEN
                PERFORM pg_advisory_xact_lock({STORING_LOCK});
                INSERT INTO spend_standings (id, organization_id, kind, key_id, period_starts_at,
                        period_ends_at, limit_micro, used)
                    SELECT gen_random_uuid(), organization, 'key_quota', k.id, starts, ends,
                           k.monthly_quota, key_units(organization, k.id, starts, ends)
                    FROM api_keys k WHERE k.organization_id = organization AND k.id = ANY (keys)
                      AND k.monthly_quota IS NOT NULL
                    ON CONFLICT DO NOTHING;
            END IF;"""
KINDS = "('organization_spend', 'key_spend', 'balance')"
WITH_KEY_QUOTA = "('organization_spend', 'key_spend', 'balance', 'key_quota')"


def upgrade() -> None:
    """Add what plans say, what standings know, and how keys are counted."""
    for column in QUOTA_COLUMNS:
        op.execute(f"ALTER TABLE plan_quotas ADD COLUMN {column}")
    _entitlements()
    _standings()
    _increases()
    _key_quotas()
    money = _money()
    money.make_lease(CEILING)
    money.make_open(OPEN_KEY_QUOTAS)
    money.make_limit_changed("'balance', 'key_quota'")
    for signature, record in _records().items():
        record_function(signature, record)


def downgrade() -> None:
    """Take that back; what was closed goes."""
    money = _money()
    for signature, record in money._records().items():  # noqa: SLF001 - as that migration says
        if signature in _records():
            record_function(signature, record)
    money.make_limit_changed()
    money.make_open()
    money.make_lease()
    op.execute("DROP TRIGGER key_quota ON api_keys")
    op.execute("DROP TRIGGER key_quota_new ON api_keys")
    op.execute("DROP FUNCTION key_quota_changed(), key_units(uuid, uuid, timestamptz, timestamptz)")
    op.execute(
        "DELETE FROM spend_leases l USING spend_standings s WHERE s.id = l.standing_id"
        " AND s.kind = 'key_quota'"
    )
    op.execute("DELETE FROM spend_standings WHERE kind = 'key_quota'")
    _kinds(KINDS, "kind = 'key_spend'")
    op.execute("ALTER TABLE spend_standings DROP COLUMN told")
    op.execute("ALTER TABLE api_keys DROP COLUMN monthly_quota")
    op.execute("DROP TABLE quota_increases, plan_entitlements")
    op.execute("DROP INDEX ix_quota_standings_rolls_over_at, uq_quota_standings_open")
    op.execute("DELETE FROM quota_standings WHERE closed_at IS NOT NULL")
    op.execute("DROP TRIGGER feed ON quota_standings")
    for column in STANDING_COLUMNS:
        op.execute(f"ALTER TABLE quota_standings DROP COLUMN {column.split()[0]}")
    op.execute(f"ALTER TABLE quota_standings ADD UNIQUE ({ONE_OPEN})")
    op.execute("REVOKE UPDATE ON quota_standings FROM nimbus_app")
    op.execute(
        "GRANT UPDATE (limit_units, policy, period_ends_at, updated_at)"
        " ON quota_standings TO nimbus_app"
    )
    watch(
        "quota_standings",
        "INSERT OR UPDATE OF limit_units, policy, period_ends_at",
        "grant_feed_row('subscription', 'subscription_id')",
    )
    for column in QUOTA_COLUMNS:
        op.execute(f"ALTER TABLE plan_quotas DROP COLUMN {column.split()[0]}")


def _money() -> Any:
    return import_module("nimbus.migrations.versions.0012_money")


def _records() -> dict[str, str]:
    """The subscription's record of 0012, without closed standings and with the cap of overage."""
    subscription = "grant_subscription(e subscriptions, business_now timestamptz)"
    before: str = _money()._records()[subscription]  # noqa: SLF001 - as that migration says
    record = before
    for old, new in (
        ("'policy', q.policy,", "'policy', q.policy, 'overage_cap', q.overage_cap,"),
        ("q.subscription_id = e.id", "q.subscription_id = e.id AND q.closed_at IS NULL"),
    ):
        assert record.count(old) == 1, "the record says it once"
        record = record.replace(old, new)
    return {subscription: record}


def _entitlements() -> None:
    catalog = import_module("nimbus.migrations.versions.0003_catalog")
    op.execute(
        """CREATE TABLE plan_entitlements (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            key text NOT NULL CHECK (key ~ '^[a-z][a-z0-9_]{0,49}$'),
            type text NOT NULL CHECK (type IN ('boolean', 'limit', 'value')),
            enabled boolean CHECK ((enabled IS NOT NULL) = (type = 'boolean')),
            meter_key text CHECK ((meter_key IS NOT NULL) = (type = 'limit')),
            value text CHECK ((value IS NOT NULL) = (type = 'value') AND length(value) <= 500),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, plan_version_id, key),
            FOREIGN KEY (organization_id, product_id, plan_version_id)
                REFERENCES plan_versions (organization_id, product_id, id) ON DELETE CASCADE,
            FOREIGN KEY (organization_id, product_id, meter_key)
                REFERENCES meters (organization_id, product_id, key))"""
    )
    op.execute("CREATE INDEX ix_plan_entitlements_version ON plan_entitlements (plan_version_id)")
    visible = catalog._of_visible("plan_versions", "plan_version_id")  # noqa: SLF001 - as its other terms
    protect("plan_entitlements", read_also=visible)
    op.execute(
        "CREATE TRIGGER keep_published BEFORE INSERT OR UPDATE OR DELETE ON plan_entitlements"
        " FOR EACH ROW EXECUTE FUNCTION keep_published_terms()"
    )


def _standings() -> None:
    for column in STANDING_COLUMNS:
        op.execute(f"ALTER TABLE quota_standings ADD COLUMN {column}")
    op.execute("UPDATE quota_standings SET own_units = limit_units, best_units = limit_units")
    # Whatever its name is: the one of these columns.
    op.execute(
        f"""DO $$ BEGIN
            EXECUTE (SELECT 'ALTER TABLE quota_standings DROP CONSTRAINT ' || quote_ident(conname)
                FROM pg_constraint WHERE conrelid = 'quota_standings'::regclass
                AND pg_get_constraintdef(oid) = 'UNIQUE ({ONE_OPEN})');
        END $$"""
    )
    op.execute(
        f"CREATE UNIQUE INDEX uq_quota_standings_open ON quota_standings ({ONE_OPEN})"
        " WHERE closed_at IS NULL"
    )
    op.execute(
        "CREATE INDEX ix_quota_standings_rolls_over_at ON quota_standings (rolls_over_at)"
        " WHERE rolls_over_at IS NOT NULL"
    )
    # Who changes a plan closes what the old one counted, in the same transaction.
    changed = ", ".join(column.split()[0] for column in STANDING_COLUMNS)
    op.execute(f"GRANT UPDATE (used, period_starts_at, {changed}) ON quota_standings TO nimbus_app")
    op.execute("DROP TRIGGER feed ON quota_standings")
    watch(
        "quota_standings",
        "INSERT OR UPDATE OF limit_units, policy, overage_cap, period_starts_at, period_ends_at",
        "grant_feed_row('subscription', 'subscription_id')",
    )


def _increases() -> None:
    op.execute(
        f"""CREATE TABLE quota_increases (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            meter_key text NOT NULL,
            period text NOT NULL CHECK (period IN ('day', 'week', 'month', 'year', 'cycle')),
            units bigint NOT NULL CHECK (units BETWEEN 1 AND {UNITS}),
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
            starts_at timestamptz NOT NULL,
            ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
            created_by uuid,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    op.execute(
        "CREATE INDEX ix_quota_increases_subscription ON quota_increases (subscription_id, ends_at)"
    )
    protect("quota_increases", two_sided=True, verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON quota_increases FROM nimbus_system")


def _key_quotas() -> None:
    op.execute(
        f"ALTER TABLE api_keys ADD COLUMN monthly_quota bigint"
        f" CHECK (monthly_quota BETWEEN 0 AND {UNITS})"
    )
    op.execute(f"ALTER TABLE spend_standings ADD COLUMN {TOLD}")
    _kinds(WITH_KEY_QUOTA, "kind IN ('key_spend', 'key_quota')")
    # Whole hours from the roll-up, the rest from the events, as `usage_period` does.
    op.execute(
        """CREATE FUNCTION key_units(organization uuid, key uuid, starts timestamptz,
            ends timestamptz) RETURNS numeric LANGUAGE sql STABLE AS $$
            WITH edges AS (
                SELECT least(ends, date_bin('1 hour', starts + interval '1 hour - 1 microsecond',
                           'epoch')) AS whole_from,
                       greatest(date_bin('1 hour', ends, 'epoch'), date_bin('1 hour',
                           starts + interval '1 hour - 1 microsecond', 'epoch')) AS whole_to)
            SELECT coalesce(sum(units), 0) FROM (
                SELECT h.quantity_sum AS units FROM usage_hours h, edges
                WHERE h.organization_id = organization AND h.key_id = key
                  AND h.meter_key = 'api_calls' AND h.environment = 'Live'
                  AND h.hour >= whole_from AND h.hour < whole_to
                UNION ALL
                SELECT e.units FROM usage_events e, edges
                WHERE e.organization_id = organization AND e.key_id = key
                  AND e.environment = 'Live' AND e.occurred_at >= starts AND e.occurred_at < ends
                  AND (e.occurred_at < whole_from OR e.occurred_at >= whole_to)) parts
        $$"""
    )
    op.execute(
        "GRANT EXECUTE ON FUNCTION key_units(uuid, uuid, timestamptz, timestamptz) TO nimbus_system"
    )
    money = _money()
    op.execute(
        f"""CREATE FUNCTION key_quota_changed() RETURNS trigger
        LANGUAGE plpgsql {money.DEFINER} AS $$
        DECLARE instant timestamptz := {money.BUSINESS_NOW};
        BEGIN
            PERFORM spend_open(NEW.organization_id, ARRAY[NEW.id], instant);
            UPDATE spend_standings s SET limit_micro = NEW.monthly_quota, updated_at = instant
                WHERE s.organization_id = NEW.organization_id AND s.period_ends_at > instant
                  AND s.kind = 'key_quota' AND s.key_id = NEW.id
                  AND s.limit_micro IS DISTINCT FROM NEW.monthly_quota;
            PERFORM spend_follow(NEW.organization_id, instant);
            RETURN NULL;
        END $$"""
    )
    op.execute("REVOKE EXECUTE ON FUNCTION key_quota_changed() FROM PUBLIC")
    op.execute(
        "CREATE TRIGGER key_quota AFTER UPDATE OF monthly_quota ON api_keys FOR EACH ROW"
        " WHEN (OLD.monthly_quota IS DISTINCT FROM NEW.monthly_quota)"
        " EXECUTE FUNCTION key_quota_changed()"
    )
    op.execute(
        "CREATE TRIGGER key_quota_new AFTER INSERT ON api_keys FOR EACH ROW"
        " WHEN (NEW.monthly_quota IS NOT NULL) EXECUTE FUNCTION key_quota_changed()"
    )


def _kinds(kinds: str, of_a_key: str) -> None:
    """Which kinds of money standings there are, and which of them are a key's."""
    op.execute(
        """DO $$ DECLARE name text; BEGIN
            FOR name IN SELECT conname FROM pg_constraint
                WHERE conrelid = 'spend_standings'::regclass AND contype = 'c'
                AND pg_get_constraintdef(oid) LIKE '%key_spend%'
            LOOP
                EXECUTE 'ALTER TABLE spend_standings DROP CONSTRAINT ' || quote_ident(name);
            END LOOP;
        END $$"""
    )
    op.execute(
        "ALTER TABLE spend_standings ADD CONSTRAINT spend_standings_kind_check"
        f" CHECK (kind IN {kinds})"
    )
    op.execute(
        "ALTER TABLE spend_standings ADD CONSTRAINT spend_standings_check1"
        f" CHECK (({of_a_key}) = (key_id IS NOT NULL))"
    )
