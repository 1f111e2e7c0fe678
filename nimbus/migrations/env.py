# SPDX-License-Identifier: Apache-2.0
"""How Alembic reaches the database: as nimbus_owner, one transaction for the whole run."""

from alembic import context
from sqlalchemy import create_engine

from nimbus.migrations import connect_owner

settings = context.config.attributes["settings"]
engine = create_engine("postgresql+psycopg://", creator=lambda: connect_owner(settings))
with engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=False)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
