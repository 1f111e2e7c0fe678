# SPDX-License-Identifier: Apache-2.0
"""Money at the gate: spend limits by month, prepaid balances, holds on what only answers tell.

A spend standing counts what calls cost, in millionths of a minor unit: of an organization and of
each of its keys by calendar month, of a prepaid balance for good. Gateways borrow on it by the same
functions as on quota standings. Standings follow the limits by trigger, so that whoever changes a
limit needs to know of no standing.
"""

from importlib import import_module

from alembic import op

from nimbus.migrations.feed import record_function, watch
from nimbus.migrations.tenancy import definer_function, protect

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

MOST = 10**12
DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
LIMIT = f"monthly_spend_limit_minor bigint CHECK (monthly_spend_limit_minor BETWEEN 0 AND {MOST})"
BUSINESS_NOW = "coalesce((SELECT instant FROM test_clock), clock_timestamp())"
MICRO = 1_000_000
ACCOUNTS = (
    "('receivable', 'revenue', 'vat_payable', 'customer_balance', 'cash:manual', 'cash:bank',"
    " 'cash:sepa', 'cash:stripe', 'cash:mollie')"
)
DENIED = "CASE WHEN quota.policy = 'deny' THEN quota.limit_units END"
FUNCTIONS = {
    "spend_open(uuid, uuid[], timestamptz)": "nimbus_system",
    "spend_follow(uuid, timestamptz)": "nimbus_system",
}

ORGANIZATION = f"""jsonb_build_object('id', e.id, 'status', e.status, 'standings', coalesce((
    SELECT jsonb_agg(jsonb_build_object(
        'id', s.id, 'kind', s.kind, 'limit', s.limit_micro,
        'period_starts_at', grant_instant(s.period_starts_at),
        'period_ends_at', grant_instant(s.period_ends_at)) ORDER BY s.id)
    FROM spend_standings s
    WHERE s.organization_id = e.id AND s.key_id IS NULL AND s.limit_micro IS NOT NULL
      AND s.period_ends_at > {BUSINESS_NOW}), '[]'))"""
PLAN = """jsonb_build_object(
    'id', e.id, 'plan_id', p.id, 'product_id', p.product_id, 'slug', p.slug, 'name', p.name,
    'rank', p.rank, 'rate', grant_rate(e.rate_amount, e.rate_period, e.rate_burst),
    'over_quota_policy', e.over_quota_policy,
    'charges', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'currency', c.currency, 'meter_key', c.meter_key, 'model', c.model,
            'included', trim_scale(c.included)::text,
            'unit_price', trim_scale(c.unit_price)::text, 'terms', c.terms)
            ORDER BY c.currency, c.position)
        FROM plan_charges c WHERE c.plan_version_id = e.id), '[]'))
    FROM plans p WHERE p.id = e.plan_id"""
KEY_STANDINGS = f"""'standings', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'id', s.id, 'kind', s.kind, 'limit', s.limit_micro,
            'period_starts_at', grant_instant(s.period_starts_at),
            'period_ends_at', grant_instant(s.period_ends_at)) ORDER BY s.id)
        FROM spend_standings s
        WHERE s.organization_id = e.organization_id AND s.key_id = e.id
          AND s.limit_micro IS NOT NULL AND s.period_ends_at > {BUSINESS_NOW}), '[]'),
    'subscription_id', e.subscription_id)"""


