# SPDX-License-Identifier: Apache-2.0
"""The journal: how a metered call lies on disk between the gateway and the drain.

A segment is a preallocated file: one header of HEADER_SIZE bytes, then slots of SLOT_SIZE bytes.
Slot n holds sequence `first_sequence + n`, so sequences have no holes. Numbers are little-endian.

    header   magic 8s · version u16 · slot size u16 · slots u32 · producer 16s · number u64
             · first sequence u64 · crc32 u32 of what stands before it · zeros
    slot     sequence u64 · state u8 · version u8 · payload length u16
             · crc32 u32 of the twelve bytes before it and the payload · payload · zeros
    payload  a UsageEvent: fixed part, then five texts with their lengths

A writer reserves a slot before it forwards a call (head only) and completes it before the
answer's last byte: first the payload, then the head. So a process killed in between leaves a
slot that still reads as reserved, and a reader beside a living writer never sees half a record.
A checksum that does not fit means a torn page or a flipped bit; such a slot is reported as
corrupt, never passed over, and its neighbours are read as usual.

Who produces what: one producer (a random UUID) per gateway process and start; sequences begin
at 1. The event id is derived from both, so reading a segment twice gives the same ids (U-02).
Source: spec 03 "The pipeline" step 10, spec 09 U-01 to U-06.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum, IntFlag
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from mmap import mmap
from typing import Literal, NamedTuple
from uuid import UUID, uuid5
from zlib import crc32

from nimbus.rules import latency
from nimbus.rules.money import EXACT

MAGIC = b"NIMBJRNL"
VERSION = 2
HEADER_SIZE = 4096
SLOT_SIZE = 512
SLOTS_PER_SEGMENT = 16_384  # 8 MiB a segment
SEGMENT_SUFFIX = ".journal"
LOCK_NAME = "lock"  # in the producer's folder; its living gateway holds an exclusive flock on it
MAX_USAGE_TEXT = 200  # bytes of an X-Nimbus-Usage answer header that are recorded
MAX_HOLDS_TEXT = 60  # bytes of what a call holds on reported meters, written `key=units,key=units`
MAX_METHOD, MAX_CODE, MAX_REQUEST_ID = 8, 32, 40

_HEADER = struct.Struct("<8sHHI16sQQ")
_SLOT = struct.Struct("<QBBH")
_CRC = struct.Struct("<I")
_SLOT_HEAD = struct.Struct("<QBBHI")  # of a slot, with its checksum
SLOT_HEAD_SIZE = _SLOT.size + _CRC.size
# occurred_at µs · six ids · status · flags · duration · upstream · in · out · units · leased
# · held money · ip
_FIXED = struct.Struct("<q16s16s16s16s16s16sHHQQQQQQQ16s")
CALL = struct.Struct("<q96sHHQQQQQQQ16sBBBBB")  # with the lengths of the texts, see `encode_call`
_TEXTS = struct.Struct("<BBBBB")  # lengths of method, refusal, request id, meters, holds
LIVE, BILLABLE, IPV6, CONTINUED = 1, 2, 4, 128  # flags of a call
_HELD_SHIFT, _HELD_ALL = 3, 15  # these flags are those of `Held`
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_METER = re.compile(rb"([a-z][a-z0-9_]{0,62})=([0-9]{1,15}(?:\.[0-9]{1,12})?)")
NIL = UUID(int=0)
CALLS = "api_calls"  # the meter of calls, which every product has; no upstream can report it

Environment = Literal["Live", "Test"]


class CorruptSegmentError(ValueError):
    """The header of a segment cannot be trusted; nothing in the file can be read."""


class SlotState(IntEnum):
    """What a slot says. CORRUPT is never written: it is what a failed checksum reads as."""

    EMPTY = 0
    RESERVED = 1
    COMPLETED = 2
    CORRUPT = 255


_RESERVED, _COMPLETED = int(SlotState.RESERVED), int(SlotState.COMPLETED)


class Held(IntFlag):
    """What, beside the subscription's quota, a call holds something on until it is stored: money on
    the spend limit of the organization, that of the key, the prepaid balance; its units on the
    quota of the key.
    """

    NOTHING = 0
    ORGANIZATION_SPEND = 1
    KEY_SPEND = 2
    BALANCE = 4
    KEY_QUOTA = 8


_HELD = tuple(Held(value) for value in range(_HELD_ALL + 1))


def held_flags(held: Held) -> int:
    """What a call holds something on, as flags of `encode_call`."""
    return held << _HELD_SHIFT


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """One call as the gateway saw it. Units only; never a price.

    `refusal` is the code of spec 08 in a refused record (log only, never a usage event) and ""
    in a served one. Ids are NIL where a refused record does not know them. `occurred_at` is
    business time in UTC to the microsecond. `units` is the route's weight when `billable`, else
    0; `leased` of them were taken from the leases on the subscription's quota standings (0 when
    there was no lease to take from). `meters` are the quantities the upstream reported.

    A long stream is written down in parts: the first is the call, with its units; those that are
    `continued` carry what came after it, and count as no call.

    A call whose price is known only once it is rated holds what it can cost at most:
    `held_micro`, in millionths of a minor unit, on each of the money counters that `held_on`
    names; `holds` are the whole units it holds of meters that only the answer tells. Whoever
    stores the event gives exactly that back. All are empty when the gateway has given them back
    itself, as it does for a call that is not billed.
    """

    event_id: UUID
    occurred_at: datetime
    organization_id: UUID
    provider_organization_id: UUID
    key_id: UUID
    subscription_id: UUID
    product_id: UUID
    route_id: UUID
    environment: Environment
    method: str
    status: int
    refusal: str
    duration_us: int
    upstream_us: int
    bytes_in: int
    bytes_out: int
    units: int
    leased: int
    billable: bool
    ip: IPv4Address | IPv6Address
    request_id: str
    meters: tuple[tuple[str, Decimal], ...]
    held_micro: int = 0
    held_on: Held = Held.NOTHING
    holds: tuple[tuple[str, int], ...] = ()
    continued: bool = False


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Which producer wrote a segment and which sequences it holds."""

    producer: UUID
    number: int
    first_sequence: int
    slots: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return HEADER_SIZE + self.slots * SLOT_SIZE

    @property
    def last_sequence(self) -> int:
        """The sequence of the last slot, whether used yet or not."""
        return self.first_sequence + self.slots - 1


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot as read: `record` is there exactly when `state` is COMPLETED."""

    sequence: int
    state: SlotState
    record: UsageEvent | None


def event_id(producer: UUID, sequence: int) -> UUID:
    """The id of the event in this slot: the same whenever it is asked for, unique per slot."""
    return uuid5(producer, str(sequence))


def segment_name(number: int) -> str:
    """The file name of a producer's segment; names sort as numbers do."""
    return f"{number:012d}{SEGMENT_SUFFIX}"


