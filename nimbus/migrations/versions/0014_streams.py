# SPDX-License-Identifier: Apache-2.0
"""Parts of a long stream: stored like calls, counted as none."""

from importlib import import_module

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say of each event whether it goes on from another; a cell may have nothing but parts."""
    usage = import_module("nimbus.migrations.versions.0007_usage")
    op.execute("ALTER TABLE usage_events ADD COLUMN continued boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE usage_hourly DROP CONSTRAINT usage_hourly_events_check")
    op.execute(
        "ALTER TABLE usage_hourly ADD CONSTRAINT usage_hourly_events_check CHECK (events >= 0)"
    )
    op.execute("DROP VIEW usage_measured")
    usage.make_measured(", CASE WHEN e.continued THEN 0 ELSE 1 END AS calls")
    op.execute(f"DROP FUNCTION {usage.PERIOD}")
    usage.make_period("m.calls")


def downgrade() -> None:
    """Count every part as a call again, which no part may be there for."""
    usage = import_module("nimbus.migrations.versions.0007_usage")
    op.execute(f"DROP FUNCTION {usage.PERIOD}")
    op.execute("DROP VIEW usage_measured")
    op.execute("ALTER TABLE usage_hourly DROP CONSTRAINT usage_hourly_events_check")
    op.execute(
        "ALTER TABLE usage_hourly ADD CONSTRAINT usage_hourly_events_check CHECK (events > 0)"
    )
    op.execute("ALTER TABLE usage_events DROP COLUMN continued")
    usage.make_measured()
    usage.make_period()