def upgrade() -> None:
    """Make the standings, what they are counted from, and the functions that lend money."""
    for table in ("organizations", "api_keys"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN {LIMIT}")
    op.execute("ALTER TABLE routes ADD COLUMN holds jsonb NOT NULL DEFAULT '{}'")
    _standings()
    _rated_periods()
    _accounts(ACCOUNTS)
    make_credits()
    make_open()
    _follow()
    make_limit_changed()
    _limit_triggers()
    make_lease()
    _give_back()
    for signature, role in FUNCTIONS.items():
        definer_function(signature, role)
    for signature, record in _records().items():
        record_function(signature, record)


def downgrade() -> None:
    """Say the records and lend the quotas as before, then drop the rest."""
    gate = import_module("nimbus.migrations.versions.0011_gate")
    for signature, record in gate.RECORDS.items():
        record_function(signature, record)
    usage = import_module("nimbus.migrations.versions.0007_usage")
    usage.make_lease()
    usage.make_give_back()
    op.execute("DROP TRIGGER spend_limit_new ON api_keys")
    for table in ("organizations", "api_keys"):
        op.execute(f"DROP TRIGGER spend_limit ON {table}")
        op.execute(f"ALTER TABLE {table} DROP COLUMN monthly_spend_limit_minor")
    op.execute("ALTER TABLE routes DROP COLUMN holds")
    op.execute("DROP FUNCTION spend_limit_changed()")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TABLE balance_credits, rated_periods, spend_leases, spend_standings")
    op.execute("DROP FUNCTION spend_feed()")
    _accounts(import_module("nimbus.migrations.versions.0004_ledger").ACCOUNTS)


def _records() -> dict[str, str]:
    """The records of 0011 with the money in them."""
    before = import_module("nimbus.migrations.versions.0011_gate").RECORDS
    product, key = "grant_product(e products)", "grant_key(e api_keys)"
    subscription = "grant_subscription(e subscriptions, business_now timestamptz)"
    records = {
        "grant_organization(e organizations)": ORGANIZATION,
        "grant_plan(e plan_versions)": PLAN,
        product: before[product].replace(
            "'weight', r.weight,", "'weight', r.weight, 'holds', r.holds,"
        ),
        subscription: before[subscription].replace(
            "'status', e.status,", "'status', e.status, 'currency', e.currency,"
        ),
        key: before[key].replace("'subscription_id', e.subscription_id)", KEY_STANDINGS),
    }
    assert all(records[name] != before[name] for name in records), "each record says more"
    return records


def _standings() -> None:
    # `used` may fall below zero: what a period of the month before costs can come out lower. No
    # foreign key to the key (none is ever deleted): its lock would come after the advisory one.
    op.execute(
        """CREATE TABLE spend_standings (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            kind text NOT NULL CHECK (kind IN ('organization_spend', 'key_spend', 'balance')),
            key_id uuid,
            period_starts_at timestamptz NOT NULL,
            period_ends_at timestamptz NOT NULL,
            limit_micro bigint CHECK (limit_micro >= 0),
            used numeric NOT NULL DEFAULT 0,
            leased bigint NOT NULL DEFAULT 0 CHECK (leased >= 0),
            followed boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (organization_id, id),
            UNIQUE NULLS NOT DISTINCT (organization_id, kind, key_id, period_starts_at),
            CHECK (period_starts_at < period_ends_at),
            CHECK ((kind = 'key_spend') = (key_id IS NOT NULL)),
            CHECK (kind <> 'balance' OR limit_micro IS NOT NULL))"""
    )
    op.execute("CREATE INDEX ix_spend_standings_key ON spend_standings (key_id)")
    # Limited ones after which no other is open yet: the job opens it when they begin.
    op.execute(
        "CREATE INDEX ix_spend_standings_due ON spend_standings (period_starts_at)"
        " WHERE limit_micro IS NOT NULL AND NOT followed AND kind <> 'balance'"
    )
    protect("spend_standings", verbs="SELECT")
    op.execute("REVOKE DELETE ON spend_standings FROM nimbus_system")
    op.execute(
        """CREATE TABLE spend_leases (
            organization_id uuid NOT NULL,
            standing_id uuid NOT NULL,
            producer uuid NOT NULL REFERENCES usage_producers (producer),
            units bigint NOT NULL CHECK (units >= 0),
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, standing_id, producer),
            FOREIGN KEY (organization_id, standing_id)
                REFERENCES spend_standings (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_spend_leases_producer ON spend_leases (producer)")
    protect("spend_leases", verbs="SELECT")
    # Gateways hear of a standing that limits, never of one that is counted up.
    op.execute(
        """CREATE FUNCTION spend_feed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.limit_micro IS NOT NULL OR TG_OP = 'UPDATE' THEN
                PERFORM grant_feed_note(
                    CASE WHEN NEW.key_id IS NULL THEN 'organization' ELSE 'key' END,
                    coalesce(NEW.key_id, NEW.organization_id));
            END IF;
            RETURN NULL;
        END $$"""
    )
    watch("spend_standings", "INSERT OR UPDATE OF limit_micro, period_ends_at", "spend_feed()")


def _rated_periods() -> None:
    # How far a billing period of a subscription is rated: the position from which the next event
    # is priced. `cost` is in whole currency units. No foreign key: who changes a subscription holds
    # its row, and waits for the storing that writes here.
    op.execute(
        """CREATE TABLE rated_periods (
            subscription_id uuid NOT NULL,
            period_starts_at timestamptz NOT NULL,
            period_ends_at timestamptz NOT NULL,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            cells jsonb NOT NULL,
            cost numeric NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, subscription_id, period_starts_at))"""
    )
    op.execute("CREATE INDEX ix_rated_periods_subscription ON rated_periods (subscription_id)")
    protect("rated_periods", two_sided=True, verbs="SELECT")
    op.execute("REVOKE DELETE ON rated_periods FROM nimbus_system")


def make_credits() -> None:
    """Make the table of what was put on balances; it is in the wallet from 0021 on."""
    op.execute(
        f"""CREATE TABLE balance_credits (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND {MOST}),
            currency char(3) NOT NULL CHECK (currency ~ '^[A-Z]{{3}}$'),
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
            credited_by uuid NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )
    protect("balance_credits", verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON balance_credits FROM nimbus_system")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON balance_credits"
        " FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse()"
    )
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON balance_credits FROM nimbus_owner")


