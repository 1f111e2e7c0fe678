# SPDX-License-Identifier: Apache-2.0
"""A subscription to the Wind API, for the tests of usage."""

from tests.support.metered import contract, metered_market, settings

__all__ = ["contract", "metered_market", "settings"]
