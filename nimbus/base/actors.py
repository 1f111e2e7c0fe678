# SPDX-License-Identifier: Apache-2.0
"""Who does something: a value that every use case takes and every audit row names."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from nimbus.base.ids import NIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A person, a key, the system itself or an unknown visitor, acting for an organization.

    `organization_id` is NIL when no organization is acted for. `role` is the membership's role
    there, `platform_role` is `support` or `admin` for the operator's people. `scopes` are a
    key's, `test` says that it is one of the Test environment. `ip` is the caller's address as the
    gateway saw it.
    """

    kind: Literal["user", "key", "system", "visitor"]
    user_id: UUID = NIL
    organization_id: UUID = NIL
    role: str | None = None
    platform_role: str | None = None
    key_id: UUID | None = None
    session_id: UUID | None = None
    scopes: frozenset[str] = frozenset()
    test: bool = False
    email_verified: bool = False
    ip: str | None = None
    request_id: str | None = None


SYSTEM = Actor(kind="system")
