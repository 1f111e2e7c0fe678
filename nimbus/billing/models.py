# SPDX-License-Identifier: Apache-2.0
"""Tables of billing: the seller, number series, closed periods, invoices and their parts."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CHAR, BigInteger, FetchedValue, Numeric, Text
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from nimbus.base.db import Base
from nimbus.rules.coupons import Coupon
from nimbus.rules.invoicing import LineDraft
from nimbus.rules.money import Money, major
from nimbus.rules.periods import Period

Instant = TIMESTAMP(timezone=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledLine:
    """A line that was billed before, as the law compares it, and what credit notes gave back."""

    invoice_id: UUID
    kind: Any
    meter_key: str | None
    text: Any
    quantity: Decimal
    unit_price: Decimal | None
    amount_minor: int
    starts_at: datetime
    ends_at: datetime
    sold_id: UUID | None
    credited_minor: int

    def draft(self) -> LineDraft:
        """The line as the law has it."""
        return LineDraft(
            self.kind,
            self.meter_key,
            self.text,
            self.quantity,
            self.unit_price,
            self.amount_minor,
            Period(self.starts_at, self.ends_at),
            self.sold_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenItem:
    """A one-off item that no invoice has yet."""

    id: UUID
    description: str
    amount_minor: int
    currency: str
    created_at: datetime

    def draft(self) -> LineDraft:
        """The item as a line: one piece at its price, of the moment it was made."""
        price = major(Money(self.amount_minor, self.currency))
        moment = Period(self.created_at, self.created_at + timedelta(microseconds=1))
        one = Decimal(1)
        return LineDraft("Other", None, "item", one, price, self.amount_minor, moment, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCoupon:
    """A coupon that a subscription redeemed and that still counts; `id` is the redemption's."""

    id: UUID
    name: str
    percent: Decimal | None
    amount_minor: int | None
    currency: str | None
    plan_id: UUID | None
    meter_key: str | None

    def coupon(self) -> Coupon:
        """The coupon as the law has it."""
        return Coupon(
            str(self.id),
            self.percent,
            self.amount_minor,
            None if self.meter_key is None else frozenset({self.meter_key}),
            None if self.plan_id is None else frozenset({self.plan_id}),
        )


