# SPDX-License-Identifier: Apache-2.0
"""How usage is stored and rolled up."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """How usage is stored and rolled up."""
    _proof_runs()


def downgrade() -> None:
    """Take that back."""
    op.execute("DROP TABLE proof_runs")


def _proof_runs() -> None:
    # What the nightly proofs found; instants of the machine, for it is the machine that is proved.
    op.execute(
        """CREATE TABLE proof_runs (
            id uuid PRIMARY KEY,
            proof text NOT NULL,
            started_at timestamptz NOT NULL,
            finished_at timestamptz NOT NULL,
            checked bigint NOT NULL CHECK (checked >= 0),
            found bigint NOT NULL CHECK (found >= 0),
            differences jsonb NOT NULL,
            notes jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            CHECK (started_at <= finished_at))"""
    )
    op.execute("CREATE INDEX ix_proof_runs_proof ON proof_runs (proof, finished_at)")
    op.execute("GRANT SELECT, INSERT, DELETE ON proof_runs TO nimbus_system")
