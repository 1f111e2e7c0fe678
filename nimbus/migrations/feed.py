# SPDX-License-Identifier: Apache-2.0
"""The grants feed's records, one SQL function a kind, so that a migration replaces just one.

`grant_records` (0011) calls them; a migration that adds a field says the whole record again here,
and its downgrade says the one before.
"""

from alembic import op


def record_function(signature: str, record: str) -> None:
    """Make or replace the function of one kind's record: `grant_key(e api_keys)`, and the jsonb
    expression over its parameters. Nobody but the owner's own functions may execute it.
    """
    op.execute(
        f"""CREATE OR REPLACE FUNCTION {signature} RETURNS jsonb LANGUAGE sql STABLE
        SET search_path = pg_catalog, public, pg_temp AS $$ SELECT {record} $$"""
    )
    op.execute(f"REVOKE EXECUTE ON FUNCTION {signature} FROM PUBLIC")


def watch(table: str, verbs: str, function: str) -> None:
    """Let gateways hear of a table's changes; numbered at commit, see 0006."""
    op.execute(
        f"CREATE CONSTRAINT TRIGGER feed AFTER {verbs} ON {table}"
        f" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}"
    )
