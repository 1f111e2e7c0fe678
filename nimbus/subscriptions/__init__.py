# SPDX-License-Identifier: Apache-2.0
"""The contract between a consumer and a plan, through time. The room's door."""

from nimbus.subscriptions.models import AddOnTerms, SubscriptionFacts, Terms
from nimbus.subscriptions.queries import (
    due_for_billing,
    facts_of,
    live_subscriptions,
    lock_due,
    lock_subscription,
    next_billing,
    park,
    subscription_facts,
    terms_between,
    terms_of_periods,
)
from nimbus.subscriptions.service.lives import Started, fall_behind, restore, start, suspend
from nimbus.subscriptions.service.renewals import renew_period, renew_periods

__all__ = [
    "AddOnTerms",
    "Started",
    "SubscriptionFacts",
    "Terms",
    "due_for_billing",
    "facts_of",
    "fall_behind",
    "live_subscriptions",
    "lock_due",
    "lock_subscription",
    "next_billing",
    "park",
    "renew_period",
    "renew_periods",
    "restore",
    "start",
    "subscription_facts",
    "suspend",
    "terms_between",
    "terms_of_periods",
]
