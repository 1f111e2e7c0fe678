# SPDX-License-Identifier: Apache-2.0
"""The contract between a consumer and a plan, through time. The room's door."""

from nimbus.subscriptions.models import AddOnTerms, Subscription, SubscriptionFacts, Terms
from nimbus.subscriptions.queries import (
    due_for_billing,
    facts_of,
    latest,
    live_subscriptions,
    lock_due,
    lock_subscription,
    next_billing,
    park,
    subscription_facts,
    terms_between,
    terms_of_periods,
)
from nimbus.subscriptions.schemas import Reason, SubscriptionShape
from nimbus.subscriptions.service.changes import (
    change_plan,
    leave_add_on,
    take_add_on,
    take_back,
)
from nimbus.subscriptions.service.lives import (
    Started,
    cancel,
    fall_behind,
    pause,
    reactivate,
    renew,
    restore,
    resume,
    set_renewal,
    start,
    suspend,
)
from nimbus.subscriptions.service.renewals import renew_period, renew_periods
from nimbus.subscriptions.service.shapes import shapes

__all__ = [
    "AddOnTerms",
    "Reason",
    "Started",
    "Subscription",
    "SubscriptionFacts",
    "SubscriptionShape",
    "Terms",
    "cancel",
    "change_plan",
    "due_for_billing",
    "facts_of",
    "fall_behind",
    "latest",
    "leave_add_on",
    "live_subscriptions",
    "lock_due",
    "lock_subscription",
    "next_billing",
    "park",
    "pause",
    "reactivate",
    "renew",
    "renew_period",
    "renew_periods",
    "restore",
    "resume",
    "set_renewal",
    "shapes",
    "start",
    "subscription_facts",
    "suspend",
    "take_add_on",
    "take_back",
    "terms_between",
    "terms_of_periods",
]
