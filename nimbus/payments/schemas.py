# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of payments and of the checkout."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from nimbus.base.web import Money

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Day = Annotated[str, Field(json_schema_extra={"format": "date"})]


class Input(BaseModel):
    """What comes in: a field that is not ours is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class MarkPaidBody(Input):
    """How the money came in; `received_on` is today where it is left out."""

    reference: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
        | None
    ) = None
    received_on: date | None = None


class PaymentView(BaseModel):
    """A payment that settled an invoice."""

    id: UUID
    organization_id: UUID
    invoice_id: UUID
    status: Literal["Succeeded"] = "Succeeded"
    method: Literal["manual"]
    amount: Money
    reference: str | None
    received_on: Day
    created_at: Moment
