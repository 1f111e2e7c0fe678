# SPDX-License-Identifier: Apache-2.0
"""The last good state on disk: what was whole is read, whatever became of the rest."""

import errno
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nimbus.gateway import last_state
from nimbus.gateway.last_state import LastState, load
from nimbus.gateway.records import entity_of, unpack
from nimbus.gateway.state import State
from tests.gateway.house import PRODUCT, key_record, product_record, secret
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

KEYS = 40
Known = dict[tuple[str, str], tuple[int, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway" / "grants.state"


def a_state(number: int = 5) -> State:
    state = State(lambda sealed: sealed)
    keys = [key_record(secret(n)) for n in range(KEYS)]
    product = (number, "product", str(PRODUCT), product_record(80))
    state.replace([product, *((number, "key", key["id"], key) for key in keys)])
    return state


def read(path: Path) -> State:
    state = State(lambda sealed: sealed)
    load(path, state)
    return state


def known(state: State) -> Known:
    return {
        entity_of(packed): (number, unpack(packed))
        for number, packed in state.records.rows(0, len(state.records))
    }


async def change(state: State, kept: LastState, number: int) -> None:
    """One key is revoked or gone, and the file hears of it."""
    key = key_record(secret(number % KEYS), status="Revoked")
    state.follow([(number, "key", key["id"], key if number % 3 else None)])
    kept.changed("key", key["id"])
    await kept.save(state)


async def test_each_change_is_in_the_file_and_the_file_is_ours_alone(path: Path) -> None:
    state, kept = a_state(), LastState(path)
    await kept.save(state)
    assert (read(path).number, known(read(path))) == (5, known(state))
    whole = path.stat().st_size
    for number in range(6, 16):
        await change(state, kept, number)
        again = read(path)
        assert (again.number, again.complete, known(again)) == (number, True, known(state))
        assert again.product(b"demo") is not None
    assert 0 < path.stat().st_size - whole < whole, "only changes were written"
    assert path.stat().st_mode & 0o777 == 0o600
    kept.let_go()


async def test_a_file_that_has_doubled_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_state, "ROOM", 0)
    state, kept = a_state(), LastState(path)
    await kept.save(state)
    whole, sizes = path.stat().st_size, []
    for number in range(6, 300):
        await change(state, kept, number)
        sizes.append(path.stat().st_size)
    assert max(sizes) < 2.2 * whole + 200
    assert any(later < earlier for earlier, later in pairwise(sizes))
    assert known(read(path)) == known(state)
    kept.let_go()


async def test_a_torn_or_broken_file_gives_what_was_whole_before_it(
    path: Path, soak: Soak, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at any byte, or with any byte another: the state as of some change, or none."""
    monkeypatch.setattr(last_state, "BATCH_RECORDS", 7)
    chance, state, kept = soak.random, a_state(), LastState(path)
    await kept.save(state)
    as_of: dict[int, Known] = {5: known(state)}
    ends = {path.stat().st_size: 5}
    for number in range(6, 12):
        await change(state, kept, number)
        as_of[number] = known(state)
        ends[path.stat().st_size] = number
    kept.let_go()
    content = path.read_bytes()
    for _ in range(soak.count(150, 20_000)):
        place = chance.randrange(len(content))
        path.write_bytes(content[:place])
        cut = read(path)
        whole = max((number for end, number in ends.items() if end <= place), default=0)
        assert (cut.complete, cut.number) == (whole > 0, whole)
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        broken = read(path)
        assert broken.number == whole
        for found in (cut, broken):
            assert known(found) == as_of.get(found.number, {})


@pytest.mark.parametrize("content", [b"", b"{}", b"NIMBSTA0", b"NIMBSTA1", b"NIMBSTA1" * 9])
def test_another_file_is_as_none(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert not read(path).complete


async def test_of_several_gateways_one_writes_and_another_takes_over_with_what_it_knows(
    path: Path,
) -> None:
    state, other = a_state(), a_state()
    kept, waiting = LastState(path), LastState(path)
    await kept.save(state)
    await change(other, waiting, 6)
    assert read(path).number == 5, "who has not the lock writes nothing"
    await change(state, kept, 6)
    await change(state, kept, 7)
    kept.let_go()
    assert read(path).number == 7
    await change(other, waiting, 7)
    await change(other, waiting, 8)
    assert (read(path).number, known(read(path))) == (8, known(other))
    await change(state, kept, 8)
    assert known(read(path)) == known(other), "who let go writes no more"
    waiting.let_go()


async def test_a_full_disk_leaves_the_last_whole_file_and_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, kept = a_state(), LastState(path)
    await kept.save(state)
    content = path.read_bytes()
    write, room = os.write, [20]

    def full(file: int, data: Any) -> int:
        taken = min(room[0], len(data))
        room[0] -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:taken])

    monkeypatch.setattr(os, "write", full)
    await change(state, kept, 6)
    assert path.read_bytes()[: len(content)] == content
    assert read(path).number == 5, "half a change is none"
    kept._retry_at = 0
    await change(state, kept, 7)
    assert read(path).number == 5, "nor is half a file"
    monkeypatch.undo()
    kept._retry_at = 0
    await kept.save(state)
    assert (read(path).number, known(read(path))) == (7, known(state))
    kept.let_go()


async def test_another_state_in_its_place_is_written_as_a_whole(path: Path) -> None:
    """The house may begin anew, with lower numbers."""
    state, kept = a_state(), LastState(path)
    await kept.save(state)
    state.become(a_state(number=3))
    kept.all_changed()
    await kept.save(state)
    assert (read(path).number, known(read(path))) == (3, known(state))
    kept.let_go()


async def test_nothing_is_kept_of_a_state_that_is_not_whole(path: Path) -> None:
    kept = LastState(path)
    await kept.save(State(lambda sealed: sealed))
    assert not path.exists()