def _accounts(names: str) -> None:
    for side in ("debit_account", "credit_account"):
        constraint = f"ledger_transfers_{side}_check"
        op.execute(f"ALTER TABLE ledger_transfers DROP CONSTRAINT {constraint}")
        op.execute(
            f"ALTER TABLE ledger_transfers ADD CONSTRAINT {constraint} CHECK ({side} IN {names})"
        )


def make_open(more: str = "") -> None:
    """Open a month; `more` opens what a later migration adds to it."""
    # The rows of the month that `instant` is in, in the organization's time zone, where they are
    # missing. Between their neighbours: the zone may have been another one then. Everybody takes
    # the organization's row first, then the advisory lock, then standings; that lock is held to
    # the commit, so that a limit that changes meanwhile is seen here or sees what was opened.
    op.execute(
        f"""CREATE OR REPLACE FUNCTION spend_open(organization uuid, keys uuid[],
            instant timestamptz)
        RETURNS void LANGUAGE plpgsql {DEFINER} AS $$
        DECLARE
            owner organizations;
            month timestamp;
            starts timestamptz;
            ends timestamptz;
        BEGIN
            SELECT o.* INTO owner FROM organizations o WHERE o.id = organization FOR KEY SHARE;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            PERFORM pg_advisory_xact_lock(hashtextextended('spend ' || organization, 0));
            SELECT s.period_starts_at, s.period_ends_at INTO starts, ends FROM spend_standings s
                WHERE s.organization_id = organization AND s.kind = 'organization_spend'
                  AND s.period_starts_at <= instant AND s.period_ends_at > instant;
            IF NOT FOUND THEN
                month := date_trunc('month', instant AT TIME ZONE owner.time_zone);
                starts := month AT TIME ZONE owner.time_zone;
                ends := (month + interval '1 month') AT TIME ZONE owner.time_zone;
                SELECT greatest(starts, max(s.period_ends_at)
                           FILTER (WHERE s.period_ends_at <= instant)),
                       least(ends, min(s.period_starts_at)
                           FILTER (WHERE s.period_starts_at > instant))
                    INTO starts, ends FROM spend_standings s
                    WHERE s.organization_id = organization AND s.kind = 'organization_spend';
                INSERT INTO spend_standings
                    (id, organization_id, kind, period_starts_at, period_ends_at, limit_micro)
                    VALUES (gen_random_uuid(), organization, 'organization_spend', starts, ends,
                        owner.monthly_spend_limit_minor * {MICRO});
            END IF;
            INSERT INTO spend_standings (id, organization_id, kind, key_id, period_starts_at,
                    period_ends_at, limit_micro)
                SELECT gen_random_uuid(), organization, 'key_spend', k.id, starts, ends,
                       k.monthly_spend_limit_minor * {MICRO}
                FROM api_keys k WHERE k.organization_id = organization AND k.id = ANY (keys)
                ON CONFLICT DO NOTHING;
            {more}
        END $$"""
    )


