# SPDX-License-Identifier: Apache-2.0
"""The drain and the database are ended hard, journals come damaged and twice: each call once."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import SQLAlchemyError

from nimbus import usage
from nimbus.base.config import Settings, to_environment
from nimbus.rules.metering import (
    CALLS,
    HEADER_SIZE,
    LOCK_NAME,
    SLOT_SIZE,
    SegmentHeader,
    SlotState,
    decode_slot,
    encode_header,
    segment_name,
)
from tests.conftest import Server
from tests.operations.processes import ROOT
from tests.operations.test_drain import (
    draining,
    ended,
    installation,
    lease,
    until,
)
from tests.support.killed import POINTS
from tests.support.metered import (
    Contract,
    Gateway,
    allow,
    contract,
    metered_market,
    proof,
    quantities,
    rows,
    settings,
    standing,
)
from tests.support.slots import damaged, some_slots
from tests.support.soak import Soak

__all__ = ["contract", "metered_market", "settings"]

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 180.0
SLOTS = 64


def drain_killed_at(own: Settings, point: str) -> int:
    """Run a drain that ends at this point; how it ended."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("NIMBUS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.killed", point],
        cwd=ROOT,
        env=environ | to_environment(own),
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(DEADLINE_SECONDS)
    finally:
        process.kill()
        process.wait()


async def test_a_drain_killed_at_a_named_point_stores_each_call_once(
    contract: Contract, settings: Settings, tmp_path: Path, soak: Soak
) -> None:
    own = installation(settings, tmp_path)
    choice, total = soak.random, 0
    quota = await allow(contract, 100_000, "deny")
    points = choice.sample(sorted(POINTS), soak.count(2, len(POINTS)))

    for point in points:
        gateway = Gateway(own.journal_dir, contract, slots=SLOTS)
        lease(settings, gateway, quota, 200)
        count = choice.randrange(SLOTS + 1, 3 * SLOTS)
        gateway.calls(count, leased=1)
        torn = gateway.call(leased=1)  # what can't be read is in the way of every point
        total += count
        gateway.begin()
        gateway.die()
        _tear(gateway, torn)
        assert drain_killed_at(own, point) == -signal.SIGKILL, point
        async with draining(own.journal_dir):
            await until(lambda gateway=gateway: ended(gateway))  # type: ignore[misc]

        state = await standing(contract)
        assert (state["used"], state["leased"]) == (total, 0), point
        assert await quantities(contract) == {CALLS: total}, point
    assert {each["problem"] for each in await proof(own.journal_dir)} == {"unreadable_segment"}
    shutil.rmtree(own.journal_dir / usage.QUARANTINE)
    assert await proof(own.journal_dir) == []


def _tear(gateway: Gateway, sequence: int) -> None:
    """Flip a bit of a call's slot."""
    number, place = divmod(sequence - 1, SLOTS)
    path = gateway.journal.folder / segment_name(number + 1)
    with path.open("r+b") as file:
        file.seek(HEADER_SIZE + place * SLOT_SIZE + 40)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


async def test_journals_that_come_damaged_and_twice_are_stored_as_far_as_they_can_be_read(
    contract: Contract, tmp_path: Path, soak: Soak
) -> None:
    choice = soak.random
    journals, aside = tmp_path / "journal", tmp_path / "aside"
    journals.mkdir()
    ids = {
        name: getattr(contract, name)
        for name in ("organization_id", "provider_organization_id", "key_id", "subscription_id",
                     "product_id", "route_id")
    }  # fmt: skip
    expected = (await rows("SELECT count(*) FROM usage_events"))[0]["count"]
    for _ in range(soak.count(6, 400)):
        producer = uuid4()
        folder = aside / str(producer)
        folder.mkdir(parents=True)
        readable = _write(choice, folder, producer, ids)
        expected += readable
        shutil.copytree(folder, journals / folder.name)
        async with draining(journals):
            await until(lambda: _is_gone(journals, folder.name))  # noqa: B023 - it is awaited here
            pieces = sorted(path.name for path in folder.iterdir())
            choice.shuffle(pieces)
            again = journals / f".{folder.name}"
            again.mkdir()
            for piece in pieces[: choice.randrange(1, len(pieces) + 1)]:
                shutil.copy(folder / piece, again / piece)
            again.rename(journals / folder.name)
            await until(lambda: _is_gone(journals, folder.name))  # noqa: B023
    assert (await rows("SELECT count(*) FROM usage_events"))[0]["count"] == expected
    problems = {each["problem"] for each in await proof(journals)}
    assert problems <= {"unreadable_segment"}


async def _is_gone(journals: Path, name: str) -> bool:
    return not (journals / name).exists()


def _write(
    choice: random.Random, folder: Path, producer: Any, ids: dict[str, Any], slots: int = 40
) -> int:
    """A dead gateway's journal of three segments, some of them damaged; how many served calls the
    law can read of them.
    """
    whole = some_slots(choice, [ids], producer, 3 * slots)
    (folder / LOCK_NAME).touch()
    readable = 0
    for number in range(3):
        data = whole[number * slots * SLOT_SIZE : (number + 1) * slots * SLOT_SIZE]
        if choice.random() < 0.6:
            data = damaged(choice, data)
        header = SegmentHeader(producer, number + 1, number * slots + 1, slots)
        (folder / segment_name(number + 1)).write_bytes(encode_header(header) + data)
        for place in range(len(data) // SLOT_SIZE):
            piece = data[place * SLOT_SIZE : (place + 1) * SLOT_SIZE]
            slot = decode_slot(piece, header.first_sequence + place, producer)
            if slot.state == SlotState.COMPLETED and slot.record and not slot.record.refusal:
                readable += 1
    return readable


async def test_a_database_stopped_hard_while_calls_are_stored_has_each_once(
    server: Server, contract: Contract, tmp_path: Path, soak: Soak
) -> None:
    choice = soak.random
    gateway = Gateway(tmp_path, contract, slots=256)
    async with draining(tmp_path):
        for _ in range(soak.count(1, 20)):
            gateway.calls(choice.randrange(200, 900))
            for _ in range(choice.randrange(1, 60)):
                await asyncio.sleep(0)  # let the drain go some random way
            server.stop_hard_and_start()
        total = gateway.journal.last_sequence
        gateway.die()
        await until(lambda: _has_ended(gateway))

    assert await quantities(contract) == {CALLS: total}
    assert (await standing(contract))["used"] == total
    assert await rows("SELECT served FROM usage_producers") == [{"served": total}]
    assert await proof(tmp_path) == []


async def _has_ended(gateway: Gateway) -> bool:
    try:
        return await ended(gateway)
    except SQLAlchemyError:  # our own connection was ended too
        return False