class Seller(Base):
    """Who sells on this installation: the operator's legal data; one row is current."""

    __tablename__ = "sellers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    current: Mapped[bool]
    legal_name: Mapped[str] = mapped_column(Text)
    address: Mapped[dict[str, Any]] = mapped_column(JSONB)
    country: Mapped[str] = mapped_column(CHAR(2))
    company_number: Mapped[str] = mapped_column(Text)
    vat_number: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    iban: Mapped[str | None] = mapped_column(Text)
    time_zone: Mapped[str] = mapped_column(Text)
    terms_version: Mapped[str] = mapped_column(Text)
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class BillingPeriod(Base):
    """A closed period of a subscription; `invoice_id` is None when nothing was owed for it.

    `unused`: nothing was used in it. `read_at` is when its usage was read, by the machine's clock.
    """

    __tablename__ = "billing_periods"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    plan_version_id: Mapped[UUID]
    anchor_at: Mapped[datetime] = mapped_column(Instant)
    time_zone: Mapped[str] = mapped_column(Text)
    number: Mapped[int]
    starts_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime] = mapped_column(Instant)
    previous_ends_at: Mapped[datetime | None] = mapped_column(Instant)
    invoice_id: Mapped[UUID | None]
    unused: Mapped[bool] = mapped_column(default=False)
    read_at: Mapped[datetime] = mapped_column(Instant, server_default=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(Instant)


class Invoice(Base):
    """An invoice: a Draft may be computed again, a Sent one never changes.

    Amounts are minor units of `currency`. `issued_on`, `due_on`, `supply_from` and `supply_to`
    (included) are days of the seller's time zone. `buyer`, `seller`, `usage` and `tax_evidence`
    are what they were at the last computation.
    """

    __tablename__ = "invoices"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    product_id: Mapped[UUID]
    plan_version_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(CHAR(3))
    period_starts_at: Mapped[datetime] = mapped_column(Instant)
    period_ends_at: Mapped[datetime] = mapped_column(Instant)
    subtotal_minor: Mapped[int] = mapped_column(BigInteger)
    tax_minor: Mapped[int] = mapped_column(BigInteger)
    total_minor: Mapped[int] = mapped_column(BigInteger)
    rules_version: Mapped[int]
    finalize_at: Mapped[datetime] = mapped_column(Instant)
    parked_reason: Mapped[str | None] = mapped_column(Text)
    credited_minor: Mapped[int] = mapped_column(BigInteger, default=0)
    wallet_minor: Mapped[int] = mapped_column(BigInteger, default=0)
    payment_term_days: Mapped[int]
    locale: Mapped[str] = mapped_column(Text)
    buyer: Mapped[dict[str, Any]] = mapped_column(JSONB)
    usage: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    seller_organization_id: Mapped[UUID | None]
    seller_id: Mapped[UUID | None]
    seller: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    tax_evidence: Mapped[dict[str, Any]] = mapped_column(JSONB)
    number: Mapped[str | None] = mapped_column(Text)
    issued_on: Mapped[date | None]
    due_on: Mapped[date | None]
    supply_from: Mapped[date | None]
    supply_to: Mapped[date | None]
    payment_reference: Mapped[str | None] = mapped_column(Text)
    finalized_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class InvoiceLine(Base):
    """One line; the same line again by kind, meter and start of its period."""

    __tablename__ = "invoice_lines"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    invoice_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    position: Mapped[int]
    kind: Mapped[Any] = mapped_column(Text)
    source_id: Mapped[UUID]
    sold_id: Mapped[UUID | None]
    meter_key: Mapped[str | None] = mapped_column(Text)
    text: Mapped[Any] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    quantity: Mapped[Decimal] = mapped_column(Numeric(38, 12))
    unit_price: Mapped[Decimal | None] = mapped_column(Numeric(30, 12))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    discount_minor: Mapped[int] = mapped_column(BigInteger, default=0)
    tax_category: Mapped[str | None] = mapped_column(Text)
    tax_rate: Mapped[Decimal | None] = mapped_column(Numeric(6, 3))
    starts_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)


class InvoiceTax(Base):
    """VAT of one category, rate and country."""

    __tablename__ = "invoice_taxes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    invoice_id: Mapped[UUID]
    category: Mapped[str] = mapped_column(Text)
    rate: Mapped[Decimal] = mapped_column(Numeric(6, 3))
    country: Mapped[str | None] = mapped_column(CHAR(2))
    legal_text_key: Mapped[str | None] = mapped_column(Text)
    base_minor: Mapped[int] = mapped_column(BigInteger)
    tax_minor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Instant)


class InvoiceDocument(Base):
    """The document as it was made once; the table checks the hash."""

    __tablename__ = "invoice_documents"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    invoice_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(Text)
    language: Mapped[str] = mapped_column(Text)
    content: Mapped[bytes] = mapped_column(BYTEA)
    sha256: Mapped[bytes] = mapped_column(BYTEA)
    created_at: Mapped[datetime] = mapped_column(Instant)


class PaymentState(Base):
    """Whether a sent invoice is paid; apart from the invoice, which never changes."""

    __tablename__ = "invoice_payment_states"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    invoice_id: Mapped[UUID]
    state: Mapped[str] = mapped_column(Text)
    paid_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class WriteOff(Base):
    """What of a sent invoice will not be paid any more; only added, once an invoice."""

    __tablename__ = "write_offs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    invoice_id: Mapped[UUID]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    made_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant)


