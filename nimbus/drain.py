# SPDX-License-Identifier: Apache-2.0
"""The drain: follows the journals of this machine's gateways into the database, one a machine.

A journal is stored in the order of its sequences, also while its gateway lives. A slot that a call
holds for longer than a moment is left waiting and stored when it completes, so that a long stream
holds up nothing. The journal of a gateway that is gone (nobody holds its lock) is stored to its
end: slots that were only reserved were never served. Then its leases come back, and the folder
goes. How far a journal is stored is written in the transaction that stores it, so a kill at any
point neither loses nor repeats a call. While the database is away nothing moves and nothing goes.

A slot that can't be read is told in the log, counted, and its segment kept in the quarantine
below the journal folder, where `nimbus usage reconcile` reports it until someone removes it.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg
import uvloop
from sqlalchemy.exc import SQLAlchemyError

from nimbus import access, usage
from nimbus.base import clock, db, log, metrics, process
from nimbus.base.config import Settings
from nimbus.rules.blocks import Block, read_block
from nimbus.rules.metering import (
    HEADER_SIZE,
    LOCK_NAME,
    SEGMENT_SUFFIX,
    SLOT_SIZE,
    CorruptSegmentError,
    SegmentHeader,
    Slot,
    SlotState,
    UsageEvent,
    decode_header,
    decode_slot,
    slot_offset,
)
from nimbus.usage import Mark

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 0.25  # how long an open slot holds up the ones behind it
BATCH_SLOTS = 65_536  # four segments: what a batch costs whatever is in it is shared by many
WAITING_MAX = 10_000  # open calls of one gateway that may be left behind
SWITCH_SECONDS = 0.0005  # a thread works on the next batch: who feeds the database goes first
RETRY_SECONDS_MAX = 5.0
ABSENT_SECONDS = 60.0
DRAIN_LOCK = ".drain.lock"
REASON = "storing usage"

_UNREAD = (SlotState.EMPTY, SlotState.CORRUPT)  # of a slot that was used: it is lost

logger = log.get_logger("drain")


@dataclass(slots=True)
class Journal:
    """A gateway's folder as the drain knows it."""

    folder: Path
    producer: UUID
    mark: Mark | None = None  # None: the database has to be asked
    lock: int | None = None  # held by us once its gateway is gone
    end: int | None = None  # of a dead gateway: the last sequence that was used
    heads: deque[tuple[float, int]] = field(default_factory=deque)  # when what was used
    old_head: int = 0  # what had been used PATIENCE_SECONDS ago
    headers: dict[Path, SegmentHeader] = field(default_factory=dict)
    ahead: "Ahead | None" = None  # the next batch's block, while the database has the present one
    failures: int = 0
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Worked:
    """A block and all that is worked out of it before it is stored."""

    block: Block
    ready: usage.Ready
    last_used: dict[UUID, datetime]
    stored: list[usage.Stored]


@dataclass(frozen=True, slots=True)
class Ahead:
    """The block from the sequence `first` on, which a thread works on."""

    first: int
    worked: "asyncio.Future[Worked | None]"


@dataclass(frozen=True, slots=True)
class Batch:
    """What is stored in one transaction: what became of the slots `first` to `last`; up to `head`
    slots were used. The calls are those of the block and those that waited, and came late.
    """

    first: int
    last: int
    head: int
    late: list[UsageEvent]
    worked: Worked | None
    waiting: set[int]
    corrupt: set[int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment's file and what its header says."""

    path: Path
    header: SegmentHeader

    def holds(self, sequence: int) -> bool:
        """Whether the slot of this sequence is in this segment."""
        return self.header.first_sequence <= sequence <= self.header.last_sequence

    def holds_after(self, sequence: int) -> bool:
        """Whether all of this segment comes after a sequence."""
        return self.header.first_sequence > sequence


def run(settings: Settings) -> None:
    """Drain until SIGTERM or SIGINT; the batches under way are finished first."""
    log.configure(settings.log_level, "drain")
    sys.setswitchinterval(SWITCH_SECONDS)
    uvloop.run(_drain(settings))


async def _drain(settings: Settings) -> None:
    settings.journal_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _take_lock(settings.journal_dir / DRAIN_LOCK)
    if lock is None:
        raise SystemExit("another drain works on this data folder")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await db.open_database(settings, pool_size=2)
    try:
        process.announce_ready()
        logger.info("started")
        journals: dict[UUID, Journal] = {}
        look_at = 0.0
        while not stop.is_set():
            if clock.monotonic() >= look_at:
                look_at = clock.monotonic() + ABSENT_SECONDS
                await _end_absent(settings)
            if not await turn(settings.journal_dir, journals):
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), POLL_SECONDS)
        logger.info("stopped")
    finally:
        await db.close_database()
        os.close(lock)