def _follow() -> None:
    # The month after each that has begun and limits: so that a gateway never meets one that is
    # not open yet.
    op.execute(
        f"""CREATE FUNCTION spend_follow(organization uuid, instant timestamptz) RETURNS void
        LANGUAGE plpgsql {DEFINER} AS $$
        DECLARE due spend_standings;
        BEGIN
            FOR due IN SELECT s.* FROM spend_standings s
                WHERE s.organization_id = organization AND s.kind <> 'balance'
                  AND s.limit_micro IS NOT NULL AND NOT s.followed
                  AND s.period_starts_at <= instant
                ORDER BY s.id
            LOOP
                PERFORM spend_open(organization, array_remove(ARRAY[due.key_id], NULL),
                    due.period_ends_at);
                UPDATE spend_standings s SET followed = true WHERE s.id = due.id;
            END LOOP;
        END $$"""
    )


def make_limit_changed(others: str = "'balance'") -> None:
    """Let standings follow a limit of money, but for those of `others`."""
    op.execute(
        f"""CREATE OR REPLACE FUNCTION spend_limit_changed() RETURNS trigger
        LANGUAGE plpgsql {DEFINER} AS $$
        DECLARE
            changed jsonb := to_jsonb(NEW);
            instant timestamptz := {BUSINESS_NOW};
            organization uuid := (changed ->> 'organization_id')::uuid;
            key uuid := CASE TG_TABLE_NAME WHEN 'api_keys' THEN (changed ->> 'id')::uuid END;
        BEGIN
            PERFORM spend_open(organization, array_remove(ARRAY[key], NULL), instant);
            UPDATE spend_standings s SET limit_micro = NEW.monthly_spend_limit_minor * {MICRO},
                    updated_at = instant
                WHERE s.organization_id = organization AND s.period_ends_at > instant
                  AND s.kind NOT IN ({others}) AND s.key_id IS NOT DISTINCT FROM key
                  AND s.limit_micro IS DISTINCT FROM NEW.monthly_spend_limit_minor * {MICRO};
            PERFORM spend_follow(organization, instant);
            RETURN NULL;
        END $$"""
    )
    op.execute("REVOKE EXECUTE ON FUNCTION spend_limit_changed() FROM PUBLIC")


def _limit_triggers() -> None:
    for table in ("organizations", "api_keys"):
        op.execute(
            f"CREATE TRIGGER spend_limit AFTER UPDATE OF monthly_spend_limit_minor ON {table}"
            " FOR EACH ROW WHEN (OLD.monthly_spend_limit_minor"
            " IS DISTINCT FROM NEW.monthly_spend_limit_minor)"
            " EXECUTE FUNCTION spend_limit_changed()"
        )
    op.execute(
        "CREATE TRIGGER spend_limit_new AFTER INSERT ON api_keys FOR EACH ROW"
        " WHEN (NEW.monthly_spend_limit_minor IS NOT NULL) EXECUTE FUNCTION spend_limit_changed()"
    )