def encode_header(header: SegmentHeader) -> bytes:
    """The first HEADER_SIZE bytes of a segment."""
    fixed = _HEADER.pack(
        MAGIC,
        VERSION,
        SLOT_SIZE,
        header.slots,
        header.producer.bytes,
        header.number,
        header.first_sequence,
    )
    return (fixed + _CRC.pack(crc32(fixed))).ljust(HEADER_SIZE, b"\0")


def decode_header(data: bytes | memoryview) -> SegmentHeader:
    """Read a segment's header; raises CorruptSegmentError when it is not one of ours, is cut
    short or has a wrong checksum.
    """
    fixed = bytes(data[: _HEADER.size])
    check = bytes(data[_HEADER.size : _HEADER.size + _CRC.size])
    if len(check) < _CRC.size or _CRC.pack(crc32(fixed)) != check:
        raise CorruptSegmentError("the segment's header fails its checksum")
    magic, version, slot_size, slots, producer, number, first = _HEADER.unpack(fixed)
    if magic != MAGIC or version != VERSION or slot_size != SLOT_SIZE:
        raise CorruptSegmentError("the segment has another format")
    return SegmentHeader(UUID(bytes=producer), number, first, slots)


def slot_offset(header: SegmentHeader, sequence: int) -> int:
    """Where in the file the slot of `sequence` begins."""
    return HEADER_SIZE + (sequence - header.first_sequence) * SLOT_SIZE


def write_reserved(memory: bytearray | mmap, offset: int, sequence: int) -> None:
    """Write the slot at `offset` that a call in flight holds."""
    check = crc32(_SLOT.pack(sequence, _RESERVED, VERSION, 0))
    _SLOT_HEAD.pack_into(memory, offset, sequence, _RESERVED, VERSION, 0, check)


