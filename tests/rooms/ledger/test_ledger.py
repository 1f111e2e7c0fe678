# SPDX-License-Identifier: Apache-2.0
"""The book: balanced by its shape, only added to, posted once, and every touched byte is found."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import BigInteger, Select, Text, Uuid, column, select, text, values
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from nimbus import ledger
from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from nimbus.base.proofs import Report
from nimbus.base.secrets import database_login
from nimbus.ledger import queries
from nimbus.ledger.models import LedgerTransfer
from nimbus.rules.ledger import ACCOUNTS, Transfer, payment_received
from tests.support.people import make_owner
from tests.support.roles import ROLES, as_role

pytestmark = pytest.mark.anyio

APPLICATION = ("nimbus_app", "nimbus_system", "nimbus_gateway")


@pytest.fixture
async def organization(database: Settings) -> UUID:
    return (await make_owner()).organization_id


@pytest.fixture(autouse=True)
def expectations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts of the kind `test` are expected to have posted what they posted."""
    posted = select(LedgerTransfer).where(LedgerTransfer.source_kind == "test")
    monkeypatch.setattr(queries, "_expectations", {"test": lambda: posted})


def posting(organization_id: UUID, amount_minor: int = 14_097) -> ledger.Posting:
    return ledger.Posting(
        organization_id=organization_id,
        source_kind="test",
        source_id=new_id(),
        occurred_at=clock.now(),
        transfers=(
            *payment_received("manual", amount_minor, "EUR"),
            Transfer("receivable", "revenue", amount_minor, "EUR", "net"),
        ),
    )


async def post(*postings: ledger.Posting) -> None:
    async with db.system_session("test") as session:
        await ledger.post(session, postings)


async def check() -> Report:
    async with db.system_session("test") as session:
        return await ledger.check(session)


async def test_balances_are_the_sum_of_the_transfers(organization: UUID) -> None:
    await post(posting(organization, 14_097), posting(organization, 3))

    async with db.system_session("test") as session:
        balances = {
            account: await ledger.balance(session, account, "EUR", organization)
            for account in sorted(ACCOUNTS)
        }
        elsewhere = await ledger.balance(session, "revenue", "USD")

    assert balances["cash:manual"] == 14_100
    assert balances["receivable"] == 0
    assert balances["revenue"] == -14_100
    assert sum(balances.values()) == 0
    assert elsewhere == 0


async def test_a_fact_posts_once_whoever_tries_at_once(organization: UUID) -> None:
    twin = posting(organization)

    outcomes = await asyncio.gather(*(post(twin) for _ in range(8)), return_exceptions=True)

    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, IntegrityError) for outcome in outcomes) == 7
    assert (await check()).checked == 2


async def test_posters_for_the_same_organizations_in_any_order_all_get_through(
    organization: UUID,
) -> None:
    other = (await make_owner("bob@bolt.example")).organization_id
    both = (organization, other)

    await asyncio.gather(
        *(post(*(posting(one) for one in (both if n % 2 else both[::-1]))) for n in range(10))
    )

    report = await check()
    assert report.ok, report.differences
    assert report.checked == 40


async def test_the_accounts_of_the_table_are_those_of_the_law(organization: UUID) -> None:
    names = sorted(ACCOUNTS)
    transfers = tuple(
        Transfer(a, b, 1, "EUR", f"leg:{n}")
        for n, (a, b) in enumerate(zip(names, names[1:] + names[:1], strict=True))
    )
    fact = ledger.Posting(
        organization_id=organization,
        source_kind="test",
        source_id=new_id(),
        occurred_at=clock.now(),
        transfers=transfers,
    )

    await post(fact)
    object.__setattr__(transfers[0], "debit", "piggy_bank")
    with pytest.raises(IntegrityError):
        await post(fact)


async def test_no_role_may_change_what_was_posted(database: Settings, organization: UUID) -> None:
    await post(posting(organization))

    for role in ROLES:
        # The superuser has every grant: the trigger holds it; the others are held by both.
        held = errors.RestrictViolation if role == "superuser" else errors.InsufficientPrivilege
        with as_role(database, role) as connection:
            for statement in (
                "UPDATE ledger_transfers SET amount_minor = 1",
                "DELETE FROM ledger_transfers",
                "TRUNCATE ledger_transfers",
            ):
                with pytest.raises(held):
                    connection.execute(statement)

    assert (await check()).checked == 2


async def test_only_the_system_posts_and_only_through_the_chain(
    database: Settings, organization: UUID
) -> None:
    append = "SELECT ledger_append('[]')"

    for role in APPLICATION:
        with as_role(database, role) as connection:
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute("INSERT INTO ledger_transfers SELECT * FROM ledger_transfers")
            if role != "nimbus_system":
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(append)


