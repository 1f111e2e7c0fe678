# SPDX-License-Identifier: Apache-2.0
"""Double entry: which transfers a business fact posts.

A transfer moves an amount from its credit account to its debit account, so it is balanced by its
shape and an unbalanced entry cannot be written down (spec 09, M-02). A fact posts each leg once:
(source kind, source id, leg) is unique in the database (M-05).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from nimbus.rules.invoicing import Totals
from nimbus.rules.money import minor_digits

PaymentProvider = Literal["manual", "bank", "sepa", "stripe", "mollie"]

PAYMENT_PROVIDERS: tuple[PaymentProvider, ...] = get_args(PaymentProvider)
RECEIVABLE = "receivable"
REVENUE = "revenue"
VAT_PAYABLE = "vat_payable"
CUSTOMER_BALANCE = "customer_balance"  # owed to customers: what they paid before it was billed
REFUNDS = "refunds"  # owed to customers: what is on its way back to where it was paid from
EXPIRED_CREDIT = "expired_credit"  # earned: prepaid credit that nobody used in time
WRITE_OFFS = "write_offs"  # lost: what will not be paid

ACCOUNTS = frozenset(
    {RECEIVABLE, REVENUE, VAT_PAYABLE, CUSTOMER_BALANCE, REFUNDS, EXPIRED_CREDIT, WRITE_OFFS}
    | {f"cash:{provider}" for provider in PAYMENT_PROVIDERS}
)
"""The closed list of account names; nothing else is ever posted to."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """`amount_minor` (above zero) of `currency`: debited to one account, credited to another.

    `leg` names the part of the fact that this transfer is.
    """

    debit: str
    credit: str
    amount_minor: int
    currency: str
    leg: str

    def __post_init__(self) -> None:
        if self.debit not in ACCOUNTS or self.credit not in ACCOUNTS:
            raise ValueError(f"no such account: {self.debit} or {self.credit}")
        if self.debit == self.credit or self.amount_minor <= 0:
            raise ValueError("a transfer moves a positive amount between two accounts")
        minor_digits(self.currency)


def cash(provider: PaymentProvider) -> str:
    """The cash account of a payment provider: "manual" → "cash:manual"."""
    return f"cash:{provider}"


def invoice_finalized(totals: Totals, currency: str) -> tuple[Transfer, ...]:
    """The receivable of a finalized invoice, against revenue and VAT payable per rate.

    116.50 + 24.47 euro → receivable/revenue 11,650 and receivable/vat_payable 2,447. Amounts of
    nothing post nothing; a negative base or tax goes the other way round.
    """
    legs = [(REVENUE, totals.subtotal_minor, "net")]
    legs += [
        (VAT_PAYABLE, tax.tax_minor, f"vat:{tax.treatment.country}:{tax.treatment.rate}")
        for tax in totals.taxes
    ]
    return tuple(
        Transfer(RECEIVABLE, account, amount, currency, leg)
        if amount > 0
        else Transfer(account, RECEIVABLE, -amount, currency, leg)
        for account, amount, leg in legs
        if amount
    )


def payment_received(
    provider: PaymentProvider, amount_minor: int, currency: str
) -> tuple[Transfer, ...]:
    """Money that came in for an invoice: 140.97 by hand → cash:manual/receivable 14,097."""
    return (Transfer(cash(provider), RECEIVABLE, amount_minor, currency, "payment"),)


def balance_credited(amount_minor: int, currency: str) -> tuple[Transfer, ...]:
    """Money paid ahead, by hand: 50.00 → cash:manual/customer_balance 5,000."""
    return (Transfer(cash("manual"), CUSTOMER_BALANCE, amount_minor, currency, "credit"),)


def credit_note_issued(totals: Totals, currency: str) -> tuple[Transfer, ...]:
    """The reversal that a credit note of these (positive) totals posts.

    The whole reference invoice → revenue/receivable 11,650 and vat_payable/receivable 2,447, which
    leaves nothing of it in any balance (spec 09, I-07).
    """
    return reverse(invoice_finalized(totals, currency))


def credit_kept(amount_minor: int, currency: str) -> tuple[Transfer, ...]:
    """What a credit note gives back beyond the invoice's open amount, kept as the customer's
    balance: 10.00 of a paid invoice → receivable/customer_balance 1,000.
    """
    return (Transfer(RECEIVABLE, CUSTOMER_BALANCE, amount_minor, currency, "credit_kept"),)


def credit_refunded(amount_minor: int, currency: str) -> tuple[Transfer, ...]:
    """The same, to go back to where it was paid from: receivable/refunds."""
    return (Transfer(RECEIVABLE, REFUNDS, amount_minor, currency, "credit_refunded"),)


def balance_used(amount_minor: int, currency: str) -> tuple[Transfer, ...]:
    """Balance that pays part of an invoice: customer_balance/receivable."""
    return (Transfer(CUSTOMER_BALANCE, RECEIVABLE, amount_minor, currency, "balance_used"),)


def balance_expired(amount_minor: int, currency: str) -> tuple[Transfer, ...]:
    """Prepaid credit whose time is over: 70.00 → customer_balance/expired_credit 7,000."""
    return (Transfer(CUSTOMER_BALANCE, EXPIRED_CREDIT, amount_minor, currency, "expired"),)


def written_off(amount_minor: int, currency: str) -> tuple[Transfer, ...]:
    """What of an invoice will not be paid: write_offs/receivable."""
    return (Transfer(WRITE_OFFS, RECEIVABLE, amount_minor, currency, "write_off"),)


def reverse(transfers: Iterable[Transfer]) -> tuple[Transfer, ...]:
    """The same transfers with debit and credit exchanged: together with these they cancel out."""
    return tuple(replace(one, debit=one.credit, credit=one.debit) for one in transfers)


def balances(transfers: Iterable[Transfer]) -> dict[tuple[str, str], int]:
    """(account, currency) → balance in minor units, debit positive; zero balances are left out.

    The reference invoice and its payment → cash:manual 14,097, revenue -11,650, vat_payable
    -2,447. Per currency the balances add up to zero.
    """
    result: dict[tuple[str, str], int] = {}
    for one in transfers:
        for account, amount in ((one.debit, one.amount_minor), (one.credit, -one.amount_minor)):
            at = (account, one.currency)
            result[at] = result.get(at, 0) + amount
    return {at: balance for at, balance in result.items() if balance}
