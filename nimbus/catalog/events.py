# SPDX-License-Identifier: Apache-2.0
"""What the catalogue announces. Names are webhook names, actions those of the audit trail."""

from typing import ClassVar

from nimbus.base.events import Event


class _ProductEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "product"


class ProductCreated(_ProductEvent):
    """A product began, as a draft."""

    name: ClassVar[str] = "product.created"
    action: ClassVar[str] = "ProductCreated"


class ProductChanged(_ProductEvent):
    """What a product says, or where its calls go, changed."""

    name: ClassVar[str] = "product.changed"
    action: ClassVar[str] = "ProductChanged"


class ProductDeleted(_ProductEvent):
    """A product to which nobody ever subscribed is gone."""

    name: ClassVar[str] = "product.deleted"
    action: ClassVar[str] = "ProductDeleted"


class ProductPublished(_ProductEvent):
    """A product can be found, subscribed to and called."""

    name: ClassVar[str] = "product.published"
    action: ClassVar[str] = "ProductPublished"


class ProductUnpublished(_ProductEvent):
    """A product is a draft again."""

    name: ClassVar[str] = "product.unpublished"
    action: ClassVar[str] = "ProductUnpublished"


class HostAdded(Event):
    """A product is served at a host name of its own."""

    __slots__ = ()
    name: ClassVar[str] = "product_host.added"
    action: ClassVar[str] = "ProductHostAdded"
    entity_type: ClassVar[str] = "product_host"


class HostRemoved(Event):
    """A product is served at a host name no more."""

    __slots__ = ()
    name: ClassVar[str] = "product_host.removed"
    action: ClassVar[str] = "ProductHostRemoved"
    entity_type: ClassVar[str] = "product_host"


class _RouteEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "route"


class RouteCreated(_RouteEvent):
    """A product has one operation more."""

    name: ClassVar[str] = "route.created"
    action: ClassVar[str] = "RouteCreated"


class RouteChanged(_RouteEvent):
    """An operation changed."""

    name: ClassVar[str] = "route.changed"
    action: ClassVar[str] = "RouteChanged"


class RouteDeleted(_RouteEvent):
    """An operation is gone."""

    name: ClassVar[str] = "route.deleted"
    action: ClassVar[str] = "RouteDeleted"


class _MeterEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "meter"


class MeterCreated(_MeterEvent):
    """A product counts one thing more."""

    name: ClassVar[str] = "meter.created"
    action: ClassVar[str] = "MeterCreated"


class MeterChanged(_MeterEvent):
    """What a meter counts from now on."""

    name: ClassVar[str] = "meter.changed"
    action: ClassVar[str] = "MeterChanged"


class _PlanEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "plan"


class PlanCreated(_PlanEvent):
    """A plan with its first version."""

    name: ClassVar[str] = "plan.created"
    action: ClassVar[str] = "PlanCreated"


class PlanChanged(_PlanEvent):
    """A plan says something else; `after` holds the number of its current version."""

    name: ClassVar[str] = "plan.changed"
    action: ClassVar[str] = "PlanChanged"


class _AddOnEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "add_on"


class AddOnCreated(_AddOnEvent):
    """An add-on with its first version."""

    name: ClassVar[str] = "add_on.created"
    action: ClassVar[str] = "AddOnCreated"


class AddOnChanged(_AddOnEvent):
    """An add-on says something else; `after` holds the number of its current version."""

    name: ClassVar[str] = "add_on.changed"
    action: ClassVar[str] = "AddOnChanged"
