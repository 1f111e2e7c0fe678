# SPDX-License-Identifier: Apache-2.0
"""The database as each of its roles sees it."""

from uuid import UUID

import psycopg

from nimbus.base.config import Settings
from nimbus.base.ids import NIL
from nimbus.base.secrets import database_login

ROLES = ("nimbus_app", "nimbus_system", "nimbus_gateway", "nimbus_owner", "superuser")


def as_role(
    settings: Settings, role: str, organization_id: UUID = NIL
) -> psycopg.Connection[tuple[object, ...]]:
    """A connection of a role, each statement a transaction, acting for an organization."""
    login = "owner" if role in {"superuser", "nimbus_owner"} else role.removeprefix("nimbus_")
    connection = psycopg.connect(**database_login(settings, login), autocommit=True)
    if role == "nimbus_owner":
        connection.execute("SET ROLE nimbus_owner")
    for name, value in (("organization_id", organization_id), ("user_id", NIL)):
        connection.execute("SELECT set_config(%s, %s, false)", (f"nimbus.{name}", str(value)))
    return connection
