# SPDX-License-Identifier: Apache-2.0
"""The journal's writer: slots without holes, full disks, and a lock for the living."""

import asyncio
import fcntl
import os
import threading
from pathlib import Path
from uuid import UUID

import pytest

from nimbus.gateway.meter import Journal, sync_files
from nimbus.rules.metering import LOCK_NAME, SlotState, UsageEvent, encode_record, read_segment
from tests.rules.test_metering import event

PRODUCER = UUID(int=77)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", PRODUCER, slots_per_segment=8)


def slots(journal: Journal) -> list[tuple[int, SlotState, UsageEvent | None]]:
    found = []
    for path in sorted(journal.folder.glob("*.journal")):
        header, read = read_segment(path.read_bytes())
        assert header.producer == PRODUCER
        found += [(slot.sequence, slot.state, slot.record) for slot in read]
    return found


def test_sequences_run_on_over_segments_without_holes(journal: Journal) -> None:
    for number in range(1, 31):
        assert journal.reserve() == number
        journal.complete(number, encode_record(event(number)))
        journal.prepare()
    found = slots(journal)
    assert [sequence for sequence, _, _ in found[:30]] == list(range(1, 31))
    assert [record.bytes_in for _, _, record in found[:30] if record] == [120] * 30
    journal.close()
    assert len(list(journal.folder.glob("*.journal"))) == 5, "the next one is ready in advance"


def test_calls_in_flight_are_completed_in_the_segment_they_were_reserved_in(
    journal: Journal,
) -> None:
    reserved = [journal.reserve() for _ in range(20)]
    for sequence in reversed(reserved):
        journal.prepare()
        assert sequence is not None
        journal.complete(sequence, encode_record(event(sequence)))
    states = [state for _, state, _ in slots(journal)]
    assert states[:20] == [SlotState.COMPLETED] * 20
    journal.prepare()
    assert len(journal._segments) == 3, "what is not on the disk yet is kept"
    sync_files(journal.unsynced())
    journal.prepare()
    assert len(journal._segments) == 1
    journal.close()


def test_a_reserved_slot_is_seen_by_who_reads_beside_us(journal: Journal) -> None:
    journal.reserve()
    assert [state for _, state, _ in slots(journal)[:2]] == [SlotState.RESERVED, SlotState.EMPTY]
    journal.close()


def test_a_full_disk_gives_no_slot_and_leaves_no_half_segment(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert journal.reserve() is None
    journal.record_refused(encode_record(event(1)))
    assert [path.name for path in journal.folder.iterdir()] == [LOCK_NAME]
    monkeypatch.undo()
    journal._retry_at = 0
    assert journal.reserve() == 1
    journal.close()


def test_space_for_a_segment_is_taken_when_it_is_made(journal: Journal) -> None:
    journal.reserve()
    [path] = journal.folder.glob("*.journal")
    status = path.stat()
    assert status.st_blocks * 512 >= status.st_size
    journal.close()


def test_a_flood_of_refusals_does_not_fill_the_disk(journal: Journal) -> None:
    for number in range(5_000):
        journal.record_refused(encode_record(event(number)))
    assert journal.last_sequence < 5_000
    journal.close()


def test_the_folder_is_locked_while_its_gateway_lives(journal: Journal) -> None:
    lock = os.open(journal.folder / LOCK_NAME, os.O_WRONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    journal.close()
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_only_what_changed_is_synced(journal: Journal) -> None:
    journal.reserve()
    files = journal.unsynced()
    assert len(files) == 2, "the segment, and the folder that names it"
    sync_files(files)
    assert journal.unsynced() == []
    journal.complete(1, encode_record(event(1)))
    sync_files(journal.unsynced())
    journal.close()


@pytest.mark.anyio
async def test_who_waits_for_the_disk_shares_syncs_and_hears_after_its_own(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, synced, sync = threading.Event(), [], os.fdatasync

    def slow(file: int) -> None:
        go.wait(30)
        sync(file)
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)

    monkeypatch.setattr(os, "fdatasync", slow)
    first = write(journal)
    later = [write(journal) for _ in range(50)]
    assert not first.done()
    assert all(waiting is later[0] for waiting in later), "one sync for all who came meanwhile"
    go.set()
    assert await asyncio.wait_for(asyncio.gather(first, later[0]), 30) == [True, True]
    segments = sorted(path.name for path in journal.folder.glob("*.journal"))
    assert synced[0] == segments[0]
    assert set(segments) <= set(synced[2:]), "what was written meanwhile is synced after it"
    assert await journal.sync_soon() is True
    count = len(synced)
    assert await journal.sync_soon() is True
    assert len(synced) == count, "nothing is synced for nothing"
    journal.close()


@pytest.mark.anyio
async def test_a_disk_that_does_not_sync_is_told_to_who_waits_and_tried_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    assert await write(journal) is False
    assert not journal.syncs
    before = open_files()
    assert await journal.sync_soon() is False, "what was not synced is not taken for synced"
    monkeypatch.undo()
    assert await journal.sync_soon() is True
    assert journal.syncs
    assert [state for _, state, _ in slots(journal)[:1]] == [SlotState.COMPLETED]
    assert open_files() == before
    journal.close()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def write(journal: Journal) -> "asyncio.Future[bool]":
    """One call written down, and the question whether the disk has it."""
    sequence = journal.reserve()
    assert sequence is not None
    journal.complete(sequence, encode_record(event(sequence)))
    return journal.sync_soon()
