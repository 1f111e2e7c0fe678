# SPDX-License-Identifier: Apache-2.0
"""A sale for the tests of billing."""

from tests.support.bills import sale, settings, sold
from tests.support.market import upstream

__all__ = ["sale", "settings", "sold", "upstream"]
