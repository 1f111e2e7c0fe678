# SPDX-License-Identifier: Apache-2.0
"""The journal's bytes: what is written is read, and nothing broken is read as whole."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.metering import (
    HEADER_SIZE,
    MAX_USAGE_TEXT,
    NIL,
    SLOT_HEAD_SIZE,
    SLOT_SIZE,
    CorruptSegmentError,
    Held,
    SegmentHeader,
    SlotState,
    UsageEvent,
    encode_header,
    encode_record,
    event_id,
    parse_meters,
    read_segment,
    slot_offset,
    write_completed,
    write_reserved,
)

PRODUCER = UUID("0190c0de-0000-7000-8000-000000000001")
HEADER = SegmentHeader(PRODUCER, number=3, first_sequence=101, slots=8)
uint = st.integers(0, 2**63)
records = st.builds(
    UsageEvent,
    event_id=st.just(event_id(PRODUCER, 101)),
    occurred_at=st.datetimes(
        datetime(2000, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
        datetime(2120, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    organization_id=st.uuids(),
    provider_organization_id=st.uuids(),
    key_id=st.uuids(),
    subscription_id=st.uuids(),
    product_id=st.uuids(),
    route_id=st.uuids(),
    environment=st.sampled_from(["Live", "Test"]),
    method=st.sampled_from(["GET", "POST", "OPTIONS"]),
    status=st.integers(100, 599),
    refusal=st.sampled_from(["", "quota_exceeded", "ambiguous_credentials"]),
    duration_us=uint,
    upstream_us=uint,
    bytes_in=uint,
    bytes_out=uint,
    units=uint,
    leased=uint,
    billable=st.booleans(),
    ip=st.ip_addresses(),
    request_id=st.uuids().map(str),
    meters=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True),
        st.decimals(0, 10**9, places=4),
        max_size=6,
    ).map(lambda found: tuple(found.items())),
    held_micro=uint,
    held_on=st.builds(Held, st.integers(0, 7)),
    holds=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True), st.integers(1, 10**9), max_size=2
    ).map(lambda found: tuple(found.items())),
    continued=st.booleans(),
)


def event(sequence: int, **changes: object) -> UsageEvent:
    values: dict[str, object] = {
        "event_id": event_id(PRODUCER, sequence),
        "occurred_at": datetime(2026, 5, 1, tzinfo=UTC) + timedelta(microseconds=sequence),
        "organization_id": UUID(int=1),
        "provider_organization_id": UUID(int=2),
        "key_id": UUID(int=3),
        "subscription_id": UUID(int=4),
        "product_id": UUID(int=5),
        "route_id": UUID(int=6),
        "environment": "Live",
        "method": "GET",
        "status": 200,
        "refusal": "",
        "duration_us": 1200,
        "upstream_us": 900,
        "bytes_in": 120,
        "bytes_out": 800,
        "units": 1,
        "leased": 1,
        "billable": True,
        "ip": ip_address("192.0.2.7"),
        "request_id": "018f0000-0000-7000-8000-000000000000",
        "meters": (("reports", Decimal(1)),),
    }
    return UsageEvent(**{**values, **changes})  # type: ignore[arg-type]


def segment(states: str) -> bytearray:
    """A segment whose slots are c(ompleted), r(eserved) or e(mpty)."""
    data = bytearray(HEADER.size)
    data[:HEADER_SIZE] = encode_header(HEADER)
    for index, state in enumerate(states):
        sequence = HEADER.first_sequence + index
        offset = slot_offset(HEADER, sequence)
        if state == "r":
            write_reserved(data, offset, sequence)
        if state == "c":
            head, payload = completed(sequence, event(sequence))
            data[offset : offset + len(head) + len(payload)] = head + payload
    return data


def completed(sequence: int, record: UsageEvent) -> tuple[bytes, bytes]:
    """Head and payload of a finished call."""
    payload = encode_record(record)
    slot = bytearray(SLOT_HEAD_SIZE + len(payload))
    write_completed(slot, 0, sequence, payload)
    return bytes(slot[:SLOT_HEAD_SIZE]), payload


@given(records)
def test_a_record_survives_the_round_trip(record: UsageEvent) -> None:
    data = segment("")
    offset = slot_offset(HEADER, 101)
    head, payload = completed(101, record)
    data[offset : offset + len(head) + len(payload)] = head + payload
    assert len(head) + len(payload) <= SLOT_SIZE
    _, slots = read_segment(bytes(data))
    assert next(slots).record == record


def test_a_refused_record_of_an_unknown_caller_has_nil_ids() -> None:
    refused = event(101, refusal="invalid_api_key", organization_id=NIL, key_id=NIL, status=401)
    data = segment("")
    head, payload = completed(101, refused)
    data[HEADER_SIZE : HEADER_SIZE + len(head) + len(payload)] = head + payload
    assert next(read_segment(bytes(data))[1]).record == refused


def test_slots_come_in_order_without_holes_and_from_where_one_asks() -> None:
    header, slots = read_segment(bytes(segment("crce")))
    found = list(slots)
    assert header == HEADER
    assert [slot.sequence for slot in found] == list(range(101, 109))
    assert [slot.state for slot in found[:4]] == [
        SlotState.COMPLETED,
        SlotState.RESERVED,
        SlotState.COMPLETED,
        SlotState.EMPTY,
    ]
    assert [slot.sequence for slot in read_segment(bytes(segment("crce")), after=106)[1]] == [
        107,
        108,
    ]


def test_a_kill_between_payload_and_head_leaves_the_slot_reserved() -> None:
    data = segment("r")
    _, payload = completed(101, event(101))
    start = HEADER_SIZE + SLOT_HEAD_SIZE
    for cut in range(len(payload) + 1):
        torn = bytearray(data)
        torn[start : start + cut] = payload[:cut]
        assert next(read_segment(bytes(torn))[1]).state is SlotState.RESERVED


def test_every_flipped_bit_of_a_used_slot_is_found_and_its_neighbours_survive() -> None:
    whole = segment("ccc")
    offset = slot_offset(HEADER, 102)
    head, payload = completed(102, event(102))
    for position in range(len(head) + len(payload)):
        for bit in range(8):
            broken = bytearray(whole)
            broken[offset + position] ^= 1 << bit
            slots = list(read_segment(bytes(broken))[1])
            assert slots[1].state is SlotState.CORRUPT
            assert slots[0].record == event(101)
            assert slots[2].record == event(103)


def test_a_file_cut_short_at_any_byte_keeps_the_records_before_the_cut() -> None:
    whole = bytes(segment("cccccccc"))
    for size in range(HEADER_SIZE, len(whole), 61):
        slots = list(read_segment(whole[:size])[1])
        kept = (size - HEADER_SIZE) // SLOT_SIZE
        assert [slot.state for slot in slots] == [SlotState.COMPLETED] * kept + [
            SlotState.CORRUPT
        ] * (8 - kept)


def test_every_flipped_bit_of_the_header_is_found() -> None:
    whole = segment("c")
    for position in range(8 + 2 + 2 + 4 + 16 + 8 + 8 + 4):
        broken = bytearray(whole)
        broken[position] ^= 1
        with pytest.raises(CorruptSegmentError):
            read_segment(bytes(broken))
    with pytest.raises(CorruptSegmentError):
        read_segment(b"")


def test_a_slot_moved_elsewhere_is_not_believed() -> None:
    data = segment("cc")
    first, second = slot_offset(HEADER, 101), slot_offset(HEADER, 102)
    data[second : second + SLOT_SIZE] = data[first : first + SLOT_SIZE]
    assert [slot.state for slot in read_segment(bytes(data))[1]][1] is SlotState.CORRUPT


def test_event_ids_differ_by_producer_and_sequence() -> None:
    ids = {event_id(producer, n) for producer in (PRODUCER, UUID(int=7)) for n in range(1000)}
    assert len(ids) == 2000


@pytest.mark.parametrize(
    ("text", "meters"),
    [
        (b"reports=1", (("reports", Decimal(1)),)),
        (b"reports=1, tokens=532", (("reports", Decimal(1)), ("tokens", Decimal(532)))),
        (b"gb=0.25", (("gb", Decimal("0.25")),)),
        (b"reports=-1", None),
        (b"reports=1e9", None),
        (b"reports=1,reports=2", None),
        (b"reports", None),
        (b"", None),
        (b"Reports=1", None),
        (b"reports=1;tokens=2", None),
        (b"reports=\xd9\xa1", None),
        (b"a=" + b"1" * MAX_USAGE_TEXT, None),
    ],
)
def test_reported_usage_is_read_strictly(
    text: bytes, meters: tuple[tuple[str, Decimal], ...] | None
) -> None:
    assert parse_meters(text) == meters
