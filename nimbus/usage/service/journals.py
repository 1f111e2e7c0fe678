# SPDX-License-Identifier: Apache-2.0
"""What lies on this machine's disk, held against what is stored: for the proof and the lag.

Files are read while gateways write and the drain stores and deletes. So nothing here is concluded
from a file that is gone, and what is behind a watermark is "under way", never a difference.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from nimbus.rules.metering import (
    HEADER_SIZE,
    SEGMENT_SUFFIX,
    SLOT_SIZE,
    CorruptSegmentError,
    SegmentHeader,
    SlotState,
    UsageEvent,
    decode_header,
    decode_slot,
    slot_offset,
)
from nimbus.usage.models import Mark

QUARANTINE = ".quarantine"  # below the journal folder: copies of segments that can't be read

_STATE_OFFSET = 8  # of the state's byte in a slot
_NOTHING = Mark(0, frozenset(), ended=False)  # is stored


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is written down and not stored: how many calls, and when the oldest one was made."""

    calls: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Segment:
    header: SegmentHeader
    data: bytes

    def record(self, sequence: int) -> UsageEvent | None:
        """The finished call of a slot; None where there is none, or none that can be read."""
        offset = slot_offset(self.header, sequence)
        piece = self.data[offset : offset + SLOT_SIZE]
        return decode_slot(piece, sequence, self.header.producer).record

    def finished(self) -> Iterator[int]:
        """The sequences whose slots say that their call is finished."""
        states = self.data[HEADER_SIZE + _STATE_OFFSET :: SLOT_SIZE]
        position = states.find(SlotState.COMPLETED)
        while position >= 0:
            yield self.header.first_sequence + position
            position = states.find(SlotState.COMPLETED, position + 1)


def producers(journal_dir: Path) -> list[UUID]:
    """The gateway processes whose journals lie here, alive or dead."""
    found = []
    with suppress(FileNotFoundError):
        for entry in sorted(journal_dir.iterdir()):
            with suppress(ValueError):
                found.append(UUID(entry.name))
    return found


def backlog(journal_dir: Path, marks: Mapping[UUID, Mark]) -> Backlog:
    """All that is written down behind the producers' marks; a producer without one begins at 1."""
    calls, oldest = 0, []
    for producer in producers(journal_dir):
        mark = marks.get(producer, _NOTHING)
        found = [
            (segment, sequence)
            for segment in _segments(journal_dir, producer, mark)
            for sequence in segment.finished()
            if not mark.has(sequence)
        ]
        calls += len(found)
        oldest += _made_at(found)
    return Backlog(calls, min(oldest, default=None))


def oldest_waiting(journal_dir: Path, marks: Mapping[UUID, Mark]) -> datetime | None:
    """When the oldest call was made that is finished and not stored; None when all are (U-14).

    Looks no further than the first such slot of each journal, however long the rest is.
    """
    oldest: list[datetime] = []
    for producer in producers(journal_dir):
        mark = marks.get(producer, _NOTHING)
        waits = (
            (segment, sequence)
            for segment in _segments(journal_dir, producer, mark)
            for sequence in segment.finished()
            if not mark.has(sequence)
        )
        oldest += _made_at([first] if (first := next(waits, None)) else [])
    return min(oldest, default=None)


def stored_records(journal_dir: Path, producer: UUID, mark: Mark) -> dict[int, UsageEvent]:
    """The finished calls that lie here and are stored already, by sequence: of segments that a
    gateway is still filling, or that a drain has had no time to delete.
    """
    found = {}
    for segment in _segments(journal_dir, producer, _NOTHING):
        for sequence in segment.finished():
            if mark.has(sequence) and (record := segment.record(sequence)) is not None:
                found[sequence] = record
    return found


def hole(journal_dir: Path, producer: UUID, mark: Mark) -> tuple[int, int] | None:
    """The first sequences behind the mark, (first, last), that no segment holds though a later one
    is there; None when there is no such hole. Goes by the files' names and their size in slots.
    """
    slots = next((one.header.slots for one in _segments(journal_dir, producer, _NOTHING, 0)), 0)
    last = mark.watermark
    for number in _numbers(journal_dir, producer) if slots else ():
        first = (number - 1) * slots + 1
        if first > last + 1:
            return last + 1, first - 1
        last = max(last, number * slots)
    return None


def quarantined(journal_dir: Path) -> list[Path]:
    """The copies of segments that could not be read, until somebody has looked at them."""
    return sorted(journal_dir.glob(f"{QUARANTINE}/*/*"))


def _made_at(found: list[tuple[_Segment, int]]) -> list[datetime]:
    """When the first readable one of these calls was made."""
    for segment, sequence in found:
        if (record := segment.record(sequence)) is not None:
            return [record.occurred_at]
    return []


def _numbers(journal_dir: Path, producer: UUID) -> list[int]:
    folder = journal_dir / str(producer)
    return sorted(int(path.stem) for path in folder.glob(f"*{SEGMENT_SUFFIX}"))


def _segments(journal_dir: Path, producer: UUID, mark: Mark, size: int = -1) -> Iterator[_Segment]:
    """The segments of a journal that hold something behind the mark, in order, `size` bytes of
    their slots. What was deleted meanwhile and what can't be read are passed over: the drain tells
    of the latter.
    """
    first = min(mark.waiting, default=mark.watermark + 1)
    with suppress(FileNotFoundError):
        for path in sorted((journal_dir / str(producer)).iterdir()):
            if path.suffix != SEGMENT_SUFFIX:
                continue
            with suppress(FileNotFoundError, CorruptSegmentError), path.open("rb") as file:
                start = file.read(HEADER_SIZE)
                header = decode_header(start)
                if header.last_sequence >= first:
                    yield _Segment(header, start + file.read(size))