async def turn(journal_dir: Path, journals: dict[UUID, Journal]) -> bool:
    """Store one batch of each journal; answers whether anything moved.

    A failure (the database is away, a disk does not answer, a fault of ours) stops that journal
    for a while, with growing pauses, and no other.
    """
    moved = False
    folders = _folders(journal_dir)
    for gone in journals.keys() - {producer for producer, _ in folders}:
        del journals[gone]
    for producer, folder in folders:
        journal = journals.setdefault(producer, Journal(folder, producer))
        if journal.retry_at > clock.monotonic():
            continue
        try:
            moved |= await _advance(journal)
            journal.failures = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, the other journals go on
            _put_off(journal, error)
    return moved


async def _end_absent(settings: Settings) -> None:
    """See off the gateways of this machine whose journals are not here: those that lived when a
    backup was made that stands here now. With its own database there is no other machine.
    """
    node = None if settings.embedded_database else socket.gethostname()
    present = [producer for producer, _ in _folders(settings.journal_dir)]
    try:
        async with db.system_session(REASON) as session:
            absent = await usage.absent_producers(session, present, node)
        for producer, used in absent.items():
            await end_absent(settings.journal_dir, producer, used)
    except (SQLAlchemyError, psycopg.Error, OSError) as error:
        logger.warning("absent_not_ended", exc_info=error)


async def end_absent(journal_dir: Path, producer: UUID, used: int) -> None:
    """Close what is not stored of a journal that is gone, up to the sequence `used`: it is
    counted as corrupt and reported, and the leases come back.
    """
    journal = Journal(journal_dir / str(producer), producer)
    async with db.system_session(REASON) as session:
        mark = await usage.producer_mark(session, producer)
        lost = {*mark.waiting, *range(mark.watermark + 1, used + 1)}
        _quarantine(journal, [], lost)
        if lost:
            last = max(used, mark.watermark)
            await usage.store_batch(session, producer, min(lost), last, [], corrupt=lost)
        await usage.end_producer(session, producer)
    logger.warning("journal_absent", producer=str(producer), lost=len(lost))


def _put_off(journal: Journal, error: Exception) -> None:
    pause = min(RETRY_SECONDS_MAX, 0.1 * 2**journal.failures)
    journal.failures += 1
    metrics.storing_failures.inc()
    journal.retry_at = clock.monotonic() + pause
    journal.mark = None  # whether the last transaction took place is not known
    level = logger.warning if journal.failures < 3 else logger.error
    level("not_stored", producer=str(journal.producer), exc_info=error)


def _folders(journal_dir: Path) -> list[tuple[UUID, Path]]:
    found = []
    for entry in os.scandir(journal_dir):
        if entry.is_dir() and not entry.name.startswith("."):
            with suppress(ValueError):
                found.append((UUID(entry.name), Path(entry.path)))
    return sorted(found)


async def _advance(journal: Journal) -> bool:
    """Store the next batch of a journal, or see it off; answers whether anything moved."""
    if journal.lock is None:
        journal.lock = _take_lock(journal.folder / LOCK_NAME)
    dead = journal.lock is not None  # found out before reading: then all there is is read
    if journal.mark is None:
        async with db.system_session(REASON) as session:
            journal.mark = await usage.producer_mark(session, journal.producer)
    segments = _segments(journal)
    if dead and journal.end is None:
        journal.end = _last_used(segments, journal.mark.watermark)
    batch = _next_batch(journal, journal.mark, segments, await _ahead(journal, journal.mark))
    if batch is not None:
        _quarantine(journal, segments, batch.corrupt)
        _work_ahead(journal, segments, batch, dead=dead)
        journal.mark = await _store(journal.producer, batch)
    _delete_stored(journal, segments, journal.mark)
    if dead and not journal.mark.waiting and journal.mark.watermark >= (journal.end or 0):
        await _see_off(journal)
        return True
    return batch is not None


async def _ahead(journal: Journal, mark: Mark) -> Worked | None:
    """What was worked out of the next block, if the database stands where it begins."""
    ahead, journal.ahead = journal.ahead, None
    return await ahead.worked if ahead is not None and ahead.first == mark.watermark + 1 else None


def _work_ahead(journal: Journal, segments: list[Segment], batch: Batch, *, dead: bool) -> None:
    """Begin with the next batch where a whole one lies behind this one."""
    first, upto = batch.last + 1, batch.last + BATCH_SLOTS
    if batch.worked is None or upto > batch.head:
        return

    def work() -> Worked | None:
        block = _block_from(segments, first, upto, dead=dead)
        return None if block is None else _work(block)

    journal.ahead = Ahead(first, asyncio.get_running_loop().run_in_executor(None, work))