UUID_FLIP = "encode(set_bit(uuid_send({c}), {n}, 1 - get_bit(uuid_send({c}), {n})), 'hex')::uuid"
NUMBER_FLIP = "{c} # (1::bigint << ({n} % 40))"
INSTANT_FLIP = "{c} + make_interval(secs => (1::bigint << ({n} % 40)) * 0.000001)"
BYTES_FLIP = "set_bit({c}, {n}, 1 - get_bit({c}, {n}))"
LETTER = "{n} % octet_length({c}) * 8 + {n} % 5"
TEXT_FLIP = (
    "convert_from(set_bit(convert_to({c}, 'UTF8'), {l}, 1 - get_bit(convert_to({c}, 'UTF8'), {l})),"
    " 'UTF8')"
).replace("{l}", LETTER)
FLIPS = {
    "id": UUID_FLIP,
    "organization_id": UUID_FLIP,
    "source_id": UUID_FLIP,
    "sequence": NUMBER_FLIP,
    "amount_minor": NUMBER_FLIP,
    "occurred_at": INSTANT_FLIP,
    "created_at": INSTANT_FLIP,
    "hash": BYTES_FLIP,
    "debit_account": TEXT_FLIP,
    "credit_account": TEXT_FLIP,
    "currency": TEXT_FLIP,
    "source_kind": TEXT_FLIP,
    "leg": TEXT_FLIP,
}


@asynccontextmanager
async def with_the_disk_in_hand(settings: Settings) -> AsyncIterator[AsyncSession]:
    """A transaction that no trigger, constraint or grant holds; rolled back at the end."""

    async def connect() -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(**database_login(settings, "owner"))

    engine = create_async_engine("postgresql+psycopg://", async_creator=connect)
    async with AsyncSession(engine) as session:
        await session.execute(text("SET LOCAL session_replication_role = replica"))
        constraints = await session.scalars(
            text(
                "SELECT conname FROM pg_constraint WHERE contype <> 'n'"
                " AND conrelid = 'ledger_transfers'::regclass"
            )
        )
        for name in constraints.all():
            await session.execute(text("ALTER TABLE ledger_transfers DROP CONSTRAINT " + name))
        yield session
        await session.rollback()
    await engine.dispose()


async def test_any_flipped_bit_is_found_and_located(database: Settings, organization: UUID) -> None:
    await post(*(posting(organization, n) for n in range(1, 6)))
    chance = random.Random(20260501)
    print("seed 20260501")

    async with with_the_disk_in_hand(database) as session:
        for _ in range(300):
            field = chance.choice(sorted(FLIPS))
            entry = chance.randint(1, 10)
            flip = FLIPS[field].format(c=field, n=chance.randrange(128))
            tamper = text(f"UPDATE ledger_transfers SET {field} = {flip} WHERE sequence = :entry")
            part = await session.begin_nested()
            await session.execute(tamper, {"entry": entry})
            report = await ledger.check(session)
            await part.rollback()

            places = [
                (UUID(found["organization_id"]), found["sequence"])
                for found in report.differences
                if found["problem"] == "chain"
            ]
            assert places, f"{field} of entry {entry}: {flip}"
            if field not in {"sequence", "organization_id"}:
                assert (organization, entry) in places
        report = await ledger.check(session)

    assert report.ok, report.differences


async def test_a_cut_off_end_is_found(database: Settings, organization: UUID) -> None:
    await post(posting(organization), posting(organization))

    async with with_the_disk_in_hand(database) as session:
        await session.execute(text("DELETE FROM ledger_transfers WHERE sequence > 2"))
        problems = (await ledger.check(session)).differences

    assert [(found["problem"], found["head"], found["last"]) for found in problems] == [
        ("head", 4, 2)
    ]


async def test_a_fact_that_posted_nothing_too_much_or_something_else_is_found(
    organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong, extra = posting(organization), posting(organization), posting(organization)
    missing = new_id()
    await post(right, wrong, extra)
    facts = [
        (right.source_id, 14_097),
        (wrong.source_id, 14_098),
        (missing, 14_097),
    ]
    monkeypatch.setitem(queries._expectations, "test", lambda: _expected(organization, facts))

    report = await check()

    assert {(d["source_id"], d["leg"]) for d in report.differences} == {
        (str(one), leg)
        for one in (wrong.source_id, extra.source_id, missing)
        for leg in ("net", "payment")
    }


def _expected(organization_id: UUID, facts: list[tuple[UUID, int]]) -> Select[Any]:
    """The legs that `posting` makes, for each fact with its amount."""
    columns = {
        "source_id": Uuid,
        "leg": Text,
        "organization_id": Uuid,
        "debit_account": Text,
        "credit_account": Text,
        "amount_minor": BigInteger,
        "currency": Text,
    }
    rows = [
        (source_id, leg, organization_id, debit, credit, amount, "EUR")
        for source_id, amount in facts
        for leg, debit, credit in (
            ("payment", "cash:manual", "receivable"),
            ("net", "receivable", "revenue"),
        )
    ]
    table = values(*(column(name, kind) for name, kind in columns.items()), name="expected")
    return select(table.data(rows))


async def test_a_transfer_that_no_room_answers_for_is_found(
    organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post(posting(organization))
    monkeypatch.setattr(queries, "_expectations", {})

    report = await check()

    assert {found["problem"] for found in report.differences} == {"unknown_source"}
