# SPDX-License-Identifier: Apache-2.0
"""Quotas, entitlements and their notices."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Quotas, entitlements and their notices."""
    op.execute("SELECT 1")


def downgrade() -> None:
    """Take that back."""
    op.execute("SELECT 1")
