# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: previews, add-ons, contract prices."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Subscriptions: previews, add-ons, contract prices."""
    op.execute("SELECT 1")


def downgrade() -> None:
    """Take that back."""
    op.execute("SELECT 1")
