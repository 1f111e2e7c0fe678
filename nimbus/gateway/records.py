# SPDX-License-Identifier: Apache-2.0
"""The feed's records, packed: a gateway holds all of them, and few are in use at a time.

As dictionaries the records of 100,000 grants would take half a gigabyte; packed they take some
25 MB. What a record has in common with others, its shape, is kept once; what is its own, ids,
digests and instants, lies as raw bytes in one heap:

    shape   the record as JSON, a marker in place of each value that is its own
    blob    kind u8 · entity id 16 · then the values that the markers stand for, in order
    row     the number an entity gets for good: columns of feed number, shape, place of the blob
    index   entity → row, and the digests of keys → row

An organization's row leads to the rows of its subscriptions. A record reads back as it was.
"""

import json
import re
import struct
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

Record = dict[str, Any]

KINDS = ("clock", "organization", "product", "plan", "subscription", "key", "block")
GONE = ""  # the shape of an entity that is no more
ENTITY_BYTES = 17

# Ids that many records have in common stay in the shape.
_SHARED = frozenset(("product_id", "provider_organization_id", "plan_version_id"))
_OWNER = ("organization_id",)
_ID, _BYTES32, _INSTANT = "\0i", "\0d", "\0t"
_SIZES = {_ID: 16, _BYTES32: 32, _INSTANT: 8}
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = re.compile("[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS = struct.Struct("<q")
_INDEX_PARTS = 256


class Packed(NamedTuple):
    """A record in its packed form. Equal forms are equal records."""

    shape: str
    blob: bytes


class _Shape:
    """One shape, how many records have it, how long their blobs are, and where in these the
    digests and the owner are.
    """

    __slots__ = ("digests", "owner", "size", "text", "uses")

    def __init__(self, text: str) -> None:
        self.text = text
        self.uses = 0
        self.digests: tuple[int, ...] = ()
        self.owner: int | None = None
        place = ENTITY_BYTES
        for names, value in _leaves(json.loads(text)[1]) if text else ():
            if value == _BYTES32:
                self.digests += (place,)
            elif names == _OWNER:
                self.owner = place
            place += _SIZES.get(value, 0)
        self.size = place


class Records:
    """All records with the number of the feed that each is of; 0 is of no number yet."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._shape_numbers = array("I")
        self._places = array("I")
        self._next = array("I")  # from an organization's row through its subscriptions'
        self._heap = bytearray()
        self._free: dict[int, list[int]] = {}  # places that nobody holds, by size
        self._shapes: list[_Shape] = []
        self._shape_ids: dict[str, int] = {}
        self._spare_shapes: list[int] = []
        self._entities = _Index()
        self._digests = _Index()

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, kind: str, entity_id: str) -> int | None:
        """The feed's number that the record of this entity is of; None when it is not known."""
        row = self._find(entity(kind, entity_id))
        return None if row is None else self._numbers[row] or None

    def get(self, kind: str, entity_id: str) -> Record | None:
        """The record of this entity; None when it is gone or not known."""
        row = self._find(entity(kind, entity_id))
        return None if row is None else self._read(row)

    def packed(self, kind: str, entity_id: str) -> tuple[int, Packed] | None:
        """Number and packed form of this entity's record, also when it is gone."""
        row = self._find(entity(kind, entity_id))
        return None if row is None else next(self.rows(row, row + 1), None)

    def key(self, digest: bytes) -> Record | None:
        """The record of the key that has or had this digest."""
        for row in self._digests.rows(digest):
            if digest in self._digests_of(row):
                return self._read(row)
        return None

    def subscriptions(self, organization_id: str) -> Iterator[Record]:
        """The records of all subscriptions of an organization."""
        row = self._find(entity("organization", organization_id))
        while row is not None and (row := self._next[row]) not in {0, _LAST}:
            record = self._read(row)
            if record is not None:
                yield record

    def put(self, number: int, packed: Packed) -> None:
        """Take a record in place of the one of the same entity, unless that is a newer one."""
        row = self._find(packed.blob[:ENTITY_BYTES])
        if row is None:
            row = self._new_row(packed)
        elif number < self._numbers[row]:
            return
        else:
            self._store(row, packed)
        self._numbers[row] = number
        shape = self._shape_of(row)
        if packed.blob[0] == _SUBSCRIPTION and shape.owner is not None and not self._next[row]:
            self._join(row, packed.blob[shape.owner : shape.owner + 16])
        for place in shape.digests:
            digest = packed.blob[place : place + 32]
            if row not in self._digests.rows(digest):
                self._digests.add(digest, row)

    def rows(self, start: int, end: int) -> Iterator[tuple[int, Packed]]:
        """Number and packed form of the rows from `start` to before `end`, those of what is gone
        as well. A row keeps its place for ever.
        """
        for row in range(start, min(end, len(self))):
            if self._numbers[row]:
                yield self._numbers[row], Packed(self._shape_of(row).text, self._blob(row))

    def _find(self, name: bytes) -> int | None:
        for row in self._entities.rows(name):
            start = self._places[row]
            if self._heap[start : start + ENTITY_BYTES] == name:
                return row
        return None

    def _new_row(self, packed: Packed) -> int:
        if not self._numbers:
            self._append(Packed(GONE, b""))  # row 0 is nobody's, so that 0 can be no row
        row = self._append(packed)
        self._entities.add(packed.blob[:ENTITY_BYTES], row)
        return row

    def _join(self, row: int, organization_id: bytes) -> None:
        """Let the organization's row lead to this one."""
        name = bytes((_ORGANIZATION,)) + organization_id
        owner = self._find(name)
        if owner is None:
            owner = self._new_row(Packed(GONE, name))
        self._next[row] = self._next[owner] or _LAST
        self._next[owner] = row

    def _append(self, packed: Packed) -> int:
        self._numbers.append(0)
        self._shape_numbers.append(self._shape(packed.shape))
        self._places.append(self._allot(packed.blob))
        self._next.append(0)
        return len(self._numbers) - 1

    def _store(self, row: int, packed: Packed) -> None:
        place, size = self._places[row], self._shape_of(row).size
        if size == len(packed.blob):
            self._heap[place : place + size] = packed.blob
        else:
            self._places[row] = self._allot(packed.blob)
            self._free.setdefault(size, []).append(place)
        old = self._shape_numbers[row]
        self._shape_numbers[row] = self._shape(packed.shape)
        self._release(old)

    def _allot(self, blob: bytes) -> int:
        """A place in the heap, with the blob in it."""
        free = self._free.get(len(blob))
        if not free:
            self._heap += blob
            return len(self._heap) - len(blob)
        place = free.pop()
        self._heap[place : place + len(blob)] = blob
        return place

    def _shape(self, text: str) -> int:
        """The number of a shape, used once more."""
        number = self._shape_ids.get(text)
        if number is None:
            shape = _Shape(text)
            if self._spare_shapes:
                number = self._spare_shapes.pop()
                self._shapes[number] = shape
            else:
                number = len(self._shapes)
                self._shapes.append(shape)
            self._shape_ids[text] = number
        self._shapes[number].uses += 1
        return number

    def _release(self, number: int) -> None:
        shape = self._shapes[number]
        shape.uses -= 1
        if not shape.uses:
            del self._shape_ids[shape.text]
            self._spare_shapes.append(number)

    def _shape_of(self, row: int) -> _Shape:
        return self._shapes[self._shape_numbers[row]]

    def _blob(self, row: int) -> bytes:
        place = self._places[row]
        return bytes(self._heap[place : place + self._shape_of(row).size])

    def _digests_of(self, row: int) -> list[bytes]:
        blob = self._blob(row)
        return [blob[place : place + 32] for place in self._shape_of(row).digests]

    def _read(self, row: int) -> Record | None:
        return unpack(Packed(self._shape_of(row).text, self._blob(row)))


_ORGANIZATION, _SUBSCRIPTION = KINDS.index("organization"), KINDS.index("subscription")
_LAST = 0xFFFFFFFF  # what the last row of a chain leads to; a row in no chain leads to 0


class _Index:
    """Names → rows, by open addressing; rows whose name only has the same hash come as well.

    A slot is 32 bits of the name's hash and the row. Parts grow by themselves, a quarter at a
    time, so that they are well filled and no growth takes long.
    """

    def __init__(self) -> None:
        self._parts = [array("Q", bytes(8 * 8)) for _ in range(_INDEX_PARTS)]
        self._used = array("I", bytes(4 * _INDEX_PARTS))

    def add(self, name: bytes, row: int) -> None:
        """`row` is found under `name` from now on."""
        mark, part = divmod(hash(name) & 0xFFFFFFFFFF, _INDEX_PARTS)
        slots = self._parts[part]
        if 4 * self._used[part] >= 3 * len(slots):
            larger = array("Q", bytes(8 * (len(slots) + len(slots) // 4)))
            for slot in slots:
                if slot:
                    _place(larger, slot)
            self._parts[part] = slots = larger
        self._used[part] += 1
        _place(slots, mark << 32 | row)

    def rows(self, name: bytes) -> Iterator[int]:
        """The rows that may be of this name."""
        mark, part = divmod(hash(name) & 0xFFFFFFFFFF, _INDEX_PARTS)
        slots = self._parts[part]
        position = mark % len(slots)
        while slot := slots[position]:
            if slot >> 32 == mark:
                yield slot & 0xFFFFFFFF
            position = (position + 1) % len(slots)


def _place(slots: "array[int]", slot: int) -> None:
    size = len(slots)
    position = (slot >> 32) % size
    while slots[position]:
        position += 1
        if position == size:
            position = 0
    slots[position] = slot


def entity(kind: str, entity_id: str) -> bytes:
    """The name of an entity in the packed form; raises ValueError when it can't be one."""
    return bytes((KINDS.index(kind),)) + UUID(entity_id).bytes


def pack(kind: str, entity_id: str, record: Record | None) -> Packed:
    """A record in its packed form; raises ValueError or TypeError when it can't be one."""
    name = entity(kind, entity_id)
    if record is None:
        return Packed(GONE, name)
    parts = [name]
    shape = _take_out({k: v for k, v in record.items() if k != "id"}, "", parts)
    return Packed(json.dumps(["id" in record, shape], separators=(",", ":")), b"".join(parts))


def unpack(packed: Packed) -> Record | None:
    """The record as it was; None when its entity is gone."""
    if packed.shape == GONE:
        return None
    has_id, shape = json.loads(packed.shape)
    record: Record = _put_back(shape, _Reader(packed.blob, ENTITY_BYTES))
    if has_id:
        record["id"] = entity_of(packed)[1]
    return record


def entity_of(packed: Packed) -> tuple[str, str]:
    """Kind and id of the entity that a packed record is of."""
    return KINDS[packed.blob[0]], str(UUID(bytes=packed.blob[1:ENTITY_BYTES]))


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no object and no list, with the names that lead to it, in order."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*place, name))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, (*place, ""))
    else:
        yield place, value


def _take_out(value: Any, name: str, parts: list[bytes]) -> Any:
    if isinstance(value, dict):
        return {inner: _take_out(item, inner, parts) for inner, item in value.items()}
    if isinstance(value, list):
        return [_take_out(item, "", parts) for item in value]
    if not isinstance(value, str):
        return value
    length = len(value)
    if length == 36 and name not in _SHARED and _UUID.fullmatch(value):
        parts.append(bytes.fromhex(value.replace("-", "")))
        return _ID
    if length == 64 and _HEX.fullmatch(value):
        parts.append(bytes.fromhex(value))
        return _BYTES32
    if length == 27 and _TIME.fullmatch(value):
        microseconds = (datetime.fromisoformat(value) - _EPOCH) // _MICROSECOND
        parts.append(_MICROSECONDS.pack(microseconds))
        return _INSTANT
    if value.startswith("\0"):
        raise ValueError("a record has no text that begins with a zero character")
    return value


class _Reader:
    __slots__ = ("_blob", "_place")

    def __init__(self, blob: bytes, place: int) -> None:
        self._blob = blob
        self._place = place

    def take(self, size: int) -> bytes:
        start, self._place = self._place, self._place + size
        return self._blob[start : self._place]


def _put_back(value: Any, reader: _Reader) -> Any:
    if isinstance(value, dict):
        return {name: _put_back(item, reader) for name, item in value.items()}
    if isinstance(value, list):
        return [_put_back(item, reader) for item in value]
    if value == _ID:
        return str(UUID(bytes=reader.take(16)))
    if value == _BYTES32:
        return reader.take(32).hex()
    if value == _INSTANT:
        [microseconds] = _MICROSECONDS.unpack(reader.take(8))
        instant = _EPOCH + timedelta(microseconds=microseconds)
        return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value