def write_completed(memory: bytearray | mmap, offset: int, sequence: int, payload: bytes) -> None:
    """Write the slot at `offset` of a finished call: the head that vouches for it last."""
    length = len(payload)
    start = offset + SLOT_HEAD_SIZE
    memory[start : start + length] = payload
    check = crc32(payload, crc32(_SLOT.pack(sequence, _COMPLETED, VERSION, length)))
    _SLOT_HEAD.pack_into(memory, offset, sequence, _COMPLETED, VERSION, length, check)


def encode_record(record: UsageEvent) -> bytes:
    """The payload of a finished call; raises ValueError when its texts don't fit a slot."""
    flags = (
        (LIVE if record.environment == "Live" else 0)
        | (BILLABLE if record.billable else 0)
        | (IPV6 if record.ip.version == 6 else 0)
        | (CONTINUED if record.continued else 0)
        | record.held_on << _HELD_SHIFT
    )
    return encode_call(
        (record.occurred_at - _EPOCH) // _MICROSECOND,
        record_ids(
            record.organization_id,
            record.provider_organization_id,
            record.key_id,
            record.subscription_id,
            record.product_id,
            record.route_id,
        ),
        record.status,
        flags,
        record.duration_us,
        record.upstream_us,
        record.bytes_in,
        record.bytes_out,
        record.units,
        record.leased,
        record.held_micro,
        record.ip.packed,
        record.method.encode("ascii")[:MAX_METHOD],
        record.refusal.encode("ascii")[:MAX_CODE],
        record.request_id.encode("ascii")[:MAX_REQUEST_ID],
        meters_text(record.meters),
        holds_text(record.holds),
    )


def record_ids(*ids: UUID) -> bytes:
    """Organization, provider, key, subscription, product and route, as a slot has their ids."""
    return b"".join([each.bytes for each in ids])


def encode_call(  # noqa: PLR0917 - names cost time here, and the order is that of the slot
    occurred_us: int,
    ids: bytes,
    status: int,
    flags: int,
    duration_us: int,
    upstream_us: int,
    bytes_in: int,
    bytes_out: int,
    units: int,
    leased: int,
    held_micro: int,
    ip: bytes,
    method: bytes,
    refusal: bytes,
    request_id: bytes,
    meters: bytes = b"",
    holds: bytes = b"",
) -> bytes:
    """The payload of a finished call from its parts, for a writer that keeps them ready.

    `occurred_us` microseconds since 1970, `ids` of `record_ids`, `flags` of LIVE, BILLABLE,
    IPV6 and CONTINUED; `upstream_us` is the upstream's part of the duration, `leased` that of the
    units, `ip` 4 or 16 bytes.
    Raises ValueError when the texts don't fit a slot.
    """
    if (meters or holds or refusal) and (
        len(meters) > MAX_USAGE_TEXT or len(refusal) + len(holds) > MAX_HOLDS_TEXT
    ):
        raise ValueError("the reported usage does not fit a slot")
    fixed = CALL.pack(
        occurred_us,
        ids,
        status,
        flags,
        duration_us,
        upstream_us,
        bytes_in,
        bytes_out,
        units,
        leased,
        held_micro,
        ip,
        len(method),
        len(refusal),
        len(request_id),
        len(meters),
        len(holds),
    )
    return b"".join((fixed, method, refusal, request_id, meters, holds))


def decode_slot(data: bytes | memoryview, sequence: int, producer: UUID) -> Slot:
    """Read the SLOT_SIZE bytes of a slot that must hold `sequence`."""
    fixed = bytes(data[: _SLOT.size])
    if not any(fixed):
        return Slot(sequence, SlotState.EMPTY, None)
    corrupt = Slot(sequence, SlotState.CORRUPT, None)
    if len(data) < SLOT_SIZE:
        return corrupt
    found, state, version, length = _SLOT.unpack(fixed)
    payload = bytes(data[SLOT_HEAD_SIZE : SLOT_HEAD_SIZE + length])
    check = bytes(data[_SLOT.size : SLOT_HEAD_SIZE])
    if _CRC.pack(crc32(payload, crc32(fixed))) != check:
        return corrupt
    if found != sequence or version != VERSION or length > SLOT_SIZE - SLOT_HEAD_SIZE:
        return corrupt
    if state == SlotState.RESERVED:
        return Slot(sequence, SlotState.RESERVED, None)
    if state != SlotState.COMPLETED:
        return corrupt
    return Slot(sequence, SlotState.COMPLETED, _decode_record(payload, producer, sequence))


