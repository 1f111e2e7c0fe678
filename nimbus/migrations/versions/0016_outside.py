# SPDX-License-Identifier: Apache-2.0
"""Usage that comes from outside, and meters of every kind."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Usage that comes from outside, and meters of every kind."""
    op.execute("SELECT 1")


def downgrade() -> None:
    """Take that back."""
    op.execute("SELECT 1")
