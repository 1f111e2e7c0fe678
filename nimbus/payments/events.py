# SPDX-License-Identifier: Apache-2.0
"""What payments announces. Names are webhook names, actions those of the audit trail."""

from typing import ClassVar

from nimbus.base.events import Event


class PaymentSucceeded(Event):
    """An invoice was settled; `after` has the invoice's number, method and amount."""

    __slots__ = ()
    name: ClassVar[str] = "payment.succeeded"
    action: ClassVar[str] = "PaymentSucceeded"
    entity_type: ClassVar[str] = "payment"


class PlanChosen(Event):
    """An organization that is not active yet chose a plan."""

    __slots__ = ()
    name: ClassVar[str] = "organization.plan_chosen"
    action: ClassVar[str] = "PlanChosen"
    entity_type: ClassVar[str] = "checkout_choice"