def read_segment(data: bytes | memoryview, after: int = 0) -> tuple[SegmentHeader, Iterator[Slot]]:
    """The header of a segment and its slots in order, from the first sequence above `after`.

    Every slot of the file is given, empty ones too: beside a living writer stop at the first one
    that is EMPTY or RESERVED and come back; of a dead one read to the end, where an EMPTY slot
    before a used one is a page the disk lost. A file cut short gives its missing slots as
    CORRUPT. Raises CorruptSegmentError when the header cannot be trusted.
    """
    header = decode_header(data)
    return header, _slots(memoryview(data), header, max(after + 1, header.first_sequence))


def _slots(data: memoryview, header: SegmentHeader, first: int) -> Iterator[Slot]:
    for sequence in range(first, header.last_sequence + 1):
        offset = slot_offset(header, sequence)
        piece = data[offset : offset + SLOT_SIZE]
        if len(piece) < SLOT_SIZE:
            yield Slot(sequence, SlotState.CORRUPT, None)
        else:
            yield decode_slot(piece, sequence, header.producer)


def parse_meters(text: bytes) -> tuple[tuple[str, Decimal], ...] | None:
    """Read an X-Nimbus-Usage value such as `reports=1, tokens=532`.

    Quantities are not negative, at most 15 digits and 12 decimals; a meter is named once. None
    when the text breaks a rule or is longer than MAX_USAGE_TEXT. Source: spec 11 §9.
    """
    if len(text) > MAX_USAGE_TEXT:
        return None
    meters: dict[str, Decimal] = {}
    for part in text.split(b","):
        match = _METER.fullmatch(part.strip(b" \t"))
        if match is None or match[1].decode() in meters:
            return None
        meters[match[1].decode()] = Decimal(match[2].decode())
    return tuple(meters.items())


def meters_text(meters: Iterable[tuple[str, Decimal]]) -> bytes:
    """Reported quantities as a slot keeps them: (("tokens", 532),) → b"tokens=532"."""
    return ",".join(f"{key}={value:f}" for key, value in meters).encode("ascii")


def holds_text(holds: Iterable[tuple[str, int]]) -> bytes:
    """Holds on reported meters as a slot keeps them: (("tokens", 4000),) → b"tokens=4000". A
    route may declare what makes at most MAX_HOLDS_TEXT bytes of it.
    """
    return ",".join(f"{key}={units}" for key, units in holds).encode("ascii")


class CellKey(NamedTuple):
    """Which cell of the hourly roll-up: one meter of one kind of call. `hour` is in UTC."""

    organization_id: UUID
    provider_organization_id: UUID
    subscription_id: UUID
    product_id: UUID
    key_id: UUID
    route_id: UUID
    status_class: int
    environment: Environment
    hour: datetime
    meter_key: str


@dataclass(frozen=True, slots=True)
class Cell:
    """Quantities of one meter added up: how many events, their sum, the largest, the latest.

    Of events at the same instant the one with the greater id is the later. The size of the calls
    stands in the cells of `api_calls` only, and how many of them took how long (`rules.latency`).
    `special` is the value of a `unique` or `time_weighted` meter, which only a whole period has.
    """

    events: int
    total: Decimal
    peak: Decimal
    last: Decimal
    last_at: datetime
    last_event_id: UUID
    duration_us: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    special: Decimal | None = None


def is_counted(event: UsageEvent) -> bool:
    """Whether an event counts into quota and bill: served, billable, and not a test."""
    return event.billable and event.environment == "Live" and not event.refusal


def quantities(event: UsageEvent) -> tuple[tuple[str, Decimal], ...]:
    """What an event adds to which meters.

    A call of weight 2 that reported `assets=10` → (("api_calls", 2), ("assets", 10)); the same
    call answered with 502, or with a test key → (("api_calls", 0),): a call that costs nothing.
    """
    if not is_counted(event):
        return ((CALLS, Decimal(0)),)
    reported = tuple((key, value) for key, value in event.meters if key != CALLS)
    return ((CALLS, Decimal(event.units)), *reported)


def roll_up(events: Iterable[UsageEvent]) -> dict[CellKey, Cell]:
    """The cells that these served events make; `merge` joins cells of one key. The same whatever
    the order of the events and however they come in batches.
    """
    cells: dict[CellKey, Cell] = {}
    for event in events:
        hour = event.occurred_at.replace(minute=0, second=0, microsecond=0)
        for meter_key, quantity in quantities(event):
            key = CellKey(
                event.organization_id,
                event.provider_organization_id,
                event.subscription_id,
                event.product_id,
                event.key_id,
                event.route_id,
                event.status // 100,
                event.environment,
                hour,
                meter_key,
            )
            one = _cell(event, meter_key, quantity)
            known = cells.get(key)
            cells[key] = one if known is None else merge(known, one)
    return cells


