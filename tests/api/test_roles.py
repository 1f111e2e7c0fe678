# SPDX-License-Identifier: Apache-2.0
"""Who may call which operation: the tables of the specification against the running API.

The tables below are written from spec 01 "Members, roles, permissions" and spec 08 "Permissions",
not from the code. An operation that is missing in them, or not there any more, fails.
"""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from nimbus.base import db
from nimbus.base.actors import SYSTEM
from nimbus.identity import make_user
from nimbus.identity.service.organizations import access_token_for
from tests.architecture.tree import assert_none
from tests.support.estate import Estate, estate, sold
from tests.support.market import sent
from tests.support.operations import Operation, operations
from tests.support.people import PASSWORD, Person, person

__all__ = ["estate", "sold"]

pytestmark = pytest.mark.anyio

# Spec 01: a column a role, in this order.
ROLES = ("owner", "admin", "developer", "billing", "accountant", "manager", "viewer")
MATRIX = {
    "see_dashboard": "x x x x x x x",
    "see_plan": "x x x x x x x",
    "change_organization": "x . . . . . .",
    "manage_members": "x x . . . . .",
    "manage_api_keys": "x x x . . . .",
    "read_logs": "x x x . . . .",
    "see_usage": "x x x x . x .",
    "see_subscription": "x . . x x . .",
    "manage_subscriptions": "x . . . . . .",
    "see_invoices": "x . . x x . .",
    "manage_payment_methods": "x . . x . . .",
    "manage_products": "x x . . . . .",
    "manage_consumers": "x x . . . . .",
}

# Spec 08: an operation of the API document, and what it takes. `public`: nobody in particular;
# `signed_in`: a person; `platform_admin`, `platform_reader` (support too): the operator's people.
NEEDS = {
    "public": """healthz readyz register verify_email login refresh forgot_password reset_password
        read_terms list_plans list_marketplace_products read_marketplace_product estimate""",
    "signed_in": """create_organization accept_terms read_onboarding accept_invitation
        resend_verification logout read_profile change_profile change_password
        list_organizations switch_organization""",
    "see_dashboard": "read_dashboard read_organization",
    "see_plan": "read_current_subscription",
    "change_organization": "change_organization",
    "manage_members": "list_members invite_member change_member remove_member",
    "manage_api_keys": """list_api_keys create_api_key read_api_key change_api_key rotate_api_key
        revoke_api_key""",
    "read_logs": """list_usage_logs read_usage_log start_usage_export list_usage_exports
        read_usage_export fetch_usage_export""",
    "see_usage": """read_usage read_current_usage read_quota read_usage_summary
        read_usage_by_endpoint read_usage_detailed read_usage_costs list_entitlements
        check_entitlement""",
    "see_subscription": "list_subscriptions read_subscription",
    "manage_subscriptions": """choose_plan start_subscription upgrade_subscription
        downgrade_subscription cancel_subscription preview_subscription_change
        reactivate_subscription pause_subscription resume_subscription take_add_on leave_add_on
        redeem_coupon take_back_scheduled_change set_renewal renew_subscription
        upgrade_current_subscription downgrade_current_subscription cancel_current_subscription""",
    "see_invoices": """list_invoices list_upcoming_invoices get_invoice get_invoice_pdf
        list_payments read_spend list_balance_credits list_credit_notes get_credit_note_pdf
        explain_invoice_line get_wallet list_coupons read_billing_details""",
    "manage_payment_methods": """create_invoice change_spend_limit top_up_wallet
        change_billing_details""",
    "manage_products": """read_provider_analytics
        list_products create_product read_product change_product delete_product
        publish_product unpublish_product list_routes create_route change_route delete_route
        list_meters create_meter change_meter report_usage list_product_plans
        create_plan read_plan change_plan list_add_ons create_add_on change_add_on
        list_product_hosts add_product_host remove_product_host""",
    "manage_consumers": """provider_reset_quota provider_increase_quota list_consumers
        set_consumer_plan set_consumer_contract revoke_consumer ban_consumer readmit_consumer
        list_plan_moves move_plan_subscribers preview_plan_move read_consumer""",
    "platform_reader": """admin_list_subscriptions admin_read_usage_analytics admin_read_top_users
        admin_read_user_analytics admin_read_revenue_analytics list_alerts list_blocks
        admin_list_invoices admin_list_coupons
        admin_list_product_hosts get_settings read_clock""",
    "support": "admin_reset_quota",
    # Whoever reads the mailbox can use the links in it, and that is to change something.
    "platform_admin": """admin_change_subscription admin_set_contract admin_cancel_subscription
        admin_increase_quota set_block lift_block list_mailbox admin_finalize_invoice
        admin_mark_invoice_paid admin_write_off_invoice admin_credit_balance
        admin_remove_product_host
        create_credit_note admin_mark_top_up_paid admin_create_coupon admin_add_item
        admin_set_threshold admin_release_billing
        advance_clock change_settings""",
}
NEEDED = {operation: need for need, names in NEEDS.items() for operation in names.split()}

# Spec 01: keys with `billing.read` can call the billing reads, and nothing else of members'.
BILLING_READS = {
    *("read_current_subscription", "list_subscriptions", "read_subscription"),
    *("read_usage", "read_current_usage", "read_quota", "read_usage_summary"),
    *("read_usage_detailed", "read_usage_costs", "list_entitlements", "check_entitlement"),
    *("read_usage_by_endpoint", "list_invoices", "list_upcoming_invoices", "get_invoice"),
    *("get_invoice_pdf", "list_payments", "read_spend", "list_balance_credits"),
    *("list_credit_notes", "get_credit_note_pdf", "explain_invoice_line", "get_wallet"),
    "list_coupons",
}

