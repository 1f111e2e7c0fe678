# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: a consumer's agreement to one plan of one product, seen by both sides."""

from alembic import op

from nimbus.migrations.tenancy import CURRENT_ORGANIZATION, protect

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SIGNED = {"products": "product_id", "plans": "plan_id", "plan_versions": "plan_version_id"}


def upgrade() -> None:
    """Make the table; let subscribers read what they signed."""
    op.execute(
        """CREATE TABLE subscriptions (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            provider_organization_id uuid NOT NULL,
            product_id uuid NOT NULL,
            plan_id uuid NOT NULL,
            plan_version_id uuid NOT NULL,
            status text NOT NULL CHECK (status IN
                ('Trial', 'Active', 'PastDue', 'Suspended', 'Cancelled', 'Paused', 'Expired')),
            currency char(3) NOT NULL,
            started_at timestamptz NOT NULL,
            ends_at timestamptz,
            trial_ends_at timestamptz,
            anchor_at timestamptz NOT NULL,
            time_zone text NOT NULL,
            period_number integer NOT NULL CHECK (period_number >= 0),
            period_starts_at timestamptz NOT NULL,
            period_ends_at timestamptz NOT NULL,
            next_billing_at timestamptz,
            auto_renew boolean NOT NULL,
            payment text CHECK (payment IN ('invoice', 'method')),
            cancelled_at timestamptz,
            cancel_reason text CHECK (length(cancel_reason) <= 500),
            scheduled_change jsonb,
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, provider_organization_id, id),
            CHECK (period_starts_at <= period_ends_at),
            CHECK (ends_at >= started_at),
            CHECK (status <> 'Trial' OR trial_ends_at IS NOT NULL),
            CHECK (payment IS NOT NULL OR status NOT IN ('Active', 'PastDue')),
            CHECK (status <> 'Cancelled' OR (ends_at IS NOT NULL AND cancelled_at IS NOT NULL)),
            CONSTRAINT fk_subscriptions_product FOREIGN KEY (provider_organization_id, product_id)
                REFERENCES products (organization_id, id),
            CONSTRAINT fk_subscriptions_plan
                FOREIGN KEY (provider_organization_id, plan_id, plan_version_id)
                REFERENCES plan_versions (organization_id, plan_id, id),
            CONSTRAINT fk_subscriptions_plan_version
                FOREIGN KEY (provider_organization_id, product_id, plan_version_id)
                REFERENCES plan_versions (organization_id, product_id, id))"""
    )
    # One live subscription an organization and product (spec 09, I-19).
    op.execute(
        "CREATE UNIQUE INDEX uq_subscriptions_live ON subscriptions (organization_id, product_id)"
        " WHERE status <> 'Expired'"
    )
    op.execute(
        "CREATE INDEX ix_subscriptions_product ON subscriptions"
        " (provider_organization_id, product_id, plan_version_id)"
    )
    op.execute(
        "CREATE INDEX ix_subscriptions_next_billing ON subscriptions (next_billing_at)"
        " WHERE next_billing_at IS NOT NULL"
    )
    op.execute(
        "CREATE INDEX ix_subscriptions_ending ON subscriptions (coalesce(ends_at, trial_ends_at))"
        " WHERE status IN ('Trial', 'Cancelled')"
    )
    protect("subscriptions", two_sided=True, verbs="SELECT, INSERT, UPDATE")
    for table, column in SIGNED.items():
        op.execute(
            f"CREATE POLICY subscriber_select ON {table} FOR SELECT TO nimbus_app USING"
            f" (EXISTS (SELECT 1 FROM subscriptions s WHERE s.{column} = {table}.id"
            f" AND s.organization_id = {CURRENT_ORGANIZATION}))"
        )


def downgrade() -> None:
    """Drop it, and what let subscribers read."""
    for table in SIGNED:
        op.execute(f"DROP POLICY subscriber_select ON {table}")
    op.execute("DROP TABLE subscriptions")
