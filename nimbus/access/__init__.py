# SPDX-License-Identifier: Apache-2.0
"""The keys: API keys, scopes, allow lists, and the feed that gateways follow. The room's door."""

from nimbus.access.models import ApiKey
from nimbus.access.secrets import Environment
from nimbus.access.service import (
    DEFAULT_SCOPES,
    KeyTerms,
    create_key,
    note_used,
    resolve_key,
    revoke_by_operator,
)

__all__ = [
    "DEFAULT_SCOPES",
    "ApiKey",
    "Environment",
    "KeyTerms",
    "create_key",
    "note_used",
    "resolve_key",
    "revoke_by_operator",
]