class TopUp(Base):
    """Money that an organization wants to put into its wallet; it counts once it came in."""

    __tablename__ = "wallet_top_ups"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    payment_reference: Mapped[str] = mapped_column(Text)
    requested_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant)


class WalletEntry(Base):
    """Money into the wallet, or out of the entry `source_entry_id`; a row never changes."""

    __tablename__ = "wallet_entries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(Text)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    source_entry_id: Mapped[UUID | None]
    top_up_id: Mapped[UUID | None]
    invoice_id: Mapped[UUID | None]
    credit_note_id: Mapped[UUID | None]
    priority: Mapped[int]
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    reason: Mapped[str | None] = mapped_column(Text)
    made_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(Instant)


class CreditNote(Base):
    """What was given back of a sent invoice; a row never changes. Amounts are positive.

    `open_minor` lowered what was to be paid, `refund_minor` goes back to where it was paid from,
    `credit_minor` is kept in the wallet.
    """

    __tablename__ = "credit_notes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    invoice_id: Mapped[UUID]
    seller_organization_id: Mapped[UUID]
    seller_id: Mapped[UUID]
    number: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(CHAR(3))
    subtotal_minor: Mapped[int] = mapped_column(BigInteger)
    tax_minor: Mapped[int] = mapped_column(BigInteger)
    total_minor: Mapped[int] = mapped_column(BigInteger)
    disposition: Mapped[str] = mapped_column(Text)
    open_minor: Mapped[int] = mapped_column(BigInteger)
    refund_minor: Mapped[int] = mapped_column(BigInteger)
    credit_minor: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    issued_on: Mapped[date]
    issued_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant)


class CreditNoteLine(Base):
    """What was given back of one line: `amount_minor` before its coupons."""

    __tablename__ = "credit_note_lines"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    credit_note_id: Mapped[UUID]
    invoice_line_id: Mapped[UUID]
    position: Mapped[int]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    coupon_minor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Instant)


class CreditNoteTax(Base):
    """What was given back of the VAT of one category and rate."""

    __tablename__ = "credit_note_taxes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    credit_note_id: Mapped[UUID]
    invoice_tax_id: Mapped[UUID]
    base_minor: Mapped[int] = mapped_column(BigInteger)
    tax_minor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Instant)


class CreditNoteDocument(Base):
    """The document as it was made once; the table checks the hash."""

    __tablename__ = "credit_note_documents"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    credit_note_id: Mapped[UUID]
    language: Mapped[str] = mapped_column(Text)
    content: Mapped[bytes] = mapped_column(BYTEA)
    sha256: Mapped[bytes] = mapped_column(BYTEA)
    created_at: Mapped[datetime] = mapped_column(Instant)


class CouponRow(Base):
    """A coupon of the operator: `times` None is for ever; `plan_id`, `meter_key`: only these."""

    __tablename__ = "coupons"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    code: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    percent: Mapped[Decimal | None] = mapped_column(Numeric(6, 3))
    amount_minor: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None] = mapped_column(CHAR(3))
    times: Mapped[int | None]
    plan_id: Mapped[UUID | None]
    meter_key: Mapped[str | None] = mapped_column(Text)
    redeem_by: Mapped[datetime | None] = mapped_column(Instant)
    redemptions_max: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(Instant)


class CouponRedemption(Base):
    """A subscription that a coupon counts for."""

    __tablename__ = "coupon_redemptions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    coupon_organization_id: Mapped[UUID]
    coupon_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant)


class OneOffItem(Base):
    """Something sold once: it stands on the next invoice of the subscription."""

    __tablename__ = "one_off_items"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    description: Mapped[str] = mapped_column(Text)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    made_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant)


class Threshold(Base):
    """A subscription is billed for its usage each time that it comes to this much more."""

    __tablename__ = "billing_thresholds"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    subscription_id: Mapped[UUID] = mapped_column(primary_key=True)
    provider_organization_id: Mapped[UUID]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)
