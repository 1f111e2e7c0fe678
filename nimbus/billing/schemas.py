# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of billing."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, EmailStr, Field, StringConstraints

from nimbus.base.web import Amount, Money

InvoiceStatus = Literal["Draft", "Sent", "Paid", "Overdue", "Cancelled"]
PaymentStateName = Literal["Pending", "Paid", "Failed", "Overdue", "WrittenOff"]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Day = Annotated[str, Field(json_schema_extra={"format": "date"})]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Input(BaseModel):
    """What comes in: a field that is not ours is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class PositiveAmount(Amount):
    """An amount that comes in, more than nothing."""

    amount_minor: Annotated[int, Field(ge=1, le=10**12, strict=True)]


class LineView(BaseModel):
    """A line; `unit_price` is null where no single price made the amount, amounts are net.

    `kind` is the source's type and `source_id` the source.
    """

    position: int
    kind: Literal["Subscription", "ApiUsage", "Asset", "Storage", "Report", "Other"]
    source_id: UUID
    meter: str | None
    description: str
    quantity: str
    unit_price: str | None
    vat_rate: str | None
    amount: Money
    starts_at: Moment
    ends_at: Moment


class TaxView(BaseModel):
    """VAT of one category (EN 16931) and rate, in percent."""

    category: str
    rate: str
    base: Money
    tax: Money


class UsageView(BaseModel):
    """What was used of a meter in the period, what of it is included and what is billed."""

    meter: str
    used: str
    included: str
    billed: str


class PartyView(BaseModel):
    """A side of the invoice, as it was when the invoice was computed."""

    name: str
    address: dict[str, Any]
    country: str
    vat_number: str | None
    company_number: str | None
    email: str
    iban: str | None = None


class InvoiceView(BaseModel):
    """An invoice in a list; `number` and the days are null while it is a draft."""

    id: UUID
    organization_id: UUID
    subscription_id: UUID
    product_id: UUID
    number: str | None
    status: InvoiceStatus
    payment_state: PaymentStateName | None
    paid_at: Moment | None
    kind: Literal["start", "period", "progress", "change"]
    period_starts_at: Moment
    period_ends_at: Moment
    subtotal: Money
    tax: Money
    total: Money
    credited: Money
    wallet: Money
    due: Money
    issued_on: Day | None
    due_on: Day | None
    payment_reference: str | None
    created_at: Moment


class InvoiceDetail(InvoiceView):
    """The whole invoice."""

    seller: PartyView | None
    buyer: PartyView
    lines: list[LineView]
    taxes: list[TaxView]
    legal_text: str | None
    usage: list[UsageView]


class AdminInvoiceView(InvoiceView):
    """An invoice as the operator sees it: whose it is, and why a draft waits for a person."""

    organization: str
    parked_reason: Literal["too_many_lines", "negative_total", "far_above_usual"] | None


class UpcomingInvoice(BaseModel):
    """What the running period of a subscription would cost if it ended now.

    `credited` and `wallet` would be taken off, `due` be left; `forecast` is the total at the
    period's end if usage goes on as it went so far.
    """

    subscription_id: UUID
    product_id: UUID
    period_starts_at: Moment
    period_ends_at: Moment
    lines: list[LineView]
    taxes: list[TaxView]
    subtotal: Money
    tax: Money
    total: Money
    credited: Money
    wallet: Money
    due: Money
    forecast: Money
    usage: list[UsageView]


class UpcomingInvoices(BaseModel):
    """One for each live subscription."""

    data: list[UpcomingInvoice]
    next_cursor: None = None


class BillRequest(Input):
    """Which subscription to bill: its last ended period."""

    subscription_id: UUID


class AddressInput(Input):
    """A postal address."""

    street: Text
    postal_code: Text
    city: Text


class SettingsBody(Input):
    """The operator's legal data and terms, all of them.

    `version` is the one that was read, 0 where nothing was set. Without `time_zone` it is the
    organization's. A `terms_version` that is known already keeps its text.
    """

    operator_organization_id: UUID
    name: Text
    address: AddressInput
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    company_number: Text
    vat_number: Text
    email: EmailStr
    iban: Annotated[str, StringConstraints(max_length=60)] | None = None
    time_zone: Text | None = None
    terms_version: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)
    ]
    terms_body: Annotated[str, StringConstraints(min_length=1, max_length=200_000)]
    version: int = 0


class SettingsView(BaseModel):
    """The operator's settings; null and `version` 0 until they are set."""

    operator_organization_id: UUID | None = None
    name: str | None = None
    address: dict[str, Any] | None = None
    country: str | None = None
    company_number: str | None = None
    vat_number: str | None = None
    email: str | None = None
    iban: str | None = None
    time_zone: str | None = None
    terms_version: str | None = None
    version: int = 0


class CreditBody(Input):
    """What is put on a prepaid balance, and why; in the organization's currency."""

    amount: PositiveAmount
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    expires_at: datetime | None = None
    priority: Annotated[int, Field(ge=0, le=1000)] = 0


class CreditView(BaseModel):
    """What was put on a prepaid balance."""

    id: UUID
    organization_id: UUID
    amount: Money
    reason: str
    expires_at: Moment | None
    created_at: Moment


