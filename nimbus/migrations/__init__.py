# SPDX-License-Identifier: Apache-2.0
"""The schema through time: who the database roles are, and how the schema comes up."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine

from nimbus.base.config import Settings
from nimbus.base.secrets import database_login, secret

ROLES = {
    "nimbus_owner": "NOLOGIN",
    "nimbus_app": "LOGIN",
    "nimbus_system": "LOGIN BYPASSRLS",
    "nimbus_gateway": "LOGIN",
}
MIGRATION_LOCK = 7_303_014


def make_roles(settings: Settings) -> None:
    """Make the four roles of spec 11 §4 or bring their attributes and passwords up to date."""
    with _superuser(settings) as connection:
        known = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for role, attributes in ROLES.items():
            verb = "ALTER" if role in known else "CREATE"
            statement = sql.SQL("{} ROLE {} {}").format(
                sql.SQL(verb), sql.Identifier(role), sql.SQL(attributes)
            )
            if "NOLOGIN" not in attributes:
                password = secret(settings, f"db_{role.removeprefix('nimbus_')}").decode()
                statement += sql.SQL(" PASSWORD {}").format(sql.Literal(password))
            connection.execute(statement)
        connection.execute("GRANT nimbus_owner TO CURRENT_USER")
        connection.execute("GRANT USAGE, CREATE ON SCHEMA public TO nimbus_owner")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        connection.execute(
            "GRANT USAGE ON SCHEMA public TO nimbus_app, nimbus_system, nimbus_gateway"
        )


def migrate(settings: Settings, revision: str = "head") -> None:
    """Bring the schema to `revision` as nimbus_owner; one process at a time, by a lock."""
    config = _config(settings)
    with _superuser(settings) as guard:
        guard.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        current = current_revision(settings)
        order = [script.revision for script in _scripts(config).walk_revisions()]
        down = (
            current is not None
            and revision != "head"
            and (revision == "base" or order.index(revision) > order.index(current))
        )
        (command.downgrade if down else command.upgrade)(config, revision)


def current_revision(settings: Settings) -> str | None:
    """The schema's revision, None for an empty database."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: connect_owner(settings))
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    return revision


def head_revision() -> str:
    """The revision that this code needs."""
    head = _scripts(Config(attributes={})).get_current_head()
    assert head is not None, "there are migrations"
    return head


def connect_owner(settings: Settings) -> psycopg.Connection[tuple[object, ...]]:
    """A connection that acts as nimbus_owner."""
    connection = psycopg.connect(**database_login(settings, "owner"))  # type: ignore[arg-type]
    connection.execute("SET ROLE nimbus_owner")
    connection.commit()
    return connection


def _superuser(settings: Settings) -> psycopg.Connection[tuple[object, ...]]:
    login = database_login(settings, "owner")
    return psycopg.connect(**login, autocommit=True)  # type: ignore[arg-type]


def _config(settings: Settings) -> Config:
    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _scripts(config: Config) -> ScriptDirectory:
    config.set_main_option("script_location", str(Path(__file__).parent))
    return ScriptDirectory.from_config(config)
