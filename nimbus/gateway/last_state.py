# SPDX-License-Identifier: Apache-2.0
"""The last good state on disk, from which a gateway starts when the database is gone.

One file serves all gateways of a node. The one that holds its lock writes it: all records when
it takes the lock, from then on each change at the end, and all of them anew once the file has
doubled. Everything slow is done in a thread, and at no time are all records in memory twice.

    file    magic · batch · batch · …
    batch   size u32 · crc32 u32 of what follows · feed number u64 · shapes u32 · records u32
            · shapes, each: size u32, text · records, each: number u64, shape u32, size u32, blob

Shapes are numbered as they come in the file. A batch that is torn or does not fit its checksum
ends what is read. While not all records are in the file, its batches say feed number 0, and a
file that says nothing else is as none.
"""

import asyncio
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.gateway.records import Packed
from nimbus.gateway.state import State

log = get_logger("gateway.last_state")

MAGIC = b"NIMBSTA1"
BATCH_RECORDS = 250  # what is prepared at once, without a call being served
ROOM = 1 << 20  # a small file is not written anew for every few changes
RETRY_SECONDS = 30
_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<QII")
_SHAPE = struct.Struct("<I")
_RECORD = struct.Struct("<QII")

Numbered = tuple[int, Packed]


class LastState:
    """The file, and what of the state it does not have yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed: set[tuple[str, str]] = set()
        self._lock: int | None = None
        self._file: int | None = None
        self._shapes: dict[str, int] = {}
        self._size = 0
        self._whole_size = 0
        self._retry_at = clock.monotonic()

    def changed(self, kind: str, entity_id: str) -> None:
        """The record of this entity is another one now."""
        self._changed.add((kind, entity_id))

    def all_changed(self) -> None:
        """The state is another one as a whole."""
        self._close_file()

    async def save(self, state: State) -> None:
        """Bring the file up to the state, if it is ours to write. A failure leaves the last file
        that was whole, and is tried again later.
        """
        if not state.complete or clock.monotonic() < self._retry_at:
            return
        try:
            if not self._take_lock():
                self._changed.clear()
            elif self._file is None or self._size > 2 * self._whole_size + ROOM:
                await self._write_all(state)
            elif self._changed:
                await self._append(state)
        except OSError as error:
            log.warning("state_not_saved", error=error.strerror)
            self._close_file()
            self._retry_at = clock.monotonic() + RETRY_SECONDS

    def let_go(self) -> None:
        """Leave the file to another gateway, which knows more."""
        self._close_file()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> bool:
        if self._lock is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    async def _write_all(self, state: State) -> None:
        """A new file beside the old one, which it replaces once it is on the disk."""
        loop = asyncio.get_running_loop()
        self._close_file()
        self._changed.clear()
        unfinished = self._path.with_suffix(".new")
        records, self._shapes, self._size = state.records, {}, 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        file = os.open(unfinished, flags, 0o600)
        try:
            for piece in pieces(state, self._shapes):
                await loop.run_in_executor(None, _write, os.dup(file), piece)
                self._size += len(piece)
            await loop.run_in_executor(None, _sync, os.dup(file))
            if state.records is records:
                unfinished.replace(self._path)
                self._file, file = file, -1
                self._whole_size = self._size
        finally:
            if file >= 0:
                os.close(file)

    async def _append(self, state: State) -> None:
        assert self._file is not None
        changed, self._changed = self._changed, set()
        found = [state.records.packed(*entity) for entity in changed]
        batch = _batch(state.number, [record for record in found if record], self._shapes)
        await asyncio.get_running_loop().run_in_executor(None, _append, os.dup(self._file), batch)
        self._size += len(batch)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def pieces(state: State, shapes: dict[str, int]) -> Iterator[bytes]:
    """A whole file, piece by piece; `shapes` gets the numbers of the shapes in it. What changes
    between two pieces is in it or not, and is to be appended.
    """
    number, records = state.number, state.records
    yield MAGIC
    for start in range(0, len(records), BATCH_RECORDS):
        yield _batch(0, records.rows(start, start + BATCH_RECORDS), shapes)
    yield _batch(number, (), shapes)


def load(path: Path, state: State) -> None:
    """Take the last good state from disk, when there is one that can be read."""
    filled = state.empty()
    shapes: list[str] = []
    try:
        for number, records in _read(path, shapes):
            for record in records:
                filled.take(*record)
            filled.number = max(filled.number, number)
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, struct.error) as error:
        log.warning("unreadable_state", error=repr(error))
    if filled.number:
        state.become(filled)


def _batch(number: int, records: Iterable[Numbered], shapes: dict[str, int]) -> bytes:
    parts, new, count = [], [], 0
    for of, (shape, blob) in records:
        known = shapes.get(shape)
        if known is None:
            known = shapes[shape] = len(shapes)
            text = shape.encode()
            new += [_SHAPE.pack(len(text)), text]
        parts += [_RECORD.pack(of, known, len(blob)), blob]
        count += 1
    body = b"".join([_HEAD.pack(number, len(new) // 2, count), *new, *parts])
    return _FRAME.pack(len(body), crc32(body)) + body


def _read(path: Path, shapes: list[str]) -> Iterator[tuple[int, list[Numbered]]]:
    """Feed number and records of each batch, up to the end or the first that is torn."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - len(MAGIC)
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("another format")
        while left:
            frame = file.read(_FRAME.size)
            size, check = _FRAME.unpack(frame)
            left -= _FRAME.size + size
            body = file.read(size) if left >= 0 else b""
            if len(body) != size or crc32(body) != check:
                raise ValueError("torn")
            yield _read_batch(body, shapes)


def _read_batch(body: bytes, shapes: list[str]) -> tuple[int, list[Numbered]]:
    number, new, count = _HEAD.unpack_from(body)
    place = _HEAD.size
    for _ in range(new):
        [size] = _SHAPE.unpack_from(body, place)
        place += _SHAPE.size + size
        shapes.append(body[place - size : place].decode())
    records = []
    for _ in range(count):
        of, shape, size = _RECORD.unpack_from(body, place)
        place += _RECORD.size + size
        records.append((of, Packed(shapes[shape], body[place - size : place])))
    return number, records


def _write(file: int, data: bytes) -> None:
    """Write all of it and close: the file is the thread's own, so that nobody closes it early."""
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def _append(file: int, batch: bytes) -> None:
    _write(os.dup(file), batch)
    _sync(file)


def _sync(file: int) -> None:
    try:
        os.fdatasync(file)
    finally:
        os.close(file)