def _work(block: Block) -> Worked:
    ready = usage.make_ready(block)
    return Worked(block, ready, ready.last_used(), list(usage.stored_of(ready)))


async def _store(producer: UUID, batch: Batch) -> Mark:
    worked = batch.worked
    block, used = (worked.block, worked.last_used) if worked else (None, {})
    for event in batch.late:
        used[event.key_id] = max(event.occurred_at, used.get(event.key_id, event.occurred_at))
    with metrics.timed(metrics.storing_seconds):
        async with db.system_session(REASON) as session:
            await access.note_used(session, used)
            mark = await usage.store_batch(
                session,
                producer,
                batch.first,
                batch.last,
                batch.late,
                block=block,
                ready=None if worked is None else worked.ready,
                waiting=batch.waiting,
                corrupt=batch.corrupt,
            )
    await usage.count_stored(batch.late, block, worked.stored if worked else ())
    return mark


async def _see_off(journal: Journal) -> None:
    """Give a dead gateway's leases back and remove its folder."""
    async with db.system_session(REASON) as session:
        await usage.end_producer(session, journal.producer)
    shutil.rmtree(journal.folder)
    if journal.lock is not None:
        os.close(journal.lock)
    logger.info("journal_ended", producer=str(journal.producer))


def _next_batch(
    journal: Journal, mark: Mark, segments: list[Segment], ahead: Worked | None
) -> Batch | None:
    """What can be stored now; None when nothing can. The block may have been worked `ahead`.

    Of a living gateway's slots those that are still open hold up the ones behind them for a
    moment, then are left waiting. Of a dead one's, an open slot is a call that was never served,
    and one that reads as empty or corrupt before the last used one is lost.
    """
    dead = journal.end is not None
    head = journal.end if journal.end is not None else _head(journal, mark, segments)
    late = {slot.sequence: slot for slot in _read(segments, sorted(mark.waiting), dead=dead)}
    answered = [slot for slot in late.values() if dead or slot.record is not None]
    waiting = set(late) - {slot.sequence for slot in answered}
    corrupt = {slot.sequence for slot in answered if slot.state in _UNREAD}
    first, upto = mark.watermark + 1, min(head, mark.watermark + BATCH_SLOTS)
    block = ahead.block if ahead is not None else None
    if block is None and first <= upto:
        block = _block_from(segments, first, upto, dead=dead)
    last = mark.watermark
    if block is not None:
        if not dead:
            block = block.head(_ready(journal, block, waiting))
        last = block.last
        corrupt.update(*(block.sequences(state) for state in _UNREAD if dead))
    elif first <= upto:
        last = min([upto, *(s.header.first_sequence - 1 for s in segments if s.holds_after(first))])
        corrupt.update(range(first, last + 1))
    if last == mark.watermark and not answered:
        return None
    worked = ahead if ahead is not None and ahead.block is block else None
    if worked is None and block is not None and last > mark.watermark:
        worked = _work(block)
    return Batch(
        first=min(mark.waiting, default=first),
        last=last,
        head=head,
        late=[slot.record for slot in answered if slot.record is not None],
        worked=worked,
        waiting=waiting,
        corrupt=corrupt,
    )


def _ready(journal: Journal, block: Block, waiting: set[int]) -> int:
    """How many slots of a living gateway's block can be stored: up to one that has not been open
    for long. Those before it that are open are left `waiting`.
    """
    for place in np.flatnonzero(block.states != SlotState.COMPLETED).tolist():
        sequence = block.first + place
        if sequence > journal.old_head or len(waiting) >= WAITING_MAX:
            return int(place)
        waiting.add(sequence)
    return len(block.states)


def _block_from(segments: list[Segment], first: int, upto: int, *, dead: bool) -> Block | None:
    """The slots from `first` to `upto` as far as segments hold them without a gap; None where none
    holds the first, which in a living gateway's journal raises JournalHoleError.
    """
    pieces, last, whole = [], first - 1, True
    for segment in segments:
        if whole and last < upto and segment.holds(last + 1):
            begin, last = last + 1, min(upto, segment.header.last_sequence)
            pieces.append(_slots(segment, begin, last))
            whole = len(pieces[-1]) == (last - begin + 1) * SLOT_SIZE
    if not pieces:
        if not dead:
            raise usage.JournalHoleError(f"no segment holds sequence {first}")
        return None
    return read_block(b"".join(pieces), first, last, segments[0].header.producer)


