# SPDX-License-Identifier: Apache-2.0
"""The bill: periods closed, invoices made and sent, who sells. The room's door."""

from nimbus import ledger
from nimbus.billing import queries
from nimbus.billing.service.invoices import InvoiceFacts, lock_sent_invoice, mark_paid, sent_invoice
from nimbus.billing.service.papers import invoice_pdf
from nimbus.billing.service.proposals import Proposal
from nimbus.billing.service.runs import bill, preview

__all__ = [
    "InvoiceFacts",
    "Proposal",
    "bill",
    "invoice_pdf",
    "lock_sent_invoice",
    "mark_paid",
    "preview",
    "sent_invoice",
]

ledger.expect("invoice", queries.expected_postings)
