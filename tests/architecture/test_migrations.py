# SPDX-License-Identifier: Apache-2.0
"""The schema comes up step by step, goes down the same way, and is what the models say."""

import importlib
import secrets as randomness
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import sql
from sqlalchemy import String, create_engine

from nimbus import migrations
from nimbus.base import db
from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from tests.architecture.tree import PACKAGE, assert_none

EVERYTHING = """
    SELECT 'table ' || c.relname || '.' || a.attname || ' ' || a.atttypid::regtype
           || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'policy ' || policyname || tablename || cmd || concat_ws(' ', qual, with_check)
    FROM pg_policies WHERE schemaname = 'public'
    UNION ALL SELECT 'function ' || pg_get_functiondef(oid) || coalesce(proacl::text, '')
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'grants ' || relname || coalesce(relacl::text, '')
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
"""


@pytest.fixture
def empty(server) -> Iterator[Settings]:
    """Settings of a database without any schema."""
    name = f"test_{randomness.token_hex(6)}"
    server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    settings = server.settings(name)
    migrations.make_roles(settings)
    yield settings
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def everything(settings: Settings) -> set[str]:
    """What lies in the schema, as lines; Alembic's own table left out."""
    with psycopg.connect(**database_login(settings, "owner")) as connection:
        lines = {str(line) for (line,) in connection.execute(EVERYTHING)}
    return {line for line in lines if "alembic_version" not in line}


def modelled(name: str | None, kind: str, _: object) -> bool:
    """Whether Alembic should look at it: tables without a model are nobody's to compare."""
    return kind != "table" or name in db.metadata.tables


def drifts(change: tuple[Any, ...]) -> bool:
    """Whether a model says otherwise; texts with and without a length are the same in Python."""
    if change[0] == "modify_type":
        return not all(isinstance(kind, String) for kind in change[-2:])
    return change[0] in {"add_table", "add_column", "modify_nullable"}


def test_every_step_up_can_be_taken_back_and_taken_again(empty: Settings) -> None:
    steps = sorted(path.name[:4] for path in PACKAGE.glob("migrations/versions/0*.py"))
    before = [everything(empty)]
    for step in steps:
        migrations.migrate(empty, step)
        before.append(everything(empty))

    for step, earlier in zip(reversed(["base", *steps[:-1]]), reversed(before[:-1]), strict=True):
        migrations.migrate(empty, step)
        assert everything(empty) == earlier, f"going down to {step}"

    migrations.migrate(empty)
    assert everything(empty) == before[-1]


def test_the_models_say_what_the_migrations_made(settings: Settings) -> None:
    for models in PACKAGE.glob("*/models.py"):
        importlib.import_module(f"nimbus.{models.parent.name}.models")
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: migrations.connect_owner(settings)
    )
    with engine.connect() as connection:
        options = {"compare_type": True, "include_name": modelled}
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, db.metadata)
    engine.dispose()

    flat = [change for item in found for change in (item if isinstance(item, list) else [item])]
    assert_none([" ".join(map(str, change[:4])) for change in flat if drifts(change)])