def _head(journal: Journal, mark: Mark, segments: list[Segment]) -> int:
    """The last sequence a living gateway has used: slots are taken in order, so by halving."""
    head = mark.watermark
    for segment in segments:
        low, high = max(head + 1, segment.header.first_sequence), segment.header.last_sequence
        if low > high:
            continue
        if low > head + 1:
            raise usage.JournalHoleError(f"no segment holds sequence {head + 1}")
        while low <= high:
            middle = (low + high) // 2
            if _slot(segment, middle).state == SlotState.EMPTY:
                high = middle - 1
            else:
                low = middle + 1
        head = high
        if head < segment.header.last_sequence:
            break
    now = clock.monotonic()
    journal.heads.append((now, head))
    while journal.heads[0][0] <= now - PATIENCE_SECONDS:
        journal.old_head = journal.heads.popleft()[1]
    return head


def _last_used(segments: list[Segment], watermark: int) -> int:
    """The last sequence a dead gateway has used; what is stored already was."""
    for segment in reversed(segments):
        header = segment.header
        first, last = header.first_sequence, header.last_sequence
        block = read_block(_slots(segment, first, last), first, last, header.producer)
        used = np.flatnonzero(block.states != SlotState.EMPTY)
        if len(used):
            return max(watermark, first + int(used[-1]))
    return watermark


def _read(segments: list[Segment], sequences: Iterable[int], *, dead: bool) -> Iterator[Slot]:
    """The slots of these sequences. Where no segment holds one it is corrupt in a dead gateway's
    journal; in a living one's it raises JournalHoleError.
    """
    for sequence in sequences:
        segment = next((one for one in segments if one.holds(sequence)), None)
        if segment is None and not dead:
            raise usage.JournalHoleError(f"no segment holds sequence {sequence}")
        corrupt = Slot(sequence, SlotState.CORRUPT, None)
        yield corrupt if segment is None else _slot(segment, sequence)


def _slot(segment: Segment, sequence: int) -> Slot:
    """One slot; what a file that was cut short lacks is corrupt."""
    data = _slots(segment, sequence, sequence)
    if len(data) < SLOT_SIZE:
        return Slot(sequence, SlotState.CORRUPT, None)
    return decode_slot(data, sequence, segment.header.producer)


def _slots(segment: Segment, first: int, last: int) -> bytes:
    """The bytes of the slots `first` to `last`, as far as the file has them."""
    at = slot_offset(segment.header, first)
    return _bytes(segment.path, at, (last - first + 1) * SLOT_SIZE)


def _segments(journal: Journal) -> list[Segment]:
    """The segments that are there, in order."""
    paths = sorted(path for path in journal.folder.iterdir() if path.suffix == SEGMENT_SUFFIX)
    journal.headers = {path: journal.headers.get(path) or _header(journal, path) for path in paths}
    return [Segment(path, header) for path, header in journal.headers.items()]


def _header(journal: Journal, path: Path) -> SegmentHeader:
    """A segment's header; one that is torn is made again from the file's name and size, which
    its slots then confirm or not: each carries its own sequence and checksum.
    """
    try:
        header = decode_header(_bytes(path, 0, HEADER_SIZE))
    except CorruptSegmentError:
        logger.error("unreadable_header", producer=str(journal.producer), segment=path.name)  # noqa: TRY400
        slots = (path.stat().st_size - HEADER_SIZE) // SLOT_SIZE
        number = int(path.stem)
        return SegmentHeader(journal.producer, number, (number - 1) * slots + 1, slots)
    if header.producer != journal.producer:
        raise usage.JournalHoleError(f"{path.name} is of another producer: {header.producer}")
    return header


def _bytes(path: Path, offset: int, length: int) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, length, offset)
    finally:
        os.close(file)


def _quarantine(journal: Journal, segments: list[Segment], corrupt: set[int]) -> None:
    """Keep what can't be read, before it is counted as lost."""
    if not corrupt:
        return
    folder = journal.folder.parent / usage.QUARANTINE / str(journal.producer)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = [s for s in segments if any(s.holds(sequence) for sequence in corrupt)]
    for segment in held:
        copy = folder / segment.path.name
        if not copy.exists():
            shutil.copy(segment.path, copy.with_suffix(".part"))
            copy.with_suffix(".part").rename(copy)
    if not all(any(s.holds(sequence) for s in held) for sequence in corrupt):
        (folder / f"no-segment-{min(corrupt)}-{max(corrupt)}").touch()
    logger.error(
        "unreadable_slots",
        producer=str(journal.producer),
        count=len(corrupt),
        first=min(corrupt),
        last=max(corrupt),
        kept_in=str(folder),
    )


def _delete_stored(journal: Journal, segments: list[Segment], mark: Mark) -> None:
    """Delete segments that are wholly stored and that their gateway has moved on from."""
    for segment in segments[:-1]:
        stored = segment.header.last_sequence <= mark.watermark
        if stored and not any(segment.holds(sequence) for sequence in mark.waiting):
            segment.path.unlink()
            journal.headers.pop(segment.path, None)


def _take_lock(path: Path) -> int | None:
    """An exclusive lock on the file, or None when a living process holds it."""
    file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
