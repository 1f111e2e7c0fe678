# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: terms over time, previews, add-ons, contract prices."""

from alembic import op

from nimbus.migrations.tenancy import CURRENT_ORGANIZATION, protect

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

PUBLISHED = "EXISTS (SELECT 1 FROM products parent WHERE parent.id = product_id)"
INVITED = (
    "EXISTS (SELECT 1 FROM plan_audiences a WHERE a.plan_id = plans.id"
    f" AND a.consumer_organization_id = {CURRENT_ORGANIZATION})"
)
SIGNED = {"plans": "plan_id", "plan_versions": "plan_version_id"}


def upgrade() -> None:
    """Keep what a subscription was under at each instant; subscribers read what they signed."""
    _offers()
    _terms()
    _add_ons()
    _append_only()
    _written_so_far()
    _bans()
    _moves()
    _previews()
    _ending("status <> 'Expired' AND (status = 'Trial' OR ends_at IS NOT NULL)")
    for table, column in SIGNED.items():
        signed = [
            f"EXISTS (SELECT 1 FROM {of} t WHERE t.{column} = {table}.id"
            f" AND t.organization_id = {CURRENT_ORGANIZATION})"
            for of in ("contract_terms", "contract_add_ons")
        ]
        op.execute(f"DROP POLICY subscriber_select ON {table}")
        op.execute(
            f"CREATE POLICY subscriber_select ON {table} FOR SELECT TO nimbus_app"
            f" USING ({' OR '.join(signed)})"
        )


def downgrade() -> None:
    """Take that back."""
    _ending("status IN ('Trial', 'Cancelled')")
    for table, column in SIGNED.items():
        op.execute(f"DROP POLICY subscriber_select ON {table}")
        op.execute(
            f"CREATE POLICY subscriber_select ON {table} FOR SELECT TO nimbus_app USING"
            f" (EXISTS (SELECT 1 FROM subscriptions s WHERE s.{column} = {table}.id"
            f" AND s.organization_id = {CURRENT_ORGANIZATION}))"
        )
    op.execute(
        "DROP TABLE change_previews, plan_moves, consumer_bans, contract_add_ons, contract_terms"
    )
    op.execute("DROP FUNCTION keep_contract(), next_contract_terms()")
    _offers_before()


def _offers() -> None:
    """Add-ons are plans of their own kind, contract prices versions for one organization."""
    op.execute(
        "ALTER TABLE plans ADD COLUMN kind text NOT NULL DEFAULT 'plan'"
        " CHECK (kind IN ('plan', 'add_on')), DROP CONSTRAINT plans_visibility_check,"
        " ADD CONSTRAINT plans_visibility_check"
        " CHECK (visibility IN ('public', 'unlisted', 'private'))"
    )
    op.execute("DROP INDEX uq_plans_rank")
    op.execute(
        "CREATE UNIQUE INDEX uq_plans_rank ON plans (organization_id, product_id, rank)"
        " WHERE status <> 'archived' AND kind = 'plan'"
    )
    op.execute(
        "ALTER TABLE plan_versions"
        " ADD COLUMN consumer_organization_id uuid REFERENCES organizations (id),"
        " ADD COLUMN trial_converts boolean NOT NULL DEFAULT true,"
        " DROP CONSTRAINT plan_versions_base_fee_timing_check,"
        " ADD CONSTRAINT plan_versions_base_fee_timing_check"
        " CHECK (base_fee_timing IN ('advance', 'arrears', 'once'))"
    )
    op.execute(
        """CREATE TABLE plan_audiences (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            plan_id uuid NOT NULL,
            consumer_organization_id uuid NOT NULL REFERENCES organizations (id),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, plan_id, consumer_organization_id),
            FOREIGN KEY (organization_id, plan_id)
                REFERENCES plans (organization_id, id) ON DELETE CASCADE)"""
    )
    op.execute("CREATE INDEX ix_plan_audiences_plan_id ON plan_audiences (plan_id)")
    protect("plan_audiences", read_also=f"consumer_organization_id = {CURRENT_ORGANIZATION}")
    _plans_seen(f"status = 'active' AND (visibility <> 'private' OR {INVITED}) AND {PUBLISHED}")


def _offers_before() -> None:
    _plans_seen(f"status = 'active' AND {PUBLISHED}")
    op.execute("DROP TABLE plan_audiences")
    op.execute(
        "ALTER TABLE plan_versions"
        " DROP COLUMN consumer_organization_id, DROP COLUMN trial_converts,"
        " DROP CONSTRAINT plan_versions_base_fee_timing_check,"
        " ADD CONSTRAINT plan_versions_base_fee_timing_check"
        " CHECK (base_fee_timing IN ('advance', 'arrears'))"
    )
    op.execute("DROP INDEX uq_plans_rank")
    op.execute(
        "ALTER TABLE plans DROP COLUMN kind, DROP CONSTRAINT plans_visibility_check,"
        " ADD CONSTRAINT plans_visibility_check CHECK (visibility IN ('public', 'unlisted'))"
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_plans_rank ON plans (organization_id, product_id, rank)"
        " WHERE status <> 'archived'"
    )


def _plans_seen(by_others: str) -> None:
    op.execute("DROP POLICY tenant_select ON plans")
    op.execute(
        "CREATE POLICY tenant_select ON plans FOR SELECT TO nimbus_app"
        f" USING (organization_id = {CURRENT_ORGANIZATION} OR ({by_others}))"
    )


def _bans() -> None:
    """Whom a provider does not sell to."""
    op.execute(
        """CREATE TABLE consumer_bans (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            consumer_organization_id uuid NOT NULL REFERENCES organizations (id),
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, consumer_organization_id))"""
    )
    protect(
        "consumer_bans",
        read_also=f"consumer_organization_id = {CURRENT_ORGANIZATION}",
        verbs="SELECT, INSERT, DELETE",
    )


