# SPDX-License-Identifier: Apache-2.0
"""A sale for the tests of billing."""

import httpx2
import pytest

from tests.support.bills import Sale, sell
from tests.support.market import loopback_settings as settings
from tests.support.market import upstream

__all__ = ["sale", "settings", "upstream"]


@pytest.fixture
async def sale(api: httpx2.AsyncClient, upstream: str) -> Sale:
    """A customer on Starter since 1 May 2026, and a known seller."""
    return await sell(api, upstream)
