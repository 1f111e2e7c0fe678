# SPDX-License-Identifier: Apache-2.0
"""The database's catalogue, asked for what could let one organization see another.

Each function takes a connection that may read the catalogue and gives its offences as lines.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import UUID

import psycopg

from nimbus.base.ids import new_id

Connection = psycopg.Connection[Any]

APPLICATION_ROLES = ["nimbus_app", "nimbus_system", "nimbus_gateway"]
TENANT_SETTING = re.compile(r"current_setting\('nimbus\.(?:organization|user)_id'::text\)")

TABLES = """
    SELECT c.oid, c.relname::text AS name, c.relrowsecurity AND c.relforcerowsecurity AS forced,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
                   AND a.attname = 'organization_id') AS tenant
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND NOT c.relispartition
    ORDER BY c.relname
"""
POLICIES = """
    SELECT c.relname::text, v.verb,
           CASE v.verb WHEN 'DELETE' THEN has_table_privilege('nimbus_app', c.oid, 'DELETE')
                ELSE has_any_column_privilege('nimbus_app', c.oid, v.verb) END AS granted,
           array(SELECT concat_ws(' ', p.qual, p.with_check) FROM pg_policies p
                 WHERE p.schemaname = 'public' AND p.tablename = c.relname
                   AND p.cmd IN (v.verb, 'ALL') AND p.roles && '{nimbus_app,public}') AS policies
    FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS v (verb)
    WHERE c.relnamespace = 'public'::regnamespace AND c.relrowsecurity AND NOT c.relispartition
"""
PRIVILEGES = """
    SELECT c.relname::text, r.role, p.privilege
    FROM pg_class c, unnest(%(roles)s::text[]) AS r (role),
         unnest(%(privileges)s::text[]) AS p (privilege)
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = ANY (%(kinds)s)
      AND (NOT %(partitions)s OR c.relispartition)
      AND has_table_privilege(r.role, c.oid, p.privilege)
"""
FOREIGN_KEYS = """
    SELECT k.conname::text, child.relname::text AS child, parent.relname::text AS parent,
           array(SELECT ARRAY[a.attname::text, b.attname::text]
                 FROM unnest(k.conkey, k.confkey) AS pair (here, there)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = pair.here
                 JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = pair.there) AS pairs
    FROM pg_constraint k
    JOIN pg_class child ON child.oid = k.conrelid
    JOIN pg_class parent ON parent.oid = k.confrelid
    WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT child.relispartition
      AND child.relname = ANY (%(tenant)s) AND parent.relname = ANY (%(tenant)s)
"""
UNIQUE_INDEXES = """
    SELECT t.relname::text AS table, x.relname::text AS index,
           array(SELECT coalesce(a.attname::text, '(expression)')
                 FROM unnest(i.indkey::int2[]) AS k (attnum)
                 LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                      AND k.attnum > 0) AS columns
    FROM pg_index i
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indisunique AND NOT t.relispartition AND t.relname = ANY (%(tenant)s)
"""
DEFINERS = """
    SELECT p.proname::text, pg_get_userbyid(p.proowner)::text, p.proconfig,
           has_function_privilege('public', p.oid, 'EXECUTE')
    FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef
