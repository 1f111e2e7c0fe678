# SPDX-License-Identifier: Apache-2.0
"""Row-level security for a table, in one call of its migration.

The settings are read without `missing_ok`, and '' is no uuid: a transaction that names no
organization gets an error, not rows. Policies for nimbus_app only; nimbus_owner has one of its
own, because definer functions run as it under forced row-level security.
"""

from alembic import op

CURRENT_ORGANIZATION = "current_setting('nimbus.organization_id')::uuid"
CURRENT_USER = "current_setting('nimbus.user_id')::uuid"


def protect(
    table: str,
    *,
    two_sided: bool = False,
    read_also: str | None = None,
    verbs: str = "SELECT, INSERT, UPDATE, DELETE",
    column: str = "organization_id",
) -> None:
    """Enable and force row-level security on `table`, with its policies and grants.

    The organization in `column` reads and writes its rows; with `two_sided` the provider of
    `provider_organization_id` reads them too; `read_also` is an SQL condition that lets others
    read (published products). `verbs` are what nimbus_app may do at all.
    """
    own = f"{column} = {CURRENT_ORGANIZATION}"
    read = own
    if two_sided:
        read += f" OR provider_organization_id = {CURRENT_ORGANIZATION}"
    if read_also:
        read += f" OR ({read_also})"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_select ON {table} FOR SELECT TO nimbus_app USING ({read})")
    op.execute(
        f"CREATE POLICY tenant_insert ON {table} FOR INSERT TO nimbus_app WITH CHECK ({own})"
    )
    op.execute(
        f"CREATE POLICY tenant_update ON {table} FOR UPDATE TO nimbus_app"
        f" USING ({own}) WITH CHECK ({own})"
    )
    op.execute(f"CREATE POLICY tenant_delete ON {table} FOR DELETE TO nimbus_app USING ({own})")
    owner_policy(table)
    grant(table, verbs)


def owner_policy(table: str) -> None:
    """Let nimbus_owner's definer functions see the table under forced row-level security."""
    op.execute(
        f"CREATE POLICY owner_all ON {table} FOR ALL TO nimbus_owner USING (true) WITH CHECK (true)"
    )


def grant(table: str, verbs: str = "SELECT, INSERT, UPDATE, DELETE") -> None:
    """What nimbus_app may do; nimbus_system may do all four, none may truncate."""
    op.execute(f"GRANT {verbs} ON {table} TO nimbus_app")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO nimbus_system")


def definer_function(signature: str, roles: str) -> None:
    """Close a SECURITY DEFINER function to everyone but `roles`."""
    op.execute(f"REVOKE EXECUTE ON FUNCTION {signature} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {roles}")
