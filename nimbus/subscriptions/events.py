# SPDX-License-Identifier: Apache-2.0
"""What subscriptions announce. `after` holds product, plan, status and the dates that matter."""

from typing import ClassVar

from nimbus.base.events import Event


class _SubscriptionEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "subscription"


class SubscriptionCreated(_SubscriptionEvent):
    """A subscription began, on trial or paid."""

    name: ClassVar[str] = "subscription.created"
    action: ClassVar[str] = "SubscriptionCreated"


class SubscriptionChanged(_SubscriptionEvent):
    """Its plan, payment or what is scheduled changed, or a trial became paid."""

    name: ClassVar[str] = "subscription.changed"
    action: ClassVar[str] = "SubscriptionChanged"


class SubscriptionPastDue(_SubscriptionEvent):
    """A payment is overdue; it is served for a time of grace."""

    name: ClassVar[str] = "subscription.past_due"
    action: ClassVar[str] = "SubscriptionPastDue"


class SubscriptionPaused(_SubscriptionEvent):
    """It gives no access and costs no fee until it is resumed."""

    name: ClassVar[str] = "subscription.paused"
    action: ClassVar[str] = "SubscriptionPaused"


class SubscriptionResumed(_SubscriptionEvent):
    """It gives access and costs its fee again."""

    name: ClassVar[str] = "subscription.resumed"
    action: ClassVar[str] = "SubscriptionResumed"


class SubscriptionReactivated(_SubscriptionEvent):
    """Its cancellation was taken back."""

    name: ClassVar[str] = "subscription.reactivated"
    action: ClassVar[str] = "SubscriptionReactivated"


class SubscriptionChangeAnnounced(_SubscriptionEvent):
    """Its provider will change its plan or price; `after["scheduled_change"]` says when."""

    name: ClassVar[str] = "subscription.change_announced"
    action: ClassVar[str] = "SubscriptionChangeAnnounced"


class ConsumerBanned(Event):
    """A provider sells to an organization no more."""

    name: ClassVar[str] = "consumer.banned"
    action: ClassVar[str] = "ConsumerBanned"
    entity_type: ClassVar[str] = "consumer_ban"


class ConsumerReadmitted(Event):
    """A provider sells to an organization again."""

    name: ClassVar[str] = "consumer.readmitted"
    action: ClassVar[str] = "ConsumerReadmitted"
    entity_type: ClassVar[str] = "consumer_ban"


class PlanMoveStarted(Event):
    """A provider moves the subscribers of a plan."""

    name: ClassVar[str] = "plan.move_started"
    action: ClassVar[str] = "PlanMoveStarted"
    entity_type: ClassVar[str] = "plan_move"


class SubscriptionRenewed(_SubscriptionEvent):
    """Its next period began."""

    name: ClassVar[str] = "subscription.renewed"
    action: ClassVar[str] = "SubscriptionRenewed"


class SubscriptionCancelled(_SubscriptionEvent):
    """It ends; `after["ends_at"]` says when."""

    name: ClassVar[str] = "subscription.cancelled"
    action: ClassVar[str] = "SubscriptionCancelled"


class SubscriptionTrialEnding(_SubscriptionEvent):
    """Its trial comes to its end soon; `after["period_ends_at"]` says when, `after["payment"]`
    whether it goes on then.
    """

    name: ClassVar[str] = "subscription.trial_ending"
    action: ClassVar[str] = "SubscriptionTrialEnding"


class SubscriptionExpired(_SubscriptionEvent):
    """It ended: its end date, or that of a trial that nobody pays for, has passed."""

    name: ClassVar[str] = "subscription.expired"
    action: ClassVar[str] = "SubscriptionExpired"


class SubscriptionSuspended(_SubscriptionEvent):
    """It gives no access until what is owed is paid."""

    name: ClassVar[str] = "subscription.suspended"
    action: ClassVar[str] = "SubscriptionSuspended"


class SubscriptionRestored(_SubscriptionEvent):
    """What was owed is paid: it gives access again."""

    name: ClassVar[str] = "subscription.restored"
    action: ClassVar[str] = "SubscriptionRestored"
