# SPDX-License-Identifier: Apache-2.0
"""The keys' tests may put upstreams on this machine."""

from tests.support.market import loopback_settings as settings
from tests.support.market import upstream

__all__ = ["settings", "upstream"]
