# SPDX-License-Identifier: Apache-2.0
"""The journal's writer: a slot for each call, reserved before forwarding and completed before
the answer's last byte.

Segments are preallocated files mapped into memory, so on the path of a call a slot costs two
copies and no system call, and a full disk shows when a segment is made, never as a fault in the
middle of a write. `reserve` gives None when no slot can be had: then the call must be refused.
A killed process loses nothing it has answered; a power cut at most what was not synced yet, and
nothing of who waits for `sync_soon`. What may take long on the disk is done in threads of the
journal's own.
"""

import asyncio
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.rules.metering import (
    LOCK_NAME,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    SegmentHeader,
    encode_header,
    segment_name,
    slot_offset,
    write_completed,
    write_reserved,
)

log = get_logger("gateway.meter")

RETRY_SECONDS = 1
REFUSED_PER_SECOND = 200  # refused records a second; a flood beyond it is not written down


@dataclass(slots=True)
class _Segment:
    header: SegmentHeader
    file: int
    memory: mmap.mmap
    base: int  # where the slot of sequence 0 would lie
    completed: int = 0
    synced: int = -1  # how many slots had been written to, twice if completed, when last synced


class Journal:
    """The journal of one gateway process, in a folder of its own below `journal_dir`."""

    def __init__(
        self, journal_dir: Path, producer: UUID, slots_per_segment: int = SLOTS_PER_SEGMENT
    ) -> None:
        self.folder = journal_dir / str(producer)
        self.producer = producer
        self._slots = slots_per_segment
        self._sequence = 0  # the last one reserved
        self._first = 1  # the first one of the segment being filled
        self._last = 0  # the last one that it has room for
        self._segments: list[_Segment] = []  # the last is the one being filled
        self._filling: _Segment  # there once a slot was reserved
        self._next: Future[_Segment | None] | None = None
        self._disk = ThreadPoolExecutor(2, "journal")  # one may hang in a sync
        self._syncing: asyncio.Future[bool] | None = None  # for who waits for the sync on its way
        self._waiting: asyncio.Future[bool] | None = None  # for who waits for the one after it
        self.syncs = True  # whether the disk took what it was given last
        self._folder_dirty = True
        self._retry_at = clock.monotonic()
        self._refused_second = 0
        self._refused_count = 0
        # The folder appears under its name only once its lock is held: the drain takes a
        # journal that nobody holds for that of a dead gateway.
        unlocked = journal_dir / f".{producer}"
        unlocked.mkdir(parents=True, mode=0o700)
        self._lock = os.open(unlocked / LOCK_NAME, os.O_WRONLY | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(self.folder)
        self._folder_file = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)

    @property
    def last_sequence(self) -> int:
        """The sequence of the slot reserved last; 0 before the first."""
        return self._sequence

    def reserve(self) -> int | None:
        """Take the next slot for a call about to be forwarded; None when there is no room."""
        sequence = self._sequence + 1
        if sequence > self._last and not self._advance():
            return None
        segment = self._filling
        write_reserved(segment.memory, segment.base + sequence * SLOT_SIZE, sequence)
        self._sequence = sequence
        return sequence

    def complete(self, sequence: int, payload: bytes) -> None:
        """Write down what came of the call that holds this slot: a payload of `rules.metering`."""
        segment = self._filling if sequence >= self._first else self._segment_of(sequence)
        write_completed(segment.memory, segment.base + sequence * SLOT_SIZE, sequence, payload)
        segment.completed += 1

    def record_refused(self, payload: bytes) -> None:
        """Write down a refused call, unless a flood or a full disk leaves no room for it."""
        second = int(clock.monotonic())
        if second != self._refused_second:
            self._refused_second, self._refused_count = second, 0
        if self._refused_count >= REFUSED_PER_SECOND:
            return
        self._refused_count += 1
        sequence = self.reserve()
        if sequence is not None:
            self.complete(sequence, payload)

    def prepare(self) -> None:
        """Have the next segment ready once this one is half full; let go of finished ones."""
        if self._next is not None and self._next.done() and self._next.result() is None:
            self._next = None
        if self._segments and self._next is None:
            used = self._sequence - self._segments[-1].header.first_sequence
            if used * 2 > self._slots:
                number = self._segments[-1].header.number + 1
                self._next = self._disk.submit(self._make, number)
        for segment in self._segments[:-1]:
            if segment.completed == self._slots and segment.synced == self._written(segment):
                self._segments.remove(segment)
                _let_go(segment)

    def unsynced(self) -> list[int]:
        """Duplicates of the files whose pages the disk does not have yet, for `sync_files` in
        another thread.
        """
        files = []
        for segment in self._segments:
            written = self._written(segment)
            if segment.synced != written:
                segment.synced = written
                files.append(os.dup(segment.file))
        if self._folder_dirty:
            self._folder_dirty = False
            files.append(os.dup(self._folder_file))
        return files

    def sync_soon(self) -> "asyncio.Future[bool]":
        """Whether all that was written down up to now is on the disk, once that is known. One
        sync is on its way at a time, and who asks meanwhile shares the next: who awaits the
        future shields it.
        """
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        waiting = self._waiting
        if self._syncing is None:
            self._sync()
        return waiting

    def _sync(self) -> None:
        self._syncing, self._waiting = self._waiting, None
        files = self.unsynced()
        if not files:
            self._answer(None)
            return
        work = asyncio.get_running_loop().run_in_executor(self._disk, sync_files, files)
        work.add_done_callback(lambda work: self._answer(work.exception()))

    def _answer(self, error: BaseException | None) -> None:
        if error is not None:
            if self.syncs:
                log.error("journal_not_synced", error=str(error))
            # The kernel takes pages that it could not write for clean: they are written anew.
            for segment in self._segments:
                segment.memory[:] = segment.memory[:]
                segment.synced = -1
        self.syncs = error is None
        answered, self._syncing = self._syncing, None
        if answered is not None and not answered.done():
            answered.set_result(self.syncs)
        if self._waiting is not None:
            self._sync()

    def close(self) -> None:
        """Sync and release everything; from then on the drain takes the rest of the journal."""
        self._waiting = None
        self._disk.shutdown()
        sync_files(self.unsynced())
        ready = self._next.result() if self._next else None
        for segment in [*self._segments, *([ready] if ready else [])]:
            _let_go(segment)
        self._segments, self._next = [], None
        os.close(self._folder_file)
        os.close(self._lock)

    def _advance(self) -> bool:
        number = self._segments[-1].header.number + 1 if self._segments else 1
        ready, self._next = self._next, None
        segment = (ready and ready.result()) or self._make(number)
        if segment is None:
            return False
        self._segments.append(segment)
        self._filling = segment
        self._first = segment.header.first_sequence
        self._last = segment.header.last_sequence
        return True

    def _make(self, number: int) -> _Segment | None:
        if clock.monotonic() < self._retry_at:
            return None
        header = SegmentHeader(self.producer, number, (number - 1) * self._slots + 1, self._slots)
        try:
            segment = _make_segment(self.folder, header)
        except OSError as error:
            self._retry_at = clock.monotonic() + RETRY_SECONDS
            log.error("no_journal_segment", number=number, error=error.strerror)  # noqa: TRY400
            return None
        self._folder_dirty = True
        return segment

    def _written(self, segment: _Segment) -> int:
        """How often a slot of the segment was written to."""
        last = min(self._sequence, segment.header.last_sequence)
        return last - segment.header.first_sequence + 1 + segment.completed

    def _segment_of(self, sequence: int) -> _Segment:
        return next(
            segment
            for segment in reversed(self._segments)
            if segment.header.first_sequence <= sequence
        )


def sync_files(files: list[int]) -> None:
    """Bring these files to the disk and close them; blocks, so not on the event loop. Raises the
    first OSError once all were tried.
    """
    failed = None
    for file in files:
        try:
            os.fdatasync(file)
        except OSError as error:
            failed = failed or error
        finally:
            os.close(file)
    if failed is not None:
        raise failed


def _make_segment(folder: Path, header: SegmentHeader) -> _Segment:
    """A segment of the right size, with its header, under its final name; raises OSError."""
    final = folder / segment_name(header.number)
    unfinished = final.with_suffix(".new")
    file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(file, 0, header.size)
        memory = mmap.mmap(file, header.size)
        start = encode_header(header)
        memory[: len(start)] = start
        unfinished.rename(final)
    except OSError:
        os.close(file)
        unfinished.unlink(missing_ok=True)
        raise
    return _Segment(header, file, memory, slot_offset(header, 0))


def _let_go(segment: _Segment) -> None:
    segment.memory.close()
    os.close(segment.file)
