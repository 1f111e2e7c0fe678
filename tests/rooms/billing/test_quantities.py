# SPDX-License-Identifier: Apache-2.0
"""The proof of usage reaches to the bill: what was billed is what was measured."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from nimbus import usage
from nimbus.base import clock, db
from nimbus.base.proofs import Report
from nimbus.usage.service.ingest import report
from tests.support.bills import Sale, bill, use_as_in_the_reference
from tests.support.metered import END, START, event, reported, store
from tests.support.reported import usage as told_usage

UNGUARDED = "SET session_replication_role = replica; "


async def proved(journal_dir: Path) -> Report:
    async with db.system_session("proofs", snapshot=True) as session:
        return await usage.reconcile(session, journal_dir)


async def test_a_billed_quantity_that_is_not_the_measured_one_is_named(
    sale: Sale, owner: Callable[[str], None], tmp_path: Path
) -> None:
    await use_as_in_the_reference(sale.contract)
    assert await bill(sale.subscription_id) is not None
    # Nothing came late: all of it was stored before.
    owner("UPDATE usage_events SET created_at = '2026-05-20'")
    assert (await proved(tmp_path)).differences == ()

    owner(f"{UNGUARDED} UPDATE invoice_lines SET quantity = 24 WHERE meter_key = 'assets'")
    [one] = (await proved(tmp_path)).differences

    assert one == {
        "problem": "billed",
        "organization_id": sale.contract.organization_id,
        "subscription_id": sale.subscription_id,
        "meter_key": "assets",
        "at": START,
        "expected": "15",
        "found": "24",
    }


async def test_usage_that_came_after_its_bill_is_under_way_until_the_next_one(
    sale: Sale, owner: Callable[[str], None], tmp_path: Path
) -> None:
    await use_as_in_the_reference(sale.contract)
    await bill(sale.subscription_id)
    owner("UPDATE usage_events SET created_at = created_at - interval '2 minutes'")
    producer = uuid4()
    await store(producer, [event(sale.contract, producer, 1, END - timedelta(hours=1))])
    assert (await proved(tmp_path)).differences == ()

    # A call that was there before, and is on no bill.
    owner("UPDATE usage_events SET created_at = created_at - interval '2 minutes'")
    assert {one["problem"] for one in (await proved(tmp_path)).differences} == {"billed"}


async def test_late_usage_hides_no_more_than_what_came_late(
    sale: Sale, owner: Callable[[str], None], tmp_path: Path
) -> None:
    """Business time is months from the machine's, as on a test clock: it is the machine's that says
    what a bill could have read.
    """
    await use_as_in_the_reference(sale.contract)
    await bill(sale.subscription_id)
    owner("UPDATE usage_events SET created_at = created_at - interval '2 minutes'")
    producer = uuid4()
    late = {**reported(reports="2", assets="9"), "units": 0, "billable": True}
    await store(producer, [event(sale.contract, producer, 1, END - timedelta(hours=1), **late)])
    assert (await proved(tmp_path)).differences == ()

    def say(meter: str, quantity: int) -> None:
        owner(
            f"{UNGUARDED} UPDATE invoice_lines SET quantity = {quantity}"
            f" WHERE meter_key = '{meter}'"
        )

    # Ten reports by now, of which two came late; and still no more than 25 assets at once.
    for meter, wrongly, expected in (
        ("reports", 7, "10"),
        ("reports", 11, "10"),
        ("reports", 8, None),
        ("assets", 14, "15"),
        ("assets", 15, None),
        ("api_calls", 12_499, "12500"),
    ):
        say(meter, wrongly)
        named = [
            (one["meter_key"], one["expected"]) for one in (await proved(tmp_path)).differences
        ]
        assert named == ([] if expected is None else [(meter, expected)]), (meter, wrongly)


async def test_what_is_corrected_after_its_bill_comes_back_with_the_next(
    sale: Sale, tmp_path: Path
) -> None:
    contract = sale.contract
    told = told_usage(contract, "a", "reports", value="8")
    clock.set_instant(START + timedelta(days=1))
    async with db.system_session("usage from outside") as session:
        await report(session, sale.admin.actor, [told], clock.now())
    may = await bill(sale.subscription_id)
    assert may is not None
    clock.set_instant(END + timedelta(days=1))
    right = told_usage(contract, "b", "reports", value="2", at=None, corrects="a", reason="ours")
    async with db.system_session("usage from outside") as session:
        await report(session, sale.admin.actor, [right], clock.now())
    assert (await proved(tmp_path)).differences == ()

    june = await bill(sale.subscription_id, datetime(2026, 7, 1, tzinfo=UTC))

    assert june is not None
    assert (may.subtotal_minor, june.subtotal_minor) == (4900 + 8 * 250, 4900 - 6 * 250)
    assert (await proved(tmp_path)).differences == ()
