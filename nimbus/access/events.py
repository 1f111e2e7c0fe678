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


class AbuseSuspected(Event):
    """A gateway saw signs of abuse; of a key, its organization is told."""

    __slots__ = ()
    name: ClassVar[str] = "abuse.suspected"
    action: ClassVar[str] = "AbuseSuspected"
    entity_type: ClassVar[str] = "abuse_alert"


class _BlockEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "block"


class BlockSet(_BlockEvent):
    """The operator refuses an address or a key for a time."""

    name: ClassVar[str] = "block.set"
    action: ClassVar[str] = "BlockSet"


class BlockLifted(_BlockEvent):
    """The operator let an address or a key in again before its time."""

    name: ClassVar[str] = "block.lifted"
    action: ClassVar[str] = "BlockLifted"