class WalletEntryView(BaseModel):
    """Money into the wallet (above zero), or out of it."""

    id: UUID
    kind: Literal["top_up", "grant", "credit_note", "draw", "expiry"]
    amount: Money
    invoice_id: UUID | None
    credit_note_id: UUID | None
    expires_at: Moment | None
    reason: str | None
    created_at: Moment


class TopUpBody(Input):
    """What is to be put into the wallet; in the organization's currency."""

    amount: PositiveAmount


class TopUpView(BaseModel):
    """A top-up: it counts when its money came in, quoting the payment reference."""

    id: UUID
    amount: Money
    payment_reference: str
    status: Literal["Pending", "Paid"]
    created_at: Moment


class WalletView(BaseModel):
    """What the next invoices are paid out of: `credit` from credit notes first, then `balance`."""

    balance: Money
    credit: Money
    entries: list[WalletEntryView]
    top_ups: list[TopUpView]


class CreditedLine(Input):
    """How much of an invoice's line is given back: in minor units, without VAT, before coupons."""

    position: Annotated[int, Field(ge=1, le=100_000)]
    amount_minor: Annotated[int, Field(ge=1, le=10**15, strict=True)]


class CreditNoteBody(Input):
    """What is given back: the `lines`, or all that is left where they are missing; and why.

    What was paid already goes back the way it came (`refund`), or is kept as credit.
    """

    lines: Annotated[list[CreditedLine], Field(min_length=1, max_length=1000)] | None = None
    disposition: Literal["refund", "credit"]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class WriteOffBody(Input):
    """Why nobody will pay what is due."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class WriteOffView(BaseModel):
    """What of an invoice was given up."""

    id: UUID
    invoice_id: UUID
    amount: Money
    reason: str
    created_at: Moment


class CreditNoteView(BaseModel):
    """A credit note. `open` need not be paid any more, `refund` goes back, `credit` is kept."""

    id: UUID
    invoice_id: UUID
    number: str
    subtotal: Money
    tax: Money
    total: Money
    open: Money
    refund: Money
    credit: Money
    reason: str
    issued_on: Day
    created_at: Moment


class CreditNotes(BaseModel):
    """The credit notes of an invoice, the oldest first."""

    data: list[CreditNoteView]
    next_cursor: None = None


class CouponBody(Input):
    """A coupon of the operator: `percent`, or `amount`; `times` invoices, or for ever (null).

    `plan_id` and `meter`: only lines of these.
    """

    code: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{3,40}$")]
    name: Text
    percent: Annotated[Decimal, Field(gt=0, le=100, decimal_places=3)] | None = None
    amount: PositiveAmount | None = None
    times: Annotated[int, Field(ge=1, le=1000)] | None = None
    plan_id: UUID | None = None
    meter: Annotated[str, StringConstraints(max_length=100)] | None = None
    redeem_by: datetime | None = None
    redemptions_max: Annotated[int, Field(ge=1)] | None = None


class CouponView(BaseModel):
    """A coupon."""

    id: UUID
    code: str
    name: str
    percent: str | None
    amount: Money | None
    times: int | None
    plan_id: UUID | None
    meter: str | None
    redeem_by: Moment | None
    redemptions_max: int | None


class RedeemBody(Input):
    """A coupon's code, and the subscription that it is to count for; without it the current one."""

    code: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]
    subscription_id: UUID | None = None


class RedemptionView(BaseModel):
    """A coupon that counts for a subscription."""

    id: UUID
    subscription_id: UUID
    coupon: CouponView
    created_at: Moment


class Redemptions(BaseModel):
    """The coupons that count for the organization's subscriptions."""

    data: list[RedemptionView]
    next_cursor: None = None


class ItemBody(Input):
    """Something sold once; its amount is without VAT."""

    description: Text
    amount: PositiveAmount


class ItemView(BaseModel):
    """A one-off item; it stands on the next invoice."""

    id: UUID
    subscription_id: UUID
    description: str
    amount: Money
    created_at: Moment


class ThresholdBody(Input):
    """Bill usage in between each time that it comes to so much more; null: no more."""

    amount: PositiveAmount | None


class BillingStateView(BaseModel):
    """A subscription whose billing was changed by hand."""

    subscription_id: UUID
    threshold: Money | None = None
    parked: bool = False


class StepView(BaseModel):
    """A step of the calculation: `used`, `included`, `billable`, `unit_price`, `exact`, …"""

    name: str
    value: str


class PlanVersionView(BaseModel):
    """The version of a plan or add-on that priced a line."""

    id: UUID
    plan: str
    name: str
    number: int


class CellView(BaseModel):
    """An hour of the roll-up: how many events, their sum, the largest."""

    hour: Moment
    events: int
    quantity: str
    peak: str


class EventView(BaseModel):
    """An event that was counted."""

    event_id: UUID
    occurred_at: Moment
    method: str | None
    status: int | None
    request_id: str | None
    quantity: str


class EntryView(BaseModel):
    """What the invoice posted in the ledger."""

    sequence: int
    debit: str
    credit: str
    amount: Money
    leg: str
    hash: str


class ExplanationView(BaseModel):
    """Why a line asks what it asks. `hours_left_out`: more hours than are shown."""

    invoice_id: UUID
    invoice_number: str | None
    line: LineView
    formula: str
    steps: list[StepView]
    plan_version: PlanVersionView | None
    rules_version: int
    hours: list[CellView]
    hours_left_out: int
    events: list[EventView]
    ledger: list[EntryView]
