# SPDX-License-Identifier: Apache-2.0
"""The collecting: payments, and the checkout that starts a subscription. The room's door."""

from nimbus import ledger
from nimbus.payments import queries
from nimbus.payments.service.checkout import accept_terms, start_subscription
from nimbus.payments.service.settlements import mark_paid

__all__ = ["accept_terms", "mark_paid", "start_subscription"]

ledger.expect("payment", queries.expected_postings)
