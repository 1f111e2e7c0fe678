# SPDX-License-Identifier: Apache-2.0
"""What billing announces. Names are webhook names, actions those of the audit trail."""

from typing import ClassVar

from nimbus.base.events import Event


class _InvoiceEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "invoice"


class InvoiceDrafted(_InvoiceEvent):
    """A period is closed and its invoice computed; `after["parked_reason"]` if it waits."""

    name: ClassVar[str] = "invoice.drafted"
    action: ClassVar[str] = "InvoiceDrafted"


class InvoiceFinalized(_InvoiceEvent):
    """An invoice has its number and never changes again; `after` has number, total, due date."""

    name: ClassVar[str] = "invoice.finalized"
    action: ClassVar[str] = "InvoiceGenerated"


class InvoicePaid(_InvoiceEvent):
    """An invoice is paid; `after` has number, method and amount."""

    name: ClassVar[str] = "invoice.paid"
    action: ClassVar[str] = "InvoicePaid"


class InvoiceWrittenOff(_InvoiceEvent):
    """What is due of an invoice is given up; `after` has number and amount, `reason` says why."""

    name: ClassVar[str] = "invoice.written_off"
    action: ClassVar[str] = "InvoiceWrittenOff"


class SellerChanged(Event):
    """The operator's legal data changed."""

    __slots__ = ()
    name: ClassVar[str] = "settings.changed"
    action: ClassVar[str] = "SettingsChanged"
    entity_type: ClassVar[str] = "seller"


class BillingParked(Event):
    """No bill can be made of a subscription; `reason` says why, a person has to look."""

    __slots__ = ()
    name: ClassVar[str] = "billing.parked"
    action: ClassVar[str] = "BillingParked"
    entity_type: ClassVar[str] = "subscription"


class BillingReleased(Event):
    """A person looked at a parked subscription: it is billed again."""

    __slots__ = ()
    name: ClassVar[str] = "billing.released"
    action: ClassVar[str] = "BillingReleased"
    entity_type: ClassVar[str] = "subscription"


class TopUpRequested(Event):
    """Money is to be put into a wallet; `after` has amount and payment reference."""

    __slots__ = ()
    name: ClassVar[str] = "wallet.top_up_requested"
    action: ClassVar[str] = "TopUpRequested"
    entity_type: ClassVar[str] = "wallet_top_up"


class BalanceCredited(Event):
    """Money was put into a wallet: prepaid balance."""

    __slots__ = ()
    name: ClassVar[str] = "balance.credited"
    action: ClassVar[str] = "BalanceCredited"
    entity_type: ClassVar[str] = "balance_credit"


class CreditExpired(Event):
    """What was left of an entry of a wallet is money no more."""

    __slots__ = ()
    name: ClassVar[str] = "wallet.credit_expired"
    action: ClassVar[str] = "CreditExpired"
    entity_type: ClassVar[str] = "balance_credit"


class CreditNoteIssued(Event):
    """All or part of an invoice was given back; `after` has number, invoice, amounts."""

    __slots__ = ()
    name: ClassVar[str] = "credit_note.issued"
    action: ClassVar[str] = "CreditNoteIssued"
    entity_type: ClassVar[str] = "credit_note"


class CouponMade(Event):
    """The operator made a coupon."""

    __slots__ = ()
    name: ClassVar[str] = "coupon.made"
    action: ClassVar[str] = "CouponMade"
    entity_type: ClassVar[str] = "coupon"


class CouponRedeemed(Event):
    """A coupon counts for a subscription from now on."""

    __slots__ = ()
    name: ClassVar[str] = "coupon.redeemed"
    action: ClassVar[str] = "CouponRedeemed"
    entity_type: ClassVar[str] = "coupon_redemption"


class ItemAdded(Event):
    """A one-off item stands on the next invoice of a subscription."""

    __slots__ = ()
    name: ClassVar[str] = "billing.item_added"
    action: ClassVar[str] = "BillingItemAdded"
    entity_type: ClassVar[str] = "one_off_item"


class ThresholdChanged(Event):
    """At which amount of usage a subscription is billed in between changed."""

    __slots__ = ()
    name: ClassVar[str] = "billing.threshold_changed"
    action: ClassVar[str] = "BillingThresholdChanged"
    entity_type: ClassVar[str] = "subscription"