"""


def tenant_tables(connection: Connection) -> list[str]:
    """Tables with customer data: those that carry the organization, partitions left out."""
    return [name for _, name, _, tenant in connection.execute(TABLES) if tenant]


def unlisted(found: set[str], listed: Mapping[str, str], what: str) -> Iterator[str]:
    """What is there without a reason, and reasons for what is not there."""
    yield from (f"{what} {name}: no reason is given for it" for name in sorted(found - set(listed)))
    yield from (f"{what} {name}: listed, not there" for name in sorted(set(listed) - found))


def platform_tables(connection: Connection) -> set[str]:
    """Tables without an organization."""
    return {name for _, name, _, tenant in connection.execute(TABLES) if not tenant}


def unforced_tables(connection: Connection) -> Iterator[str]:
    """Tenant tables whose row-level security is not both enabled and forced."""
    for _, name, forced, tenant in connection.execute(TABLES):
        if tenant and not forced:
            yield f"{name}: row-level security is not enabled and forced"


def open_tables(connection: Connection) -> set[str]:
    """Tables that nimbus_app may use in some way and no row-level security narrows."""
    rows = connection.execute(
        """
        SELECT relname::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
          AND NOT relispartition AND NOT (relrowsecurity AND relforcerowsecurity)
          AND (has_any_column_privilege('nimbus_app', oid, 'SELECT, INSERT, UPDATE')
               OR has_table_privilege('nimbus_app', oid, 'DELETE'))
        """
    )
    return {name for (name,) in rows}


def loose_policies(connection: Connection) -> Iterator[str]:
    """Verbs that nimbus_app may use under no policy, or under one that any row passes."""
    for table, verb, granted, policies in connection.execute(POLICIES):
        if granted and not any(TENANT_SETTING.search(policy) for policy in policies):
            yield f"{table} {verb}: granted, and no policy asks who is asking"
        for policy in policies:
            if policy.replace("true", "").strip() == "" or ", true)" in policy:
                yield f"{table} {verb}: {policy} lets rows through when no organization is set"


def privileges(
    connection: Connection,
    roles: list[str],
    verbs: str,
    *,
    kinds: str = "rpvmf",
    partitions: bool = False,
) -> Iterator[str]:
    """Who may do which of `verbs` (separated by blanks) on tables, or on partitions only."""
    values = {
        "roles": roles,
        "privileges": verbs.split(),
        "kinds": list(kinds),
        "partitions": partitions,
    }
    for table, role, verb in connection.execute(PRIVILEGES, values):
        yield f"{role} may {verb} {table}"


def foreign_keys_across(connection: Connection) -> Iterator[str]:
    """Foreign keys between tenant tables that could name a row of another organization."""
    tenant = {"tenant": tenant_tables(connection)}
    for name, child, parent, pairs in connection.execute(FOREIGN_KEYS, tenant):
        whole = "id" if parent == "organizations" else "organization_id"
        held = any(here.endswith("organization_id") and there == whole for here, there in pairs)
        if not held:
            yield f"{name}: {child} → {parent} does not include the organization"


def unique_across(connection: Connection) -> set[str]:
    """`table (columns)` of unique indexes over all organizations; our own random ids left out."""
    found = set()
    tenant = {"tenant": tenant_tables(connection)}
    for table, _, columns in connection.execute(UNIQUE_INDEXES, tenant):
        within = any(column.endswith("organization_id") for column in columns)
        if not within and columns != ["id"]:
            found.add(f"{table} ({', '.join(columns)})")
    return found


def definers(connection: Connection) -> set[str]:
    """Functions that run with their owner's rights."""
    return {name for name, *_ in connection.execute(DEFINERS)}


def open_definers(connection: Connection) -> Iterator[str]:
    """Such functions that are not nimbus_owner's, pin no search path or are open to everyone."""
    for name, owner, settings, public in connection.execute(DEFINERS):
        if owner != "nimbus_owner":
            yield f"{name}: owned by {owner}"
        if "search_path=pg_catalog, public, pg_temp" not in (settings or []):
            yield f"{name}: its search path is not pinned"
        if public:
            yield f"{name}: anyone may execute it"


def gateway_functions(connection: Connection) -> set[str]:
    """Functions that nimbus_gateway was given to execute."""
    rows = connection.execute(
        """
        SELECT DISTINCT p.proname::text FROM pg_proc p, aclexplode(p.proacl) AS given
        WHERE p.pronamespace = 'public'::regnamespace
          AND given.grantee = 'nimbus_gateway'::regrole
        """
    )
    return {name for (name,) in rows}


def owned(connection: Connection) -> Iterator[str]:
    """What the application's roles own, and which roles they could act as: nothing and none."""
    rows = connection.execute(
        """
        SELECT pg_get_userbyid(relowner)::text, relname::text FROM pg_class
        UNION ALL SELECT pg_get_userbyid(proowner)::text, proname::text FROM pg_proc
        UNION ALL SELECT pg_get_userbyid(typowner)::text, typname::text FROM pg_type
        UNION ALL SELECT pg_get_userbyid(nspowner)::text, nspname::text FROM pg_namespace
        UNION ALL SELECT pg_get_userbyid(datdba)::text, datname::text FROM pg_database
        UNION ALL SELECT member::regrole::text, 'acts as ' || roleid::regrole FROM pg_auth_members
        """
    )
    yield from (f"{role}: {what}" for role, what in rows if role in APPLICATION_ROLES)


def seed_canaries(connection: Connection, organizations: Iterable[UUID]) -> None:
    """One row of its own for each organization, as nimbus_system would write it."""
    for organization in organizations:
        connection.execute(
            "INSERT INTO outbox (id, organization_id, name, entity_type, entity_id, payload,"
            " occurred_at) VALUES (%s, %s, 'canary', 'canary', %s, '{}', '2026-05-01T00:00Z')",
            (new_id(), organization, organization),
        )
    connection.commit()


def unsafe_views(connection: Connection) -> Iterator[str]:
    """Views that read as their owner, and materialized ones, which no policy can narrow."""
    rows = connection.execute(
        """
        SELECT relname::text, relkind = 'v'
               AND coalesce(reloptions, '{}') && '{security_invoker=true,security_invoker=on}'
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')
        """
    )
    yield from (f"{name}: reads with its owner's rights" for name, safe in rows if not safe)