def _ending(condition: str) -> None:
    """Which subscriptions come to an end by themselves."""
    op.execute("DROP INDEX ix_subscriptions_ending")
    op.execute(
        "CREATE INDEX ix_subscriptions_ending ON subscriptions (coalesce(ends_at, trial_ends_at))"
        f" WHERE {condition}"
    )


def _moves() -> None:
    """Subscribers of a plan on their way to another version of it, and how far that is."""
    op.execute(
        """CREATE TABLE plan_moves (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            product_id uuid NOT NULL,
            plan_id uuid NOT NULL,
            to_plan_id uuid NOT NULL,
            to_plan_version_id uuid NOT NULL,
            not_before timestamptz NOT NULL,
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
            status text NOT NULL CHECK (status IN ('Running', 'Done')),
            last_subscription_id uuid,
            total integer NOT NULL CHECK (total >= 0),
            moved integer NOT NULL CHECK (moved >= 0),
            left_out integer NOT NULL CHECK (left_out >= 0),
            created_at timestamptz NOT NULL,
            finished_at timestamptz,
            UNIQUE (organization_id, id),
            CHECK ((status = 'Done') = (finished_at IS NOT NULL)),
            CHECK (status <> 'Done' OR moved + left_out >= total),
            FOREIGN KEY (organization_id, product_id, plan_id)
                REFERENCES plans (organization_id, product_id, id),
            FOREIGN KEY (organization_id, to_plan_id, to_plan_version_id)
                REFERENCES plan_versions (organization_id, plan_id, id))"""
    )
    op.execute("CREATE INDEX ix_plan_moves_running ON plan_moves (id) WHERE status = 'Running'")
    protect("plan_moves", verbs="SELECT, INSERT")


def _previews() -> None:
    """What a change was said to cost: written once, used at most once."""
    op.execute(
        """CREATE TABLE change_previews (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            subscription_version integer NOT NULL,
            change jsonb NOT NULL,
            costs jsonb NOT NULL,
            effective_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            used_at timestamptz,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            CHECK (effective_at <= expires_at),
            FOREIGN KEY (organization_id, provider_organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, provider_organization_id, id))"""
    )
    protect("change_previews", verbs="SELECT, INSERT, UPDATE")


def _terms() -> None:
    op.execute(
        """CREATE TABLE contract_terms (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            number integer NOT NULL CHECK (number >= 1),
            effective_at timestamptz NOT NULL,
            plan_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            served boolean NOT NULL,
            reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 40),
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, subscription_id, number),
            FOREIGN KEY (organization_id, provider_organization_id, subscription_id)
                REFERENCES subscriptions (organization_id, provider_organization_id, id),
            FOREIGN KEY (provider_organization_id, plan_id, plan_version_id)
                REFERENCES plan_versions (organization_id, plan_id, id))"""
    )
    op.execute("CREATE INDEX ix_contract_terms_subscription ON contract_terms (subscription_id)")
    for column in SIGNED.values():
        op.execute(f"CREATE INDEX ix_contract_terms_{column} ON contract_terms ({column})")
    protect("contract_terms", two_sided=True, verbs="SELECT, INSERT")


def _add_ons() -> None:
    op.execute(
        """CREATE TABLE contract_add_ons (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            terms_id uuid NOT NULL,
            plan_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            quantity integer NOT NULL CHECK (quantity BETWEEN 1 AND 1000000),
            UNIQUE (organization_id, terms_id, plan_id),
            FOREIGN KEY (organization_id, terms_id) REFERENCES contract_terms (organization_id, id),
            FOREIGN KEY (provider_organization_id, plan_id, plan_version_id)
                REFERENCES plan_versions (organization_id, plan_id, id))"""
    )
    op.execute("CREATE INDEX ix_contract_add_ons_terms_id ON contract_add_ons (terms_id)")
    for column in SIGNED.values():
        op.execute(f"CREATE INDEX ix_contract_add_ons_{column} ON contract_add_ons ({column})")
    protect("contract_add_ons", two_sided=True, verbs="SELECT, INSERT")


def _append_only() -> None:
    """Terms are only added, each from no earlier than those before: history stays a line."""
    op.execute(
        """CREATE FUNCTION keep_contract() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the terms of a contract are only added to' USING ERRCODE = '23001';
        END $$"""
    )
    for table in ("contract_terms", "contract_add_ons"):
        op.execute(
            f"CREATE TRIGGER keep_contract BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION keep_contract()"
        )
    op.execute(
        """CREATE FUNCTION next_contract_terms() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE last contract_terms;
        BEGIN
            SELECT * INTO last FROM contract_terms WHERE subscription_id = NEW.subscription_id
                ORDER BY number DESC LIMIT 1;
            IF NEW.number <> coalesce(last.number, 0) + 1
               OR NEW.effective_at < last.effective_at THEN
                RAISE EXCEPTION 'terms follow those before in number and time'
                    USING ERRCODE = '23001';
            END IF;
            RETURN NEW;
        END $$"""
    )
    op.execute(
        "CREATE TRIGGER next_contract_terms BEFORE INSERT ON contract_terms"
        " FOR EACH ROW EXECUTE FUNCTION next_contract_terms()"
    )


def _written_so_far() -> None:
    """A change of plan held for the whole running period until now: one row says all there is."""
    op.execute(
        "INSERT INTO contract_terms (id, organization_id, provider_organization_id,"
        " subscription_id, number, effective_at, plan_id, plan_version_id, served, reason,"
        " created_at) SELECT gen_random_uuid(), organization_id, provider_organization_id, id, 1,"
        " started_at, plan_id, plan_version_id, true, 'start', created_at FROM subscriptions"
    )
