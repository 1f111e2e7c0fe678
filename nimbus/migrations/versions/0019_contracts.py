# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: terms over time, previews, add-ons, contract prices."""

from alembic import op

from nimbus.migrations.tenancy import CURRENT_ORGANIZATION, protect

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

SIGNED = {"plans": "plan_id", "plan_versions": "plan_version_id"}


def upgrade() -> None:
    """Keep what a subscription was under at each instant; subscribers read what they signed."""
    _terms()
    _add_ons()
    _append_only()
    _written_so_far()
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
    for table, column in SIGNED.items():
        op.execute(f"DROP POLICY subscriber_select ON {table}")
        op.execute(
            f"CREATE POLICY subscriber_select ON {table} FOR SELECT TO nimbus_app USING"
            f" (EXISTS (SELECT 1 FROM subscriptions s WHERE s.{column} = {table}.id"
            f" AND s.organization_id = {CURRENT_ORGANIZATION}))"
        )
    op.execute("DROP TABLE contract_add_ons, contract_terms")
    op.execute("DROP FUNCTION keep_contract(), next_contract_terms()")


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
