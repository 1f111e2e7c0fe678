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


class SellerChanged(Event):
    """The operator's legal data changed."""

    __slots__ = ()
    name: ClassVar[str] = "settings.changed"
    action: ClassVar[str] = "SettingsChanged"
    entity_type: ClassVar[str] = "seller"
