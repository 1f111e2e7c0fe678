# SPDX-License-Identifier: Apache-2.0
"""Very many customers with a key each, straight into the tables: for memory, not for calls.

They are copies of a customer that the use cases made, under new ids, which rise as the product's
own do: whoever came later has the greater one.
"""

from typing import Any

import psycopg
from psycopg import sql

from nimbus.base import secrets
from nimbus.base.config import Settings

# What differs in a copy of a row, as an expression of its number `n`; the rest stays.
OWN: dict[str, dict[str, str]] = {
    "organizations": {"id": "o.id", "slug": "'crowd-' || n"},
    "subscriptions": {"id": "s.id", "organization_id": "o.id"},
    "quota_standings": {
        "id": "md5('standing' || n)::uuid",
        "organization_id": "o.id",
        "subscription_id": "s.id",
    },
    "api_keys": {
        "id": "md5('key' || n)::uuid",
        "organization_id": "o.id",
        "key_hash": "sha256(('key' || n)::bytea)",
    },
}


def gather(settings: Settings, count: int) -> None:
    """Let so many organizations subscribe, each with a standing and a key."""
    login: dict[str, Any] = dict(secrets.database_login(settings, "owner"))
    with psycopg.connect(**login) as connection:
        # Copies of rows that hold: what triggers and foreign keys would say of them is known.
        connection.execute("SET LOCAL session_replication_role = replica")
        for table, own in OWN.items():
            connection.execute(copies(connection, table, own), {"count": count})
        connection.execute("ANALYZE")


def copies(
    connection: psycopg.Connection[tuple[Any, ...]], table: str, own: dict[str, str]
) -> sql.Composed:
    """The statement that copies a row of the customer `count` times, `own` being different."""
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER'",
        (table,),
    )
    names = [str(row[0]) for row in found]
    values = [
        sql.SQL(own[name]) if name in own else sql.SQL("t.{}").format(sql.Identifier(name))
        for name in names
    ]
    template = "t.id" if table == "organizations" else "t.organization_id"
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values} FROM"
        " (SELECT * FROM {table} t WHERE {template} ="
        "  (SELECT k.organization_id FROM api_keys k ORDER BY k.id DESC LIMIT 1) LIMIT 1) t,"
        " generate_series(1, %(count)s) n,"
        " LATERAL (SELECT (lpad(to_hex(n), 12, '0') || substr(md5('organization' || n), 13))::uuid"
        "  AS id) o,"
        " LATERAL (SELECT (lpad(to_hex(n), 12, '0') || substr(md5('subscription' || n), 13))::uuid"
        "  AS id) s"
    ).format(
        table=sql.Identifier(table),
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        values=sql.SQL(", ").join(values),
        template=sql.SQL(template),
    )
