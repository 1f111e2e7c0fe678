# SPDX-License-Identifier: Apache-2.0
"""Many slots of a journal at once, in arrays: what `rules.metering` says of one slot, for a block.

`metering.decode_slot` and `tallies.tally` are the law; this is the quick way to the same, and the
tests hold the two together on whole, torn and mixed segments. What the arrays can't hold (a number
beyond 2^40, a text that is no ASCII) is decoded slot by slot. Only the drain reads blocks: the
gateway does without numpy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from hashlib import sha1
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from nimbus.rules import latency
from nimbus.rules.metering import (
    BILLABLE,
    CALLS,
    CONTINUED,
    LIVE,
    MAX_CODE,
    SLOT_SIZE,
    VERSION,
    Cell,
    Held,
    SlotState,
    UsageEvent,
    decode_slot,
    parse_holds,
    parse_meters,
)
from nimbus.rules.money import EXACT
from nimbus.rules.tallies import Kind, Tally, held_by, tally_of

Array = NDArray[Any]

SLOT = np.dtype(
    {
        "names": [
            "sequence", "state", "version", "length", "check", "occurred_us", "ids", "status",
            "flags", "duration_us", "upstream_us", "bytes_in", "bytes_out", "units", "leased",
            "held_micro", "ip", "lengths", "texts",
        ],
        "formats": [
            "<u8", "u1", "u1", "<u2", "<u4", "<i8", ("V16", 6), "<u2",
            "<u2", "<u8", "<u8", "<u8", "<u8", "<u8", "<u8",
            "<u8", "V16", ("u1", 5), ("u1", 311),
        ],
        "offsets": [
            0, 8, 9, 10, 12, 16, 24, 120,
            122, 124, 132, 140, 148, 156, 164,
            172, 180, 196, 201,
        ],
        "itemsize": SLOT_SIZE,
    }
)  # fmt: skip
IDS = ("organization_id", "provider_organization_id", "key_id", "subscription_id", "product_id",
       "route_id")  # fmt: skip
"""What stands in `ids`, in this order."""
TEXTS_AT = 201  # where in a slot the texts begin
METHOD, REFUSAL, REQUEST, METERS, HOLDS = range(5)  # of `lengths`

_HEAD, _PAYLOAD_AT, _PAYLOAD_MAX = 12, 16, SLOT_SIZE - 16
_LARGE = 2**40
_HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HELD_SHIFT = 3
_HELD = 15 << _HELD_SHIFT
_MIX = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, 14)], np.uint64)


@dataclass(frozen=True)
class Block:
    """Slots of one producer, one behind the other from sequence `first` on, and their states."""

    producer: UUID
    first: int
    slots: Array
    states: NDArray[np.uint8]

    @property
    def last(self) -> int:
        """The sequence of the last slot."""
        return self.first + len(self.states) - 1

    def sequences(self, state: SlotState) -> list[int]:
        """Which slots are in this state."""
        return [int(place) + self.first for place in np.flatnonzero(self.states == state)]

    def head(self, count: int) -> "Block":
        """The first `count` slots."""
        if count == len(self.states):
            return self
        return Block(self.producer, self.first, self.slots[:count], self.states[:count])


@dataclass(frozen=True)
class Calls:
    """Completed slots that arrays can hold."""

    producer: UUID
    slots: Array

    def __len__(self) -> int:
        return len(self.slots)

    def where(self, mask: NDArray[np.bool_]) -> "Calls":
        """Those of the calls for which the mask is true."""
        return self if mask.all() else Calls(self.producer, self.slots[mask])

    @cached_property
    def event_ids(self) -> NDArray[np.uint8]:
        """`metering.event_id` of each call: a uuid5, with its version and variant."""
        name, sequences = self.producer.bytes, self.slots["sequence"].tolist()
        digests = b"".join([sha1(name + b"%d" % one).digest()[:16] for one in sequences])  # noqa: S324 - the id's definition
        ids = np.frombuffer(digests, np.uint8).reshape(-1, 16).copy()
        ids[:, 6] = ids[:, 6] & 0x0F | 0x50
        ids[:, 8] = ids[:, 8] & 0x3F | 0x80
        return ids

    @cached_property
    def octets(self) -> NDArray[np.uint8]:
        """The slots' bytes, a row each."""
        return np.ascontiguousarray(self.slots).view(np.uint8).reshape(-1, SLOT_SIZE)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The lengths of the texts, a row for each call."""
        return self.slots["lengths"].astype(np.int64)

    @property
    def refused(self) -> NDArray[np.bool_]:
        """Which of the calls were refused."""
        return self.lengths[:, REFUSAL] > 0

    def text(self, place: int, which: int) -> bytes:
        """One text of one call."""
        lengths = self.lengths[place]
        start = TEXTS_AT + int(lengths[:which].sum())
        return self.octets[place, start : start + int(lengths[which])].tobytes()

    def event(self, place: int) -> UsageEvent:
        """One call as the law decodes it."""
        sequence = int(self.slots["sequence"][place])
        event = decode_slot(self.octets[place].tobytes(), sequence, self.producer).record
        assert event is not None, "only completed slots are calls"
        return event


def read_block(data: bytes, first: int, last: int, producer: UUID) -> Block:
    """The slots `first` to `last` from their bytes; what the bytes lack is corrupt."""
    count = last - first + 1
    whole = min(len(data) // SLOT_SIZE, count)
    padded = data
    if len(data) != count * SLOT_SIZE:
        padded = data[: whole * SLOT_SIZE] + bytes((count - whole) * SLOT_SIZE)
    slots = np.frombuffer(padded, SLOT)
    octets = np.frombuffer(padded, np.uint8).reshape(count, SLOT_SIZE)
    state, length = slots["state"], slots["length"]
    sound = (length <= _PAYLOAD_MAX) & (slots["version"] == VERSION)
    sound &= slots["sequence"] == np.arange(first, last + 1, dtype=np.uint64)
    sound &= (state == SlotState.RESERVED) | (state == SlotState.COMPLETED)
    for length_of_some in np.unique(length[sound]):
        some = np.flatnonzero(sound & (length == length_of_some))
        sound[some] = _checks(octets, some, int(length_of_some)) == slots["check"][some]
    states = np.where(sound, state, np.uint8(SlotState.CORRUPT))
    states[~octets[:, :_HEAD].any(axis=1)] = SlotState.EMPTY
    states[whole:] = SlotState.CORRUPT
    return Block(producer, first, slots, states)


def calls_of(block: Block, wanted: NDArray[np.bool_]) -> tuple[Calls, list[tuple[int, UsageEvent]]]:
    """The completed slots of a block, as far as they are `wanted`: in arrays, and those that arrays
    can't hold by their sequences.
    """
    completed = wanted & (block.states == SlotState.COMPLETED)
    slots = block.slots if completed.all() else block.slots[completed]
    numbers = ("duration_us", "upstream_us", "bytes_in", "bytes_out", "units", "leased")
    odd = (slots["occurred_us"] < 0) | (slots["occurred_us"] >= _LARGE << 12)
    for name in (*numbers, "held_micro"):
        odd |= slots[name] >= _LARGE
    texts = slots["lengths"].sum(axis=1, dtype=int)
    odd |= TEXTS_AT - _PAYLOAD_AT + texts != slots["length"]
    odd |= (slots["texts"][:, : texts.max(initial=0)] >= 0x80).any(axis=1)
    plain = slots[~odd] if odd.any() else slots
    calls, rest = Calls(block.producer, plain), Calls(block.producer, slots[odd])
    return calls, [(int(rest.slots["sequence"][at]), rest.event(at)) for at in range(len(rest))]


def tally_calls(calls: Calls) -> list[Tally]:
    """`tallies.tally` of served calls in arrays: one tally for each kind, counted or not."""
    if not len(calls):
        return []
    slots = calls.slots
    words = np.empty((len(slots), 13), np.uint64)
    words[:, :12] = _words(slots["ids"])
    kept = slots["flags"] & (LIVE | BILLABLE | _HELD)
    hour = slots["occurred_us"] // _HOUR_US
    words[:, 12] = hour << 24 | (slots["status"] // 100).astype(np.int64) << 16 | kept
    return list(_tallies(calls, *_groups(words)))


class Answered(NamedTuple):
    """Which calls Prometheus tells apart."""

    route_id: UUID
    subscription_id: UUID
    environment: str
    status_class: int
    refusal: str


def kinds(calls: Calls) -> Iterator[tuple[Answered, Calls]]:
    """These calls by route, subscription, environment, first digit of the status and refusal."""
    if not len(calls):
        return
    slots = calls.slots
    words = np.zeros((len(slots), 9), np.uint64)
    for column, name in ((0, "route_id"), (2, "subscription_id")):
        words[:, column : column + 2] = _words(slots["ids"][:, IDS.index(name)])
    words[:, 4] = (slots["status"] // 100).astype(np.uint64) << 8 | slots["flags"] & LIVE
    for place in np.flatnonzero(calls.refused).tolist():
        code = calls.text(place, REFUSAL).ljust(MAX_CODE, b"\0")
        words[place, 5:] = np.frombuffer(code, np.uint64)
    order, starts = _groups(words)
    ends = [*starts[1:].tolist(), len(order)]
    for start, end in zip(starts.tolist(), ends, strict=True):
        place = int(order[start])
        one = slots[place]
        kind = Answered(
            UUID(bytes=one["ids"][IDS.index("route_id")].tobytes()),
            UUID(bytes=one["ids"][IDS.index("subscription_id")].tobytes()),
            "Live" if one["flags"] & LIVE else "Test",
            int(one["status"]) // 100,
            calls.text(place, REFUSAL).decode(),
        )
        yield kind, Calls(calls.producer, slots[order[start:end]])


def last_used(calls: Calls) -> dict[UUID, datetime]:
    """When each key made its last of these calls."""
    if not len(calls):
        return {}
    keys = np.ascontiguousarray(calls.slots["ids"][:, IDS.index("key_id")])
    order, starts = _groups(_words(keys))
    last = np.maximum.reduceat(calls.slots["occurred_us"][order], starts).tolist()
    return {
        UUID(bytes=keys[place].tobytes()): _instant(us)
        for place, us in zip(order[starts], last, strict=True)
    }


def _checks(octets: NDArray[np.uint8], some: Array, length: int) -> NDArray[np.uint32]:
    """The checksums of slots whose payloads are equally long."""
    covered = np.empty((len(some), _HEAD + length), np.uint8)
    covered[:, :_HEAD] = octets[some, :_HEAD]
    covered[:, _HEAD:] = octets[some, _PAYLOAD_AT : _PAYLOAD_AT + length]
    rows = covered.view(f"V{_HEAD + length}").ravel().tolist()
    return np.fromiter(map(crc32, rows), np.uint32, len(rows))


def _words(ids: Array) -> NDArray[np.uint64]:
    """Ids as numbers, a row for each call."""
    return np.ascontiguousarray(ids).view(np.uint64).reshape(len(ids), -1)


def _groups(words: NDArray[np.uint64]) -> tuple[Array, Array]:
    """An order in which equal rows stand together, and where in it each group begins."""
    marks = (words * _MIX[: words.shape[1]]).sum(axis=1, dtype=np.uint64)
    order = np.argsort(marks, kind="stable")
    changes = (words[order][1:] != words[order][:-1]).any(axis=1)
    if (changes != (marks[order][1:] != marks[order][:-1])).any():  # different rows, one mark
        order = np.lexsort(words.T)
        changes = (words[order][1:] != words[order][:-1]).any(axis=1)
    return order, np.flatnonzero(np.append(True, changes))


def _tallies(calls: Calls, order: Array, starts: Array) -> Iterator[Tally]:
    slots = calls.slots
    flags = slots["flags"][order]
    counted = flags & (LIVE | BILLABLE) == (LIVE | BILLABLE)
    is_call = flags & CONTINUED == 0
    units = np.where(counted, slots["units"][order], 0).astype(np.int64)
    at = slots["occurred_us"][order].astype(np.int64)
    duration = slots["duration_us"][order].astype(np.int64)
    sums = {
        name: np.add.reduceat(slots[name][order].astype(np.int64), starts).tolist()
        for name in ("bytes_in", "bytes_out", "leased", "held_micro")
    }
    durations = np.add.reduceat(duration, starts).tolist()
    events = np.add.reduceat(is_call.astype(np.int64), starts).tolist()
    totals = np.add.reduceat(units, starts).tolist()
    peaks = np.maximum.reduceat(units, starts).tolist()
    firsts, lasts = np.minimum.reduceat(at, starts), np.maximum.reduceat(at, starts)
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(slots))))
    latest = _latest(calls, order, group, at == lasts[group])
    histograms = _histograms(group[is_call], duration[is_call], len(starts))
    reported = _reported(calls, order, group, counted)
    holds = _holds(calls, order, group)
    ends = [*starts[1:].tolist(), len(slots)]
    for number, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        one = slots[order[start]]
        last = latest[number]
        cell = Cell(
            events=events[number],
            total=Decimal(totals[number]),
            peak=Decimal(peaks[number]),
            last=Decimal(int(units[last])),
            last_at=_instant(lasts[number]),
            last_event_id=UUID(bytes=calls.event_ids[order[last]].tobytes()),
            duration_us=durations[number],
            bytes_in=sums["bytes_in"][number],
            bytes_out=sums["bytes_out"][number],
            latency=histograms[number],
        )
        held = sums["held_micro"][number]
        yield Tally(
            kind=_kind(one),
            counted=bool(counted[start]),
            first_at=_instant(firsts[number]),
            last_at=cell.last_at,
            cells={CALLS: cell, **reported.get(number, {})},
            apart=_Some(calls, order[start:end]),
            leased=sums["leased"][number],
            holds=holds.get(number, {}),
            held=_held(int(one["flags"]), held, totals[number]),
        )


@dataclass(frozen=True, slots=True)
class _Some:
    """A tally for each of some calls, which are decoded when they are asked for."""

    calls: Calls
    places: Array

    def __call__(self) -> Sequence[Tally]:
        return [tally_of([self.calls.event(place)]) for place in sorted(self.places.tolist())]


def _latest(calls: Calls, order: Array, group: Array, last: NDArray[np.bool_]) -> list[int]:
    """Where in the order the latest call of each group is; at one instant the greater id is."""
    found: dict[int, int] = {}
    for place in np.flatnonzero(last).tolist():
        number = int(group[place])
        known = found.get(number)
        if known is None or _id(calls, order, place) > _id(calls, order, known):
            found[number] = place
    return [found[number] for number in range(len(found))]


def _id(calls: Calls, order: Array, place: int) -> bytes:
    return bytes(calls.event_ids[order[place]])


def _histograms(group: Array, duration_us: Array, count: int) -> list[dict[int, int]]:
    """How many calls of each group took how long: `latency.bucket` of arrays."""
    time = np.clip(duration_us, 1, 2**latency.OCTAVES - 1).astype(np.int64)
    octave = np.frexp(time.astype(np.float64))[1].astype(np.int64) - 1
    bucket = latency.PER_OCTAVE * (octave - 1) + (latency.PER_OCTAVE * time >> octave)
    pairs, counts = np.unique(group << 10 | bucket, return_counts=True)
    found: list[dict[int, int]] = [{} for _ in range(count)]
    for pair, calls in zip(pairs.tolist(), counts.tolist(), strict=True):
        found[pair >> 10][pair & 1023] = calls
    return found


def _reported(
    calls: Calls, order: Array, group: Array, counted: NDArray[np.bool_]
) -> dict[int, dict[str, Cell]]:
    """The cells of what upstreams reported, by group and meter."""
    found: dict[int, dict[str, Cell]] = {}
    told = np.flatnonzero(counted & (calls.lengths[order, METERS] > 0))
    for place in told.tolist():
        at = int(order[place])
        instant = _instant(calls.slots["occurred_us"][at])
        mark = UUID(bytes=calls.event_ids[at].tobytes())
        events = 0 if calls.slots["flags"][at] & CONTINUED else 1
        cells = found.setdefault(int(group[place]), {})
        for meter_key, quantity in known_meters(calls.text(at, METERS)):
            if meter_key == CALLS:
                continue
            known = cells.get(meter_key)
            if known is None:
                cells[meter_key] = Cell(events, quantity, quantity, quantity, instant, mark)
                continue
            later = (instant, mark) > (known.last_at, known.last_event_id)
            cells[meter_key] = Cell(
                events=known.events + events,
                total=EXACT.add(known.total, quantity),
                peak=max(known.peak, quantity),
                last=quantity if later else known.last,
                last_at=instant if later else known.last_at,
                last_event_id=mark if later else known.last_event_id,
            )
    return found


def _held(flags: int, micro: int, units: int) -> dict[Held, int]:
    if not flags & _HELD and not micro:
        return {}
    return held_by(Held(flags >> _HELD_SHIFT & 15), micro, units)


def _holds(calls: Calls, order: Array, group: Array) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for place in np.flatnonzero(calls.lengths[order, HOLDS] > 0).tolist():
        holds = found.setdefault(int(group[place]), {})
        for meter_key, units in parse_holds(calls.text(int(order[place]), HOLDS)):
            holds[meter_key] = holds.get(meter_key, 0) + units
    return found


@lru_cache(maxsize=16_384)
def known_meters(text: bytes) -> tuple[tuple[str, Decimal], ...]:
    """Reported quantities from a slot's text; the same few texts come again and again."""
    return parse_meters(text) or ()


@lru_cache(maxsize=65_536)
def _kind_ids(ids: bytes) -> tuple[UUID, ...]:
    return tuple(UUID(bytes=ids[start : start + 16]) for start in range(0, 96, 16))


def _kind(slot: Any) -> Kind:
    organization, provider, key, subscription, product, route = _kind_ids(slot["ids"].tobytes())
    return Kind(
        organization_id=organization,
        provider_organization_id=provider,
        subscription_id=subscription,
        product_id=product,
        key_id=key,
        route_id=route,
        status_class=int(slot["status"]) // 100,
        environment="Live" if slot["flags"] & LIVE else "Test",
        hour=_instant(int(slot["occurred_us"]) // _HOUR_US * _HOUR_US),
    )


def _instant(us: Any) -> datetime:
    return _EPOCH + int(us) * _MICROSECOND
