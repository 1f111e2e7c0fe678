# SPDX-License-Identifier: Apache-2.0
"""The contract between a consumer and a plan, through time. The room's door."""

from nimbus.subscriptions.models import AddOnTerms, SubscriptionFacts, Terms
from nimbus.subscriptions.queries import (
    due_for_billing,
    facts_of,
    live_subscriptions,
    lock_subscription,
    next_billing,
    subscription_facts,
    terms_between,
    terms_of_periods,
)
from nimbus.subscriptions.service import Started, renew_period, restore, start, suspend

__all__ = [
    "AddOnTerms",
    "Started",
    "SubscriptionFacts",
    "Terms",
    "due_for_billing",
    "facts_of",
    "live_subscriptions",
    "lock_subscription",
    "next_billing",
    "renew_period",
    "restore",
    "start",
    "subscription_facts",
    "suspend",
    "terms_between",
    "terms_of_periods",
]
