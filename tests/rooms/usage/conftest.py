# SPDX-License-Identifier: Apache-2.0
"""A subscription to the Wind API, for the tests of usage."""

from tests.support.market import loopback_settings as settings
from tests.support.market import upstream
from tests.support.metered import contract

__all__ = ["contract", "settings", "upstream"]
