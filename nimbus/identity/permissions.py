# SPDX-License-Identifier: Apache-2.0
"""The permission matrix of spec 01, in one table; endpoints name a permission, never a role."""

from enum import StrEnum


class Permission(StrEnum):
    """What a member of an organization may do."""

    SEE_DASHBOARD = "see_dashboard"
    SEE_PLAN = "see_plan"
    CHANGE_ORGANIZATION = "change_organization"
    MANAGE_MEMBERS = "manage_members"
    MANAGE_API_KEYS = "manage_api_keys"
    MANAGE_WEBHOOKS = "manage_webhooks"
    READ_LOGS = "read_logs"
    SEE_USAGE = "see_usage"
    SEE_SUBSCRIPTION = "see_subscription"
    MANAGE_SUBSCRIPTIONS = "manage_subscriptions"
    SEE_INVOICES = "see_invoices"
    MANAGE_PAYMENT_METHODS = "manage_payment_methods"
    MANAGE_PRODUCTS = "manage_products"
    MANAGE_CONSUMERS = "manage_consumers"
    SEE_REVENUE = "see_revenue"
    MANAGE_PAYOUTS = "manage_payouts"
    READ_AUDIT = "read_audit"


ROLES = ("owner", "admin", "developer", "billing", "accountant", "manager", "viewer")

_EVERYONE = frozenset(ROLES)
_BUILDERS = frozenset({"owner", "admin", "developer"})
_LEADERS = frozenset({"owner", "admin"})
_BOOKS = frozenset({"owner", "billing", "accountant"})
_PAYERS = frozenset({"owner", "billing"})
_OWNER = frozenset({"owner"})

MATRIX: dict[Permission, frozenset[str]] = {
    Permission.SEE_DASHBOARD: _EVERYONE,
    Permission.SEE_PLAN: _EVERYONE,
    Permission.CHANGE_ORGANIZATION: _OWNER,
    Permission.MANAGE_MEMBERS: _LEADERS,
    Permission.MANAGE_API_KEYS: _BUILDERS,
    Permission.MANAGE_WEBHOOKS: _BUILDERS,
    Permission.READ_LOGS: _BUILDERS,
    Permission.SEE_USAGE: frozenset({"owner", "admin", "developer", "billing", "manager"}),
    Permission.SEE_SUBSCRIPTION: _BOOKS,
    Permission.MANAGE_SUBSCRIPTIONS: _OWNER,
    Permission.SEE_INVOICES: _BOOKS,
    Permission.MANAGE_PAYMENT_METHODS: _PAYERS,
    Permission.MANAGE_PRODUCTS: _LEADERS,
    Permission.MANAGE_CONSUMERS: _LEADERS,
    Permission.SEE_REVENUE: _BOOKS,
    Permission.MANAGE_PAYOUTS: _PAYERS,
    Permission.READ_AUDIT: _LEADERS,
}


def has(role: str | None, permission: Permission) -> bool:
    """Whether a member with `role` may do it; no role may do nothing."""
    return role in MATRIX[permission]
