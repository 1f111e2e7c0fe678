# SPDX-License-Identifier: Apache-2.0
"""How usage is stored and rolled up."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """How usage is stored and rolled up."""
    op.execute("SELECT 1")


def downgrade() -> None:
    """Take that back."""
    op.execute("SELECT 1")
