# SPDX-License-Identifier: Apache-2.0
"""Exports of the request log."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Exports of the request log."""
    op.execute("SELECT 1")


def downgrade() -> None:
    """Take that back."""
    op.execute("SELECT 1")
