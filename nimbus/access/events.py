# SPDX-License-Identifier: Apache-2.0
"""What access announces."""

from typing import ClassVar

from nimbus.base.events import Event


class _KeyEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "api_key"


class ApiKeyCreated(_KeyEvent):
    """A key was made; its secret was shown once."""

    name: ClassVar[str] = "api_key.created"
    action: ClassVar[str] = "ApiKeyCreated"


class ApiKeyChanged(_KeyEvent):
    """A key's name, scopes or limits changed."""

    name: ClassVar[str] = "api_key.changed"
    action: ClassVar[str] = "ApiKeyChanged"


class ApiKeyRotated(_KeyEvent):
    """A key has a new secret; the old one works until `retires_at`."""

    name: ClassVar[str] = "api_key.rotated"
    action: ClassVar[str] = "ApiKeyRotated"


class ApiKeyRevoked(_KeyEvent):
    """A key is refused from now on, for ever."""

    name: ClassVar[str] = "api_key.revoked"
    action: ClassVar[str] = "ApiKeyRevoked"
