# SPDX-License-Identifier: Apache-2.0
"""Signing in to an account that does not exist costs what a wrong password costs."""

import pytest

from nimbus.identity import tokens

pytestmark = pytest.mark.anyio


async def test_the_hash_of_nobody_is_made_as_all_others_are() -> None:
    assert not tokens._hasher.check_needs_rehash(tokens._NOBODY)
    assert not await tokens.password_matches(None, "any password at all")
