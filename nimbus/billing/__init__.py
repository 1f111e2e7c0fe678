# SPDX-License-Identifier: Apache-2.0
"""The bill: periods closed, invoices made and sent, who sells, the wallet. The room's door."""

from nimbus import ledger, usage
from nimbus.billing import queries, queries_credit_notes, queries_wallets
from nimbus.billing.service import quantities, write_offs
from nimbus.billing.service.extras import add_item
from nimbus.billing.service.invoices import (
    InvoiceFacts,
    lock_sent_invoice,
    mark_paid,
    sent_invoice,
    sent_invoices,
)
from nimbus.billing.service.papers import invoice_pdf
from nimbus.billing.service.proposals import Proposal
from nimbus.billing.service.runs import bill, bill_change, upcoming

__all__ = [
    "InvoiceFacts",
    "Proposal",
    "add_item",
    "bill",
    "bill_change",
    "invoice_pdf",
    "lock_sent_invoice",
    "mark_paid",
    "sent_invoice",
    "sent_invoices",
    "upcoming",
]

ledger.expect("invoice", queries.expected_postings)
ledger.expect("balance_credit", queries_wallets.expected_grants)
ledger.expect("wallet_draw", queries_wallets.expected_draws)
ledger.expect("wallet_expiry", queries_wallets.expected_expiries)
ledger.expect("credit_note", queries_credit_notes.expected_postings)
ledger.expect("write_off", write_offs.expected_postings)
usage.also_prove(quantities.wrongly_billed)
