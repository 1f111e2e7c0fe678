# SPDX-License-Identifier: Apache-2.0
"""Ledger: double entry, append-only, chained by hash; see README.md."""

from nimbus.ledger.queries import balance, check, expect
from nimbus.ledger.service import Posting, post

__all__ = ["Posting", "balance", "check", "expect", "post"]
