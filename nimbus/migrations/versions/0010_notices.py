# SPDX-License-Identifier: Apache-2.0
"""Notices: what is to be said to whom, and the mailbox of an installation without SMTP."""

from alembic import op

from nimbus.migrations.tenancy import CURRENT_ORGANIZATION, owner_policy

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NIL = "00000000-0000-0000-0000-000000000000"


def upgrade() -> None:
    """Make the tables: the application may only add notices, and never sees one."""
    op.execute(
        """CREATE TABLE notices (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL,
            template text NOT NULL,
            source_id uuid NOT NULL,
            recipient text NOT NULL,
            locale text NOT NULL CHECK (locale IN ('en', 'nl')),
            data jsonb NOT NULL,
            state text NOT NULL
                CHECK (state IN ('waiting', 'sending', 'sent', 'failed', 'unclear')),
            attempts integer NOT NULL CHECK (attempts >= 0),
            last_error text,
            sent_at timestamptz CHECK ((sent_at IS NOT NULL) = (state = 'sent')),
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, template, source_id))"""
    )
    op.execute("ALTER TABLE notices ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE notices FORCE ROW LEVEL SECURITY")
    owner_policy("notices")
    # What is said to a person (a link to verify an address) belongs to no organization: NIL.
    op.execute(
        "CREATE POLICY tenant_insert ON notices FOR INSERT TO nimbus_app WITH CHECK"
        f" (organization_id = {CURRENT_ORGANIZATION} OR organization_id = '{NIL}')"
    )
    op.execute("GRANT INSERT ON notices TO nimbus_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON notices TO nimbus_system")
    op.execute(
        """CREATE TABLE mailbox (
            id uuid PRIMARY KEY,
            recipient text NOT NULL,
            subject text NOT NULL,
            text text NOT NULL,
            html text NOT NULL,
            message bytea NOT NULL,
            created_at timestamptz NOT NULL)"""
    )
    op.execute("GRANT SELECT, INSERT, DELETE ON mailbox TO nimbus_system")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE mailbox")
    op.execute("DROP TABLE notices")
