# SPDX-License-Identifier: Apache-2.0
"""Credit notes, coupons, wallets, and bill runs in sets."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Credit notes, coupons, wallets, and bill runs in sets."""
    op.execute("SELECT 1")


def downgrade() -> None:
    """Take that back."""
    op.execute("SELECT 1")
