# SPDX-License-Identifier: Apache-2.0
"""Usage: events and refusals by month, hourly roll-ups, quota standings and what is lent of them.

Partitions are made by one function, for the months that a batch needs, inside the transaction that
stores it: there is no default partition that could swallow events unseen.
"""

from alembic import op

from nimbus.migrations.tenancy import CURRENT_ORGANIZATION, definer_function, owner_policy, protect

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NIL = "00000000-0000-0000-0000-000000000000"
PERIOD = "usage_period(uuid, timestamptz, timestamptz)"
FUNCTIONS = {
    "usage_partition(timestamptz)": "nimbus_system",
    "gateway_lease(uuid, uuid, bigint)": "nimbus_gateway",
    "gateway_give_back(uuid, uuid, bigint)": "nimbus_gateway",
}


def upgrade() -> None:
    """Make usage's tables and the functions that lend quota to gateways."""
    _producers()
    _events()
    _refused_calls()
    make_measured()
    _hourly()
    make_period()
    _standings()
    _leases()
    _feed()
    _partition()
    make_lease()
    make_give_back()
    for signature, role in FUNCTIONS.items():
        definer_function(signature, role)


def downgrade() -> None:
    """Drop them in reverse; the partitions go with their parents."""
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TABLE quota_leases, quota_schedules, quota_standings")
    op.execute(f"DROP FUNCTION {PERIOD}")
    op.execute("DROP VIEW usage_measured")
    op.execute("DROP TABLE usage_hourly, refused_calls, usage_events, usage_producers")


def _producers() -> None:
    # Everything up to `watermark` is stored or closed, but for what is `waiting`: calls that a
    # living gateway still serves. The counts add up to the watermark: no sequence got lost.
    op.execute(
        """CREATE TABLE usage_producers (
            producer uuid PRIMARY KEY,
            watermark bigint NOT NULL DEFAULT 0,
            waiting bigint[] NOT NULL DEFAULT '{}',
            served bigint NOT NULL DEFAULT 0,
            refused bigint NOT NULL DEFAULT 0,
            closed bigint NOT NULL DEFAULT 0,
            corrupt bigint NOT NULL DEFAULT 0,
            ended_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT ck_usage_producers_no_hole CHECK (
                watermark = served + refused + closed + corrupt + cardinality(waiting)),
            CHECK (least(served, refused, closed, corrupt) >= 0),
            CHECK (ended_at IS NULL OR cardinality(waiting) = 0))"""
    )
    op.execute("GRANT SELECT, INSERT, UPDATE ON usage_producers TO nimbus_system")


def _call_columns(known: str) -> str:
    """What an event and a refusal have in common; `known` is NOT NULL where ids are certain."""
    return f"""
            event_id uuid NOT NULL,
            occurred_at timestamptz NOT NULL,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid {known},
            product_id uuid {known},
            key_id uuid {known},
            route_id uuid {known},
            environment text NOT NULL CHECK (environment IN ('Live', 'Test')),
            method text NOT NULL,
            status smallint NOT NULL,
            duration_us bigint NOT NULL CHECK (duration_us >= 0),
            bytes_in bigint NOT NULL CHECK (bytes_in >= 0),
            bytes_out bigint NOT NULL CHECK (bytes_out >= 0),
            ip inet NOT NULL,
            request_id text NOT NULL,
            producer uuid NOT NULL,
            sequence bigint NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()"""


