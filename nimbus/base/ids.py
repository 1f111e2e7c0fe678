# SPDX-License-Identifier: Apache-2.0
"""Identifiers: UUIDv7 (RFC 9562), ordered by the machine's time of making."""

from uuid import UUID

from uuid_utils.compat import uuid7

NIL = UUID(int=0)


def new_id() -> UUID:
    """A new unique id that sorts after the ones made before it on this machine."""
    return uuid7()