def merge(one: Cell, other: Cell) -> Cell:
    """Two cells of one key as one, whichever comes first; a period's `special` value stays."""
    later = max(one, other, key=lambda cell: (cell.last_at, cell.last_event_id))
    return Cell(
        events=one.events + other.events,
        total=EXACT.add(one.total, other.total),
        peak=max(one.peak, other.peak),
        last=later.last,
        last_at=later.last_at,
        last_event_id=later.last_event_id,
        duration_us=one.duration_us + other.duration_us,
        bytes_in=one.bytes_in + other.bytes_in,
        bytes_out=one.bytes_out + other.bytes_out,
        latency={
            index: one.latency.get(index, 0) + other.latency.get(index, 0)
            for index in one.latency.keys() | other.latency.keys()
        },
        special=one.special if other.special is None else other.special,
    )


def aggregate(meter_key: str, aggregation: str, cell: Cell) -> Decimal:
    """A meter's quantity over a period, from all its cells merged.

    Calls are counted by the weight of their routes: `count` of `api_calls` is the sum of their
    units, of any other meter the number of events that reported it.
    """
    if aggregation == "sum" or meter_key == CALLS:
        return cell.total
    if aggregation == "count":
        return Decimal(cell.events)
    if aggregation == "max":
        return cell.peak
    if aggregation == "last":
        return cell.last
    return cell.special or Decimal(0)


def _cell(event: UsageEvent, meter_key: str, quantity: Decimal) -> Cell:
    size = meter_key == CALLS
    return Cell(
        events=0 if event.continued else 1,
        total=quantity,
        peak=quantity,
        last=quantity,
        last_at=event.occurred_at,
        last_event_id=event.event_id,
        duration_us=event.duration_us if size else 0,
        bytes_in=event.bytes_in if size else 0,
        bytes_out=event.bytes_out if size else 0,
        latency={latency.bucket(event.duration_us): 1} if size and not event.continued else {},
    )


@lru_cache(maxsize=16_384)
def _known_id(data: bytes) -> UUID:
    """The same few ids stand in many slots: one object each, quick to compare."""
    return UUID(bytes=data)


def _decode_record(payload: bytes, producer: UUID, sequence: int) -> UsageEvent:
    fields = _FIXED.unpack_from(payload)
    flags, packed_ip = fields[8], fields[16]
    texts: list[bytes] = []
    position = _FIXED.size + _TEXTS.size
    for length in _TEXTS.unpack_from(payload, _FIXED.size):
        texts.append(payload[position : position + length])
        position += length
    return UsageEvent(
        event_id=event_id(producer, sequence),
        occurred_at=_EPOCH + fields[0] * _MICROSECOND,
        organization_id=_known_id(fields[1]),
        provider_organization_id=_known_id(fields[2]),
        key_id=_known_id(fields[3]),
        subscription_id=_known_id(fields[4]),
        product_id=_known_id(fields[5]),
        route_id=_known_id(fields[6]),
        environment="Live" if flags & LIVE else "Test",
        method=texts[0].decode("ascii"),
        status=fields[7],
        refusal=texts[1].decode("ascii"),
        duration_us=fields[9],
        upstream_us=fields[10],
        bytes_in=fields[11],
        bytes_out=fields[12],
        units=fields[13],
        leased=fields[14],
        billable=bool(flags & BILLABLE),
        ip=ip_address(packed_ip if flags & IPV6 else packed_ip[:4]),
        request_id=texts[2].decode("ascii"),
        meters=(parse_meters(texts[3]) or ()) if texts[3] else (),
        held_micro=fields[15],
        held_on=_HELD[flags >> _HELD_SHIFT & _HELD_ALL],
        holds=parse_holds(texts[4]),
        continued=bool(flags & CONTINUED),
    )


def parse_holds(text: bytes) -> tuple[tuple[str, int], ...]:
    """Holds on reported meters from a slot's text: b"tokens=4000" → (("tokens", 4000),)."""
    pairs = (part.partition("=") for part in text.decode("ascii").split(",") if part)
    return tuple((key, int(units)) for key, _, units in pairs)
