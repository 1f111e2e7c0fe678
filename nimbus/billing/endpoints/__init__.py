# SPDX-License-Identifier: Apache-2.0
"""HTTP of billing: invoices, the operator's settings, the wallet, the estimate."""

from nimbus.billing.endpoints import (
    credit_notes,
    estimates,
    explanations,
    extras,
    invoices,
    wallets,
    write_offs,
)

routers = tuple(
    room.router
    for room in (invoices, estimates, wallets, credit_notes, extras, explanations, write_offs)
)