# Its credential is the cookie, which nobody has here: always 401.
BY_COOKIE = "refresh"
# Ends the session that everything else is asked with: asked last.
LAST = "logout"


def expected(need: str, role: str | None, platform_role: str | None = None) -> int | None:
    """401 or 403 where a signed-in person is refused, None where it is not for who they are."""
    if need in {"public", "signed_in"}:
        return None
    if need in {"platform_reader", "support"}:
        return None if platform_role in {"support", "admin"} else 403
    if need == "platform_admin":
        return None if platform_role == "admin" else 403
    marks = dict(zip(ROLES, MATRIX[need].split(), strict=True))
    return None if role is not None and marks[role] == "x" else 403


async def refusals(
    estate: Estate, headers: dict[str, str], *, signs_out: bool = False
) -> dict[str, int | None]:
    """For each operation the 401 or 403 that it answers, None for anything else.

    Permission comes before what is sent: random ids and an empty body change nothing.
    """
    estate.forget_throttles()
    found: dict[str, int | None] = {}
    for operation in sorted(operations(), key=lambda operation: operation.id == LAST):
        if operation.id == LAST and not signs_out:
            continue
        answer = await _ask(estate, operation, headers)
        assert answer.status_code < 500, f"{operation.id}: {answer.text}"
        found[operation.id] = answer.status_code if answer.status_code in {401, 403} else None
    return found


async def _ask(estate: Estate, operation: Operation, headers: dict[str, str]) -> httpx2.Response:
    path = operation.path.format_map({name: str(uuid4()) for _, name in operation.parameters})
    body: Any = {} if operation.has_body else None
    headers = {"X-Nimbus-CSRF": "1", **headers}
    return await estate.api.request(operation.method, path, json=body, headers=headers)


def differences(
    found: dict[str, int | None], role: str | None, platform_role: str | None = None
) -> Iterator[str]:
    """Operations that answer otherwise than the tables say to a signed-in person."""
    for operation, status in found.items():
        wanted = expected(NEEDED[operation], role, platform_role)
        if operation == BY_COOKIE:
            wanted = 401
        if status != wanted:
            yield f"{operation}: {status or 'open'}, not {wanted or 'open'}"


def test_the_table_names_every_operation_and_no_other() -> None:
    named = [name for names in NEEDS.values() for name in names.split()]

    assert sorted(named) == sorted(operation.id for operation in operations())


def test_every_changing_operation_declares_what_the_table_says() -> None:
    assert_none(
        [
            f"{operation.id}: {operation.declared.get('permission')}, not {NEEDED[operation.id]}"
            for operation in operations()
            if operation.method != "GET"
            and operation.declared.get("permission") != NEEDED[operation.id]
        ]
    )


@pytest.mark.parametrize("role", ROLES)
async def test_a_member_is_refused_exactly_what_the_role_may_not(estate: Estate, role: str) -> None:
    estate.become(estate.neighbour, role)

    found = await refusals(estate, estate.neighbour.headers)

    assert_none(list(differences(found, role)))


async def test_a_visitor_is_asked_to_sign_in_for_all_that_is_not_public(estate: Estate) -> None:
    found = await refusals(estate, {}, signs_out=True)

    assert found == {
        name: None if need == "public" and name != BY_COOKIE else 401
        for name, need in NEEDED.items()
    }


async def test_a_token_for_an_organization_that_is_not_one_s_own_gives_no_role(
    estate: Estate,
) -> None:
    """As a removed member's token would be: the owner of another organization is nobody here."""
    estate.become(estate.neighbour, "owner")
    token = access_token_for(estate.neighbour.actor, estate.customer.organization_id)

    found = await refusals(estate, {"Authorization": f"Bearer {token}"})

    assert_none(list(differences(found, None)))


@pytest.mark.parametrize("platform_role", ["support", "admin"])
async def test_the_operator_s_people_are_refused_exactly_what_their_platform_role_may_not(
    estate: Estate, platform_role: str
) -> None:
    one = await signed_in(estate, f"our-{platform_role}@nimbus.example", platform_role)

    found = await refusals(estate, one.headers, signs_out=True)
    after = await estate.api.get("/api/user/account/profile", headers=one.headers)

    assert_none(list(differences(found, None, platform_role)))
    assert after.status_code == 401


async def signed_in(estate: Estate, email: str, platform_role: str) -> Person:
    """One of the operator's people, without an organization."""
    async with db.system_session("platform pages") as session:
        await make_user(
            session, SYSTEM, email=email, password=PASSWORD, platform_role=platform_role
        )
    credentials = {"email": email, "password": PASSWORD}
    answer = await estate.api.post("/api/user/auth/login", json=credentials)
    assert answer.status_code == 200, answer.text
    estate.api.cookies.clear()
    return person(email, answer.json()["access_token"], platform_role)


@pytest.mark.parametrize("scope", ["billing.read", "usage.write"])
async def test_a_key_reads_what_is_billed_by_its_scope_and_does_nothing_else(
    estate: Estate, scope: str
) -> None:
    estate.become(estate.neighbour, "owner")
    body = {"name": "machine", "environment": "Live", "scopes": [scope]}
    key = await sent(estate.api, estate.neighbour, "POST", "/api/developer/api-keys", body)

    found = await refusals(estate, {"Authorization": f"Bearer {key['secret']}"}, signs_out=True)

    refused = {name for name, status in found.items() if status is not None}
    reads = BILLING_READS if scope == "billing.read" else {"report_usage"}
    public = set(NEEDS["public"].split()) - {BY_COOKIE}
    assert refused == NEEDED.keys() - reads - public
