# SPDX-License-Identifier: Apache-2.0
"""HTTP of billing: invoices, the operator's settings, the wallet, the estimate."""

from nimbus.billing.endpoints import credit_notes, estimates, invoices, wallets

routers = (invoices.router, estimates.router, wallets.router, credit_notes.router)
