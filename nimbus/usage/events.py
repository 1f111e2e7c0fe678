# SPDX-License-Identifier: Apache-2.0
"""What usage announces."""

from typing import ClassVar

from nimbus.base.events import Event


class UsageReported(Event):
    """A provider reported events from outside; `after` says how many were counted."""

    __slots__ = ()
    name: ClassVar[str] = "usage.reported"
    action: ClassVar[str] = "UsageReported"
    entity_type: ClassVar[str] = "organization"


class UsageCorrected(Event):
    """A provider said what an event should have counted: it stays, another makes up for it."""

    __slots__ = ()
    name: ClassVar[str] = "usage.corrected"
    action: ClassVar[str] = "UsageCorrected"
    entity_type: ClassVar[str] = "subscription"


class UsageExportStarted(Event):
    """A member asked for a file of logged calls; `after` says which."""

    __slots__ = ()
    name: ClassVar[str] = "usage.export_started"
    action: ClassVar[str] = "UsageExportStarted"
    entity_type: ClassVar[str] = "usage_export"


class _QuotaEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "quota_standing"


class UsageThresholdReached(_QuotaEvent):
    """50, 80 or 100 % of a quota, of a spend limit or of what was left of a prepaid balance when
    money last came in is used; of each counter once. `after` says of which `kind` it is, the
    `threshold`, and the highest one that was `reached` with it.
    """

    name: ClassVar[str] = "usage.threshold_reached"
    action: ClassVar[str] = "UsageThresholdReached"


class QuotaExceeded(_QuotaEvent):
    """A quota is used up; `after` as above, and its `behavior` says what happens now."""

    name: ClassVar[str] = "quota.exceeded"
    action: ClassVar[str] = "QuotaExceeded"


class _AdjustmentEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "subscription"


class QuotaReset(_AdjustmentEvent):
    """Someone had quotas of a subscription counted anew, for a reason."""

    name: ClassVar[str] = "quota.reset"
    action: ClassVar[str] = "QuotaReset"


class QuotaIncreased(_AdjustmentEvent):
    """Someone gave a subscription units on top of a quota, until an instant, for a reason."""

    name: ClassVar[str] = "quota.increased"
    action: ClassVar[str] = "QuotaIncreased"