def make_lease(ceiling: str = DENIED) -> None:
    """Lend units or money; `ceiling` is the unit of a quota after which none is lent, or null."""
    # As in 0007, on either kind of standing. Of money never more is lent than is left.
    op.execute(
        f"""CREATE OR REPLACE FUNCTION gateway_lease(gateway uuid, standing uuid, units bigint,
            OUT granted bigint, OUT used bigint, OUT leased bigint, OUT "limit" bigint)
        LANGUAGE plpgsql {DEFINER} AS $$
        DECLARE quota quota_standings; money spend_standings; most bigint;
        BEGIN
            granted := 0;
            INSERT INTO usage_producers (producer) VALUES (gateway) ON CONFLICT DO NOTHING;
            PERFORM FROM usage_producers p
                WHERE p.producer = gateway AND p.ended_at IS NULL FOR KEY SHARE;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            SELECT s.* INTO quota FROM quota_standings s WHERE s.id = standing FOR NO KEY UPDATE;
            IF NOT FOUND THEN
                SELECT s.* INTO money FROM spend_standings s WHERE s.id = standing
                    FOR NO KEY UPDATE;
                IF NOT FOUND THEN
                    RETURN;
                END IF;
            END IF;
            used := ceil(coalesce(quota.used, money.used));
            leased := coalesce(quota.leased, money.leased);
            most := CASE WHEN quota.id IS NULL THEN money.limit_micro ELSE {ceiling} END;
            "limit" := coalesce(most, quota.limit_units);
            granted := greatest(units, 0);
            IF most IS NOT NULL THEN
                granted := least(granted, greatest(0, most - used - leased));
            END IF;
            leased := leased + granted;
            IF granted = 0 THEN
                RETURN;
            END IF;
            IF quota.id IS NOT NULL THEN
                UPDATE quota_standings s SET leased = s.leased + granted WHERE s.id = standing;
                INSERT INTO quota_leases AS l
                    (organization_id, provider_organization_id, standing_id, producer, units)
                    VALUES (quota.organization_id, quota.provider_organization_id, standing,
                        gateway, granted)
                    ON CONFLICT ON CONSTRAINT quota_leases_pkey DO UPDATE
                    SET units = l.units + excluded.units;
            ELSE
                UPDATE spend_standings s SET leased = s.leased + granted WHERE s.id = standing;
                INSERT INTO spend_leases AS l (organization_id, standing_id, producer, units)
                    VALUES (money.organization_id, standing, gateway, granted)
                    ON CONFLICT ON CONSTRAINT spend_leases_pkey DO UPDATE
                    SET units = l.units + excluded.units;
            END IF;
        END $$"""
    )


def _give_back() -> None:
    op.execute(
        f"""CREATE OR REPLACE FUNCTION gateway_give_back(gateway uuid, standing uuid, units bigint)
        RETURNS void LANGUAGE plpgsql {DEFINER} AS $$
        DECLARE held bigint; spent bigint;
        BEGIN
            PERFORM FROM usage_producers p
                WHERE p.producer = gateway AND p.ended_at IS NULL FOR KEY SHARE;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            PERFORM FROM quota_standings s WHERE s.id = standing FOR NO KEY UPDATE;
            PERFORM FROM spend_standings s WHERE s.id = standing FOR NO KEY UPDATE;
            SELECT l.units INTO held FROM quota_leases l
                WHERE l.standing_id = standing AND l.producer = gateway;
            SELECT l.units INTO spent FROM spend_leases l
                WHERE l.standing_id = standing AND l.producer = gateway;
            held := least(held, greatest(units, 0));
            spent := least(spent, greatest(units, 0));
            UPDATE quota_leases l SET units = l.units - held
                WHERE l.standing_id = standing AND l.producer = gateway AND held > 0;
            UPDATE quota_standings s SET leased = s.leased - held
                WHERE s.id = standing AND held > 0;
            UPDATE spend_leases l SET units = l.units - spent
                WHERE l.standing_id = standing AND l.producer = gateway AND spent > 0;
            UPDATE spend_standings s SET leased = s.leased - spent
                WHERE s.id = standing AND spent > 0;
        END $$"""
    )
