# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of the estimate (spec 11 §10). A null says no more than a field left out."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from nimbus.billing.schemas import Input
from nimbus.catalog import ChargeShape

EVENTS_MAX = 10_000
Number = Annotated[str, StringConstraints(max_length=62)]
Meter = Annotated[str, StringConstraints(max_length=50)]
Instant = Annotated[
    str,
    StringConstraints(max_length=40),
    Field(description="A day (its midnight in UTC) or an instant (RFC 3339)."),
]


def _one_or_many(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("A decimal string, or a list of these, is expected.")
    if len(texts) > EVENTS_MAX or any(len(text) > 62 for text in texts):
        raise ValueError("That is more than an estimate reads.")
    return value


OneOrMany = Annotated[
    Any,
    PlainValidator(_one_or_many),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "maxItems": EVENTS_MAX},
            ]
        }
    ),
]


class Billed(Input):
    """What other invoices billed of a meter in this period; without `amount` its price."""

    quantity: Number = "0"
    amount: Number | None = None


class PeriodAsked(Input):
    """From `from` up to, not including, `to`; served in the part of it that `service_…` names."""

    from_: Instant = Field(alias="from")
    to: Instant
    service_from: Instant | None = None
    service_to: Instant | None = None


class CouponAsked(Input):
    """`percent` or `amount` off the lines of `meters`; without these off the whole invoice."""

    percent: Number | None = None
    amount: Number | None = None
    meters: Annotated[list[Meter], Field(max_length=100, default_factory=list)]


class BuyerAsked(Input):
    """Who buys: a VAT number that is not valid counts as none."""

    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    vat_number: Annotated[str, StringConstraints(max_length=50)] | None = None


class TaxAsked(Input):
    """A rate in percent, or the buyer that decides it."""

    rate: Number | None = None
    buyer: BuyerAsked | None = None


class EstimateBody(Input):
    """What is to be estimated.

    Amounts and quantities are decimal strings, rates percent. `plan` is one of the operator's;
    `base_fee` and `charges` given beside it take the place of its own. `usage` is all of the
    period; a list holds its events, which count one by one for `percentage`, by their peak for
    `capacity` and by their sum for the others. `already_billed` is taken off it.
    """

    plan: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,100}$")] | None = None
    currency: Annotated[str, StringConstraints(max_length=10)] = "EUR"
    base_fee: Number | None = None
    charges: Annotated[list[ChargeShape], Field(max_length=100, default_factory=list)]
    usage: Annotated[dict[Meter, OneOrMany], Field(max_length=100, default_factory=dict)]
    already_billed: Annotated[dict[Meter, Billed], Field(max_length=100, default_factory=dict)]
    minimum_commitment: Number = "0"
    period: PeriodAsked | None = None
    proration: Literal["second", "day", "none"] | None = None
    coupons: Annotated[list[CouponAsked], Field(max_length=100, default_factory=list)]
    credit_notes: OneOrMany = "0"
    wallet: Number = "0"
    tax: TaxAsked | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return _known(given)


class EstimateLine(BaseModel):
    """A line, net; `unit_price` is null where no single price made the amount."""

    kind: Literal["Subscription", "ApiUsage", "Asset", "Storage", "Report", "Other", "Coupon"]
    meter: str | None
    description: str
    quantity: str
    unit_price: str | None
    amount_minor: int


class EstimateTax(BaseModel):
    """VAT of one category (EN 16931) and rate, in percent."""

    category: str
    rate: str
    base_minor: int
    tax_minor: int


class EstimateView(BaseModel):
    """The invoice that it would be, in minor units of `currency`; `due_minor` is what is left to
    pay after credit notes and wallet.
    """

    currency: str
    lines: list[EstimateLine]
    subtotal_minor: int
    taxes: list[EstimateTax]
    tax_minor: int
    total_minor: int
    due_minor: int


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_known(one) for one in value]
    return value