def _events() -> None:
    # The key is a second guard of "once": the same slot read again has the same id and instant.
    op.execute(
        f"""CREATE TABLE usage_events ({_call_columns("NOT NULL")},
            upstream_us bigint NOT NULL CHECK (upstream_us >= 0),
            billable boolean NOT NULL,
            units bigint NOT NULL CHECK (units >= 0),
            leased bigint NOT NULL CHECK (leased >= 0),
            meters jsonb NOT NULL,
            PRIMARY KEY (organization_id, occurred_at, event_id),
            CHECK (billable OR units = 0),
            CHECK (environment = 'Live' OR NOT billable)) PARTITION BY RANGE (occurred_at)"""
    )
    op.execute(
        "CREATE INDEX ix_usage_events_subscription ON usage_events (subscription_id, occurred_at)"
    )
    protect("usage_events", two_sided=True, verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON usage_events FROM nimbus_system")


def _refused_calls() -> None:
    op.execute(
        f"""CREATE TABLE refused_calls ({_call_columns("")},
            code text NOT NULL,
            PRIMARY KEY (organization_id, occurred_at, event_id))
            PARTITION BY RANGE (occurred_at)"""
    )
    op.execute("ALTER TABLE refused_calls ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE refused_calls FORCE ROW LEVEL SECURITY")
    owner_policy("refused_calls")
    # A caller that nobody knows (NIL) is not an organization that could read.
    op.execute(
        "CREATE POLICY tenant_select ON refused_calls FOR SELECT TO nimbus_app USING"
        f" ({CURRENT_ORGANIZATION} <> '{NIL}' AND {CURRENT_ORGANIZATION}"
        " IN (organization_id, provider_organization_id))"
    )
    op.execute("GRANT SELECT ON refused_calls TO nimbus_app")
    op.execute("GRANT SELECT, INSERT ON refused_calls TO nimbus_system")


def make_measured(more: str = "") -> None:
    """Every event with what it counted for: `rules.metering.quantities`, asked of stored rows;
    `more` are further columns.
    """
    op.execute(
        f"""CREATE VIEW usage_measured WITH (security_invoker = true) AS
            SELECT e.*, m.meter_key, m.quantity{more}
            FROM usage_events e CROSS JOIN LATERAL (
                SELECT 'api_calls'::text AS meter_key, e.units::numeric AS quantity
                UNION ALL
                SELECT key, value::numeric FROM jsonb_each_text(e.meters)
                WHERE e.billable AND key <> 'api_calls') m"""
    )
    op.execute("GRANT SELECT ON usage_measured TO nimbus_app, nimbus_system")


def _hourly() -> None:
    # One cell a meter; the cell of api_calls also says how many calls there were and how big.
    # `last_*` decide by the event's instant, then its id: the same in whatever order events come.
    op.execute(
        """CREATE TABLE usage_hourly (
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            product_id uuid NOT NULL,
            key_id uuid NOT NULL,
            route_id uuid NOT NULL,
            status_class smallint NOT NULL CHECK (status_class BETWEEN 0 AND 9),
            environment text NOT NULL CHECK (environment IN ('Live', 'Test')),
            hour timestamptz NOT NULL,
            meter_key text NOT NULL,
            events bigint NOT NULL CHECK (events > 0),
            quantity_sum numeric(38, 12) NOT NULL,
            quantity_max numeric(38, 12) NOT NULL,
            quantity_last numeric(38, 12) NOT NULL,
            last_at timestamptz NOT NULL,
            last_event_id uuid NOT NULL,
            duration_us bigint NOT NULL,
            bytes_in bigint NOT NULL,
            bytes_out bigint NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, subscription_id, hour, meter_key, key_id, route_id,
                status_class, environment))"""
    )
    op.execute(
        "CREATE INDEX ix_usage_hourly_provider ON usage_hourly (provider_organization_id, hour)"
    )
    op.execute("CREATE INDEX ix_usage_hourly_subscription ON usage_hourly (subscription_id, hour)")
    protect("usage_hourly", two_sided=True, verbs="SELECT")
    op.execute("REVOKE DELETE ON usage_hourly FROM nimbus_system")


def make_period(calls: str = "1", hours: str = "usage_hourly") -> None:
    """What the live calls of a subscription add up to in [starts, ends): its whole hours from the
    roll-up in `hours`, what lies before and after them from the events, each of which is `calls`
    calls.
    """
    op.execute(
        f"""CREATE FUNCTION usage_period(subscription uuid, starts timestamptz, ends timestamptz)
        RETURNS TABLE (meter_key text, events bigint, total numeric, peak numeric, last numeric,
            last_at timestamptz, last_event_id uuid)
        LANGUAGE sql STABLE AS $$
            WITH edges AS (
                SELECT least(ends, date_bin('1 hour', starts + interval '1 hour - 1 microsecond',
                           'epoch')) AS whole_from,
                       greatest(date_bin('1 hour', ends, 'epoch'), date_bin('1 hour',
                           starts + interval '1 hour - 1 microsecond', 'epoch')) AS whole_to),
            parts AS (
                SELECT h.meter_key, h.events, h.quantity_sum, h.quantity_max, h.quantity_last,
                       h.last_at, h.last_event_id
                FROM {hours} h, edges
                WHERE h.subscription_id = subscription AND h.environment = 'Live'
                  AND h.hour >= whole_from AND h.hour < whole_to
                UNION ALL
                SELECT m.meter_key, {calls}, m.quantity, m.quantity, m.quantity, m.occurred_at,
                       m.event_id
                FROM usage_measured m, edges
                WHERE m.subscription_id = subscription AND m.environment = 'Live'
                  AND m.occurred_at >= starts AND m.occurred_at < ends
                  AND (m.occurred_at < whole_from OR m.occurred_at >= whole_to))
            SELECT p.meter_key, sum(p.events)::bigint, sum(p.quantity_sum), max(p.quantity_max),
                   (array_agg(p.quantity_last ORDER BY p.last_at DESC, p.last_event_id DESC))[1],
                   max(p.last_at),
                   (array_agg(p.last_event_id ORDER BY p.last_at DESC, p.last_event_id DESC))[1]
            FROM parts p GROUP BY p.meter_key
        $$"""
    )


def _standings() -> None:
    # The counter that blocks is the counter that is shown. A reset by hand ends the row at that
    # instant and opens another from there on, so that each event belongs to one row.
    op.execute(
        """CREATE TABLE quota_standings (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            meter_key text NOT NULL,
            aggregation text NOT NULL CHECK (aggregation IN
                ('count', 'sum', 'max', 'last', 'unique', 'time_weighted')),
            period text NOT NULL CHECK (period IN ('day', 'week', 'month', 'year', 'cycle')),
            period_starts_at timestamptz NOT NULL,
            period_ends_at timestamptz NOT NULL,
            limit_units bigint CHECK (limit_units >= 0),
            policy text NOT NULL CHECK (policy IN ('deny', 'warn', 'allow', 'overage')),
            used numeric(38, 12) NOT NULL CHECK (used >= 0),
            leased bigint NOT NULL CHECK (leased >= 0),
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, subscription_id, meter_key, period, period_starts_at),
            CHECK (period_starts_at < period_ends_at),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    op.execute(
        "CREATE INDEX ix_quota_standings_subscription"
        " ON quota_standings (subscription_id, period_ends_at)"
    )
    protect("quota_standings", two_sided=True, verbs="SELECT, INSERT")
    op.execute(
        "GRANT UPDATE (limit_units, policy, period_ends_at, updated_at)"
        " ON quota_standings TO nimbus_app"
    )
    op.execute("REVOKE DELETE ON quota_standings FROM nimbus_system")
    # When the next window of a subscription has to be opened.
    op.execute(
        """CREATE TABLE quota_schedules (
            subscription_id uuid NOT NULL,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            due_at timestamptz NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, subscription_id),
            FOREIGN KEY (organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_quota_schedules_due_at ON quota_schedules (due_at)")
    protect("quota_schedules", two_sided=True)


def _leases() -> None:
    op.execute(
        """CREATE TABLE quota_leases (
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            standing_id uuid NOT NULL,
            producer uuid NOT NULL REFERENCES usage_producers (producer),
            units bigint NOT NULL CHECK (units >= 0),
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, standing_id, producer),
            FOREIGN KEY (organization_id, standing_id)
                REFERENCES quota_standings (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_quota_leases_producer ON quota_leases (producer)")
    protect("quota_leases", two_sided=True, verbs="SELECT")


def _feed() -> None:
    # Gateways hear of a standing that opens or changes, never of one that is counted up.
    op.execute(
        """CREATE CONSTRAINT TRIGGER feed
            AFTER INSERT OR UPDATE OF limit_units, policy, period_ends_at ON quota_standings
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION grant_feed_row('subscription', 'subscription_id')"""
    )


def _partition() -> None:
    # Attaching locks out no reader and no writer; CREATE TABLE … PARTITION OF would.
    op.execute(
        """CREATE FUNCTION usage_partition(instant timestamptz) RETURNS void LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC' AS $$
        DECLARE
            starts timestamptz := date_trunc('month', instant);
            parent text;
            partition text;
        BEGIN
            FOREACH parent IN ARRAY ARRAY['usage_events', 'refused_calls'] LOOP
                partition := parent || to_char(starts, '_YYYY_MM');
                CONTINUE WHEN to_regclass('public.' || partition) IS NOT NULL;
                PERFORM pg_advisory_xact_lock(hashtextextended('usage_partition', 0));
                CONTINUE WHEN to_regclass('public.' || partition) IS NOT NULL;
                EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING ALL)',
                    partition, parent);
                EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I'
                    ' FOR VALUES FROM (%L) TO (%L)',
                    parent, partition, starts, starts + interval '1 month');
            END LOOP;
        END $$"""
    )


def make_lease() -> None:
    """Lend units; replaced in 0012."""
    # The producer's row before the standing's, as everywhere: no deadlock with the storing of
    # usage. A key-share lock does not wait for a batch, but does for the end of the producer.
    op.execute(
        """CREATE OR REPLACE FUNCTION gateway_lease(gateway uuid, standing uuid, units bigint,
            OUT granted bigint, OUT used bigint, OUT leased bigint, OUT "limit" bigint)
        LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE row quota_standings;
        BEGIN
            granted := 0;
            INSERT INTO usage_producers (producer) VALUES (gateway) ON CONFLICT DO NOTHING;
            PERFORM FROM usage_producers p
                WHERE p.producer = gateway AND p.ended_at IS NULL FOR KEY SHARE;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            SELECT s.* INTO row FROM quota_standings s WHERE s.id = standing FOR NO KEY UPDATE;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            granted := greatest(units, 0);
            IF row.policy = 'deny' AND row.limit_units IS NOT NULL THEN
                granted := greatest(0,
                    least(granted, floor(row.limit_units - row.used - row.leased)::bigint));
            END IF;
            used := ceil(row.used);
            leased := row.leased + granted;
            "limit" := row.limit_units;
            IF granted = 0 THEN
                RETURN;
            END IF;
            UPDATE quota_standings s SET leased = s.leased + granted WHERE s.id = standing;
            INSERT INTO quota_leases AS l
                (organization_id, provider_organization_id, standing_id, producer, units)
                VALUES (row.organization_id, row.provider_organization_id, standing, gateway,
                    granted)
                ON CONFLICT ON CONSTRAINT quota_leases_pkey DO UPDATE
                SET units = l.units + excluded.units;
        END $$"""
    )


def make_give_back() -> None:
    """Take units back; replaced in 0012."""
    # Never more than this gateway holds. Called again after an unknown outcome it could free
    # units whose calls still lie in the journal: a gateway calls it once, or lets its end return
    # the units.
    op.execute(
        """CREATE OR REPLACE FUNCTION gateway_give_back(gateway uuid, standing uuid, units bigint)
        RETURNS void LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE held bigint;
        BEGIN
            PERFORM FROM usage_producers p
                WHERE p.producer = gateway AND p.ended_at IS NULL FOR KEY SHARE;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            PERFORM FROM quota_standings s WHERE s.id = standing FOR NO KEY UPDATE;
            SELECT l.units INTO held FROM quota_leases l
                WHERE l.standing_id = standing AND l.producer = gateway;
            held := least(held, greatest(units, 0));
            IF coalesce(held, 0) = 0 THEN
                RETURN;
            END IF;
            UPDATE quota_leases l SET units = l.units - held
                WHERE l.standing_id = standing AND l.producer = gateway;
            UPDATE quota_standings s SET leased = s.leased - held WHERE s.id = standing;
        END $$"""
    )
