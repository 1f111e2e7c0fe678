# SPDX-License-Identifier: Apache-2.0
"""The collecting: payments, and the checkout that starts a subscription. The room's door."""

from nimbus import ledger
from nimbus.payments import queries
from nimbus.payments.service import mark_paid

__all__ = ["mark_paid"]

ledger.expect("payment", queries.expected_postings)
