# SPDX-License-Identifier: Apache-2.0
"""POST /api/billing/usage: who may report, in which forms, what is refused and what counts once."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from nimbus.base import clock
from tests.support.market import sent
from tests.support.metered import (
    START,
    Contract,
    Market,
    contract,
    metered_market,
    proof,
    quantities,
    rows,
    settings,
    standing,
    store,
)
from tests.support.metered import event as call_event
from tests.support.people import make_owner
from tests.support.reported import (
    CLOUD,
    CLOUD_BATCH,
    REPORT,
    at,
    cloud,
    counted,
    make_meters,
    move_to,
    plan_with,
    refusals,
    report,
    usage,
)
from tests.support.soak import Soak

__all__ = ["contract", "metered_market", "settings"]

pytestmark = pytest.mark.anyio

NOW = START + timedelta(days=2)
DAY, MICROSECOND = timedelta(days=1), timedelta(microseconds=1)
NOTHING = {"duplicates": 0, "rejected": []}


@pytest.fixture(autouse=True)
def _in_may() -> None:
    clock.set_instant(NOW)


async def test_an_event_is_stored_with_what_was_said_and_counts_everywhere(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    event = usage(contract, "a", "reports", value="2.50", properties={"size": 3, "big": True})

    assert await counted(api, metered_market, event) == {"accepted": 1, **NOTHING}
    await counted(api, metered_market, usage(contract, "b", "api_calls", value="40"))

    [stored, _] = await rows("SELECT * FROM usage_events ORDER BY external_id")
    assert stored["external_id"] == "a"
    assert stored["properties"] == {"size": 3, "big": True}
    assert stored["reported_by"] == metered_market.provider.actor.user_id
    assert stored["organization_id"] == contract.organization_id
    assert await quantities(contract) == {"reports": Decimal("2.5"), "api_calls": 40}
    assert (await standing(contract))["used"] == 40
    [spent] = await rows("SELECT used FROM spend_standings WHERE kind = 'organization_spend'")
    assert spent["used"] == 625_000_000  # 2.5 reports at 2.50 each, in millionths of a cent
    told = await rows(
        "SELECT body FROM audit_log WHERE CAST(body AS jsonb)->>'action' = 'UsageReported'"
    )
    assert len(told) == 2
    assert await proof(tmp_path) == []


async def test_what_is_sent_again_counts_once_in_whatever_form(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    event = usage(contract, "a", "reports", value="2.50")
    headers = {"ce-specversion": "1.0", "ce-source": "/b%20c", "ce-id": "a", "ce-type": "reports"}
    headers |= {"ce-subject": str(contract.subscription_id), "ce-time": event["at"]}
    await counted(api, metered_market, event)

    again = [
        await counted(api, metered_market, event),
        await counted(api, metered_market, event | {"value": "2.5", "mode": "delta"}),
        await counted(api, metered_market, cloud(event), CLOUD),
        (await api.post(REPORT, json={"value": 2.5}, headers=_of(metered_market) | headers)).json(),
    ]

    assert again == [{"accepted": 0, "duplicates": 1, "rejected": []}] * 4
    batch = await counted(api, metered_market, [cloud(event)] * 3, CLOUD_BATCH)
    assert batch == {"accepted": 0, "duplicates": 3, "rejected": []}
    assert await quantities(contract) == {"reports": Decimal("2.5")}


def _of(market: Market) -> dict[str, str]:
    return market.provider.headers


async def test_each_mode_of_cloudevents_is_read(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    await make_meters(api, metered_market)
    event = cloud(usage(contract, "a", "users", value=None))
    event["data"] = {"user": "ada"}
    headers = {"ce-specversion": "1.0", "ce-source": "/%C3%A9", "ce-id": "b", "ce-type": "jobs"}
    headers |= {"ce-subject": str(contract.subscription_id)}

    assert (await counted(api, metered_market, event, CLOUD))["accepted"] == 1
    binary = await api.post(REPORT, headers=_of(metered_market) | headers)
    assert (binary.status_code, binary.json()) == (202, {"accepted": 1, **NOTHING})
    many = [cloud(usage(contract, f"c{number}", "jobs")) for number in range(3)]
    assert (await counted(api, metered_market, many, CLOUD_BATCH))["accepted"] == 3

    assert await quantities(contract) == {"users": 1, "jobs": 4}
    stored = await rows("SELECT source, occurred_at FROM usage_events WHERE external_id = 'b'")
    assert stored == [{"source": "/é", "occurred_at": NOW}]


async def test_an_event_without_an_id_is_refused_in_every_form(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    event = usage(contract, "a", "reports")
    del event["id"]
    headers = {"ce-specversion": "1.0", "ce-source": "/b", "ce-type": "reports"}
    headers |= {"ce-subject": str(contract.subscription_id)}

    alone = [
        await report(api, metered_market, event),
        await report(api, metered_market, cloud(event), CLOUD),
        await api.post(REPORT, json={"value": "1"}, headers=_of(metered_market) | headers),
    ]

    assert [(one.status_code, _fields(one)) for one in alone] == [(422, [("id", "missing")])] * 3
    found = await counted(api, metered_market, [cloud(event)], CLOUD_BATCH)
    assert refusals(found) == [(0, "id", "missing")]
    assert await rows("SELECT FROM usage_events") == []


def _fields(answer: httpx2.Response) -> list[tuple[str, str]]:
    return [(one["field"], one["code"]) for one in answer.json()["errors"]]


async def test_bad_events_are_named_one_by_one_and_the_others_count(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    await make_meters(api, metered_market)
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"id": ""}, "id", "invalid"),
        ({"id": "x" * 256}, "id", "invalid"),
        ({"id": "a\u0000"}, "id", "invalid"),
        ({"id": "\ud800"}, "id", "invalid"),
        ({"id": 7}, "id", "invalid"),
        ({"subscription_id": str(uuid4())}, "subscription_id", "unknown_subscription"),
        ({"subscription_id": "farm"}, "subscription_id", "unknown_subscription"),
        ({"subscription_id": ["farm"]}, "subscription_id", "invalid"),
        ({"meter": "windmills"}, "meter", "unknown_meter"),
        ({"meter": None}, "meter", "missing"),
        ({"value": "-1"}, "value", "negative"),
        ({"value": None}, "value", "missing"),
        ({"value": "1e3"}, "value", "invalid"),
        ({"value": "١"}, "value", "invalid"),
        ({"value": True}, "value", "invalid"),
        ({"value": "1" * 16}, "value", "invalid"),
        ({"value": "0." + "1" * 13}, "value", "invalid"),
        ({"meter": "api_calls", "value": "0.5"}, "value", "invalid"),
        ({"mode": "sideways"}, "mode", "not_allowed"),
        ({"mode": ["delta"]}, "mode", "not_allowed"),
        ({"mode": "gauge"}, "mode", "not_allowed"),
        ({"meter": "storage", "mode": "delta"}, "mode", "not_allowed"),
        ({"at": "2026-05-01"}, "at", "invalid"),
        ({"at": "2026-05-01T00:00:00"}, "at", "invalid"),
        ({"at": "2026-05-32T00:00:00Z"}, "at", "invalid"),
        ({"at": 7}, "at", "invalid"),
        ({"at": clock.to_wire(NOW - 35 * DAY - MICROSECOND)}, "at", "too_old"),
        ({"at": clock.to_wire(NOW + DAY / 288 + MICROSECOND)}, "at", "in_future"),
        ({"at": clock.to_wire(START - MICROSECOND)}, "at", "not_subscribed"),
        ({"properties": "big"}, "properties", "invalid"),
        ({"properties": {"a": {"b": 1}}}, "properties.a", "invalid"),
        ({"properties": {"a": "\u0000"}}, "properties.a", "invalid"),
        ({"properties": {"": 1}}, "properties", "invalid"),
        ({"meter": "users"}, "properties.user", "missing"),
        ({"meter": "users", "properties": {"user": None}}, "properties.user", "missing"),
        ({"price": "1"}, "price", "unknown_field"),
    ]
    events = [usage(contract, number, "reports") | one for number, (one, _, _) in enumerate(bad)]
    events = [{name: value for name, value in one.items() if value is not None} for one in events]
    good = usage(contract, "good", "reports", value="3")

    found = await counted(api, metered_market, [*events, "text", good])

    assert refusals(found) == [
        *((number, field, code) for number, (_, field, code) in enumerate(bad)),
        (len(bad), "", "invalid"),
    ]
    assert (found["accepted"], found["duplicates"]) == (1, 0)
    for (_, field, code), event in zip(bad, events, strict=True):
        alone = await report(api, metered_market, event)
        assert (alone.status_code, _fields(alone)) == (422, [(field, code)])
    assert await quantities(contract) == {"reports": 3}
    assert await rows("SELECT count(*) FROM usage_dedupe") == [{"count": 1}]
    assert await proof(tmp_path) == []


async def test_refusals_of_cloudevents_name_their_own_fields(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    good = cloud(usage(contract, "a", "reports"))
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"specversion": "0.3"}, "specversion", "invalid"),
        ({"source": None}, "source", "missing"),
        ({"type": "windmills"}, "type", "unknown_meter"),
        ({"subject": "farm"}, "subject", "unknown_subscription"),
        ({"time": "yesterday"}, "time", "invalid"),
        ({"data": {"value": "-1"}}, "data.value", "negative"),
        ({"data": {"value": "1", "mode": "gauge"}}, "data.mode", "not_allowed"),
        ({"data": {"value": "1", "big": []}}, "data.properties.big", "invalid"),
        ({"data": "text"}, "data", "invalid"),
        ({"data_base64": "e30="}, "data_base64", "not_allowed"),
    ]
    events = [good | {"id": f"e{number}"} | one for number, (one, _, _) in enumerate(bad)]

    found = await counted(api, metered_market, events, CLOUD_BATCH)

    expected = [(number, field, code) for number, (_, field, code) in enumerate(bad)]
    assert refusals(found) == expected


async def test_bodies_that_are_no_events_are_refused_whole(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    event = usage(contract, "a", "reports")
    for body, kind, expected in (
        ("{", "application/json", 400),
        ("[" * 100_000, "application/json", 400),
        ('{"id":"a","value":NaN}', "application/json", 400),
        ("7", "application/json", 422),
        ("[]", "application/json", 422),
        ("{}", "text/plain", 415),
        ("[]", CLOUD, 422),
        ("{}", CLOUD_BATCH, 422),
    ):
        headers = _of(metered_market) | {"Content-Type": kind}
        answer = await api.post(REPORT, content=body, headers=headers)
        assert answer.status_code == expected, body[:30]
    many = [event | {"id": str(number)} for number in range(1001)]
    assert _fields(await report(api, metered_market, many)) == [("", "too_many")]
    assert (await counted(api, metered_market, many[:1000]))["accepted"] == 1000


async def test_the_first_event_under_an_id_holds(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    first = usage(contract, "a", "reports", value="1")
    other = first | {"value": "2"}
    await counted(api, metered_market, first)

    alone = await report(api, metered_market, other)
    together = await counted(api, metered_market, [other, first, other])
    fresh = [usage(contract, "b", "reports", value=value) for value in ("3", "4", "3")]
    inside = await counted(api, metered_market, fresh)

    assert (alone.status_code, _fields(alone)) == (422, [("id", "conflict")])
    assert refusals(together) == [(0, "id", "conflict"), (2, "id", "conflict")]
    assert (together["accepted"], together["duplicates"]) == (0, 1)
    assert (inside["accepted"], inside["duplicates"]) == (1, 1)
    assert refusals(inside) == [(1, "id", "conflict")]
    assert await quantities(contract) == {"reports": 4}
    assert await proof(tmp_path) == []


async def test_an_event_may_name_the_key_of_an_entitlement(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    papers = {"key": "papers", "type": "limit", "meter": "reports"}
    await move_to(contract, await plan_with(api, metered_market, entitlements=[papers]))
    found = await counted(api, metered_market, usage(contract, "a", "papers", value="2"))
    again = await counted(api, metered_market, usage(contract, "a", "reports", value="2"))
    assert (found["accepted"], again["duplicates"]) == (1, 1)
    assert await quantities(contract) == {"reports": 2}


async def test_at_the_edges_of_what_is_taken_events_count(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    clock.set_instant(START + 35 * DAY)
    edges = [START, START + 35 * DAY + timedelta(minutes=5)]
    events = [
        usage(contract, number, "reports", **at(instant)) for number, instant in enumerate(edges)
    ]
    assert (await counted(api, metered_market, events))["accepted"] == 2


async def test_any_cut_shuffle_and_repetition_counts_each_event_once(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path, soak: Soak
) -> None:
    await make_meters(api, metered_market)
    choice = soak.random
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("reports", {"value": "0.5"}),
        ("assets", {"value": "7", "mode": "gauge"}),
        ("api_calls", {"value": "3"}),
        ("jobs", {}),
        ("seats", {"value": "5"}),
        ("users", {"properties": {"user": "ada"}}),
        ("users", {"properties": {"user": 7}}),
        ("storage", {"value": "100"}),
        ("tokens", {"value": "9", "properties": {"model": "large"}}),
        ("tokens", {"value": "9", "properties": {"model": "small"}}),
    ]
    events = []
    for number in range(80):
        meter, changes = choice.choice(kinds)
        instant = START + choice.randrange(172_800_000_000) * MICROSECOND
        events.append(usage(contract, number, meter, **changes, **at(instant)))
    accepted = 0
    for _ in range(soak.count(12, 300)):
        part = choice.choices(events, k=choice.randrange(1, 40))
        accepted += (await counted(api, metered_market, part))["accepted"]
    every = events + choice.choices(events, k=40)
    choice.shuffle(every)
    parts = [every[:60], every[60:]]
    found = await asyncio.gather(*(counted(api, metered_market, part) for part in parts))
    accepted += sum(one["accepted"] for one in found)

    assert accepted == len(events)
    assert await rows("SELECT count(*) FROM usage_events") == [{"count": len(events)}]
    stored = await quantities(contract)
    for meter, added in (("reports", "0.5"), ("api_calls", "3"), ("tokens", "9"), ("jobs", "1")):
        matching = [
            one
            for one in events
            if one["meter"] == meter and one.get("properties") != {"model": "small"}
        ]
        assert stored[meter] == len(matching) * Decimal(added)
    assert (await standing(contract))["used"] == stored["api_calls"]
    assert await proof(tmp_path) == []


def correction(contract: Contract, number: str, named: str, **changes: Any) -> dict[str, Any]:
    """What another event should have said, and why."""
    meter = changes.pop("meter", "reports")
    said = {"corrects": named, "reason": "counted twice", "at": None, **changes}
    return usage(contract, number, meter, **said)


async def test_a_correction_is_an_event_of_its_own_that_makes_up_for_another(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    call = call_event(contract, producer, 1, START, units=20)
    await store(producer, [call])
    await counted(api, metered_market, usage(contract, "a", "reports", value="8"))
    before = await rows("SELECT * FROM usage_events ORDER BY event_id")
    corrections = [
        correction(contract, "b", "a", value="2.5"),
        correction(contract, "c", str(call.event_id), value="5", meter="api_calls"),
    ]

    for again in (False, True):
        found = await counted(api, metered_market, corrections)
        assert found["rejected"] == []
        assert (found["accepted"], found["duplicates"]) == ((0, 2) if again else (2, 0))
    assert await quantities(contract) == {"reports": Decimal("2.5"), "api_calls": 5}
    assert (await standing(contract))["used"] == 5
    [spent] = await rows("SELECT used FROM spend_standings WHERE kind = 'organization_spend'")
    assert spent["used"] == 625_000_000
    # Corrected again: what counts is what was said last, up or down, also as a CloudEvent.
    data = {"corrects": "a", "reason": "it was nothing", "value": "0"}
    more = cloud(usage(contract, "d", "reports")) | {"data": data}
    del more["time"]
    await counted(api, metered_market, more, CLOUD)
    assert (await quantities(contract))["reports"] == 0
    await counted(api, metered_market, correction(contract, "e", "a", value="9"))
    assert (await quantities(contract))["reports"] == 9

    after = await rows("SELECT * FROM usage_events ORDER BY event_id")
    ids = {row["event_id"] for row in before}
    assert [row for row in after if row["event_id"] in ids] == before
    own = [row for row in after if row["event_id"] not in ids]
    assert {row["external_id"] for row in own} == set("bcde")
    assert {row["occurred_at"] for row in own} == {START}
    assert {row["reported_by"] for row in own} == {metered_market.provider.actor.user_id}
    assert {row["properties"]["reason"] for row in own} == {"counted twice", "it was nothing"}
    told = await rows(
        "SELECT CAST(body AS jsonb) AS body FROM audit_log"
        " WHERE CAST(body AS jsonb)->>'action' = 'UsageCorrected' ORDER BY sequence"
    )
    said = [(one["body"]["before"]["quantity"], one["body"]["after"]["quantity"]) for one in told]
    assert sorted(said) == [("0", "9"), ("2.5", "0"), ("20", "5"), ("8", "2.5")]
    assert await proof(tmp_path) == []


async def test_what_can_not_be_corrected_is_refused_with_its_field(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    await make_meters(api, metered_market)
    filtered = usage(contract, "f", "tokens", properties={"model": "small"})
    first = [usage(contract, "a", "reports", value="8"), usage(contract, "m", "peak"), filtered]
    await counted(api, metered_market, first)
    events = [
        correction(contract, "1", "nothing"),
        correction(contract, "2", str(uuid4())),
        correction(contract, "3", "a", reason=None),
        correction(contract, "4", "a", value="-1"),
        correction(contract, "5", "a", value=None),
        correction(contract, "6", "m", meter="peak"),
        correction(contract, "7", "f", meter="tokens"),
        correction(contract, "8", "a") | at(START),
        correction(contract, "9", "a", properties={"big": True}),
        correction(contract, "10", "a", value="1"),
        correction(contract, "11", "a", value="2"),
        correction(contract, "12", "a", subscription_id=str(uuid4())),
        usage(contract, "13", "reports", reason="none"),
    ]

    found = await counted(api, metered_market, events)

    assert found["accepted"] == 1
    assert refusals(found) == [
        (0, "corrects", "unknown_event"),
        (1, "corrects", "unknown_event"),
        (2, "reason", "missing"),
        (3, "value", "negative"),
        (4, "value", "missing"),
        (5, "meter", "not_additive"),
        (6, "corrects", "unknown_event"),
        (7, "at", "not_allowed"),
        (8, "properties", "not_allowed"),
        (10, "corrects", "twice"),
        (11, "subscription_id", "unknown_subscription"),
        (12, "reason", "unknown_field"),
    ]
    # A correction is no event that can be corrected; one that is too old is out of reach.
    clock.set_instant(START + 35 * DAY + MICROSECOND)
    late = [correction(contract, "20", "10"), correction(contract, "21", "a")]
    assert refusals(await counted(api, metered_market, late)) == [
        (0, "corrects", "unknown_event"),
        (1, "corrects", "unknown_event"),
    ]
    assert (await quantities(contract))["reports"] == 1
    assert await proof(tmp_path) == []


async def test_corrections_at_once_of_one_event_come_one_after_the_other(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    await counted(api, metered_market, usage(contract, "a", "reports", value="8"))

    await asyncio.gather(
        *(
            counted(api, metered_market, correction(contract, f"c{value}", "a", value=str(value)))
            for value in range(6)
        )
    )

    found = await rows(
        "SELECT CAST(body AS jsonb)->'after'->>'quantity' AS said FROM audit_log"
        " WHERE CAST(body AS jsonb)->>'action' = 'UsageCorrected' ORDER BY sequence DESC LIMIT 1"
    )
    assert (await quantities(contract))["reports"] == Decimal(found[0]["said"])
    assert await proof(tmp_path) == []


async def test_two_batches_that_come_at_once_in_opposite_order_both_end(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    events = [usage(contract, number, "reports") for number in range(200)]
    for turn in range(5):
        now = [one | {"id": f"{turn}-{one['id']}"} for one in events]
        found = await asyncio.gather(
            counted(api, metered_market, now), counted(api, metered_market, now[::-1])
        )
        assert sum(one["accepted"] for one in found) == 200
        assert sum(one["duplicates"] for one in found) == 200
    assert await quantities(contract) == {"reports": 1000}


async def test_only_the_product_s_provider_reports_by_a_member_or_a_key(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    event = usage(contract, "a", "reports")
    stranger = await make_owner("sam@solar.example")
    for person in (metered_market.consumer, stranger):
        answer = await api.post(REPORT, json=event, headers=person.headers)
        assert (answer.status_code, _fields(answer)) == (
            422,
            [("subscription_id", "unknown_subscription")],
        )
    assert (await api.post(REPORT, json=event)).status_code == 401

    key = {"name": "reporter", "environment": "Live", "scopes": ["usage.write"]}
    expected = {"usage.write": 202, "billing.read": 403}
    for scope, status in expected.items():
        made = await sent(
            api,
            metered_market.provider,
            "POST",
            "/api/developer/api-keys",
            key | {"name": scope, "scopes": [scope]},
        )
        headers = {"X-API-Key": made["secret"]}
        answer = await api.post(REPORT, json=event, headers=headers)
        assert answer.status_code == status, answer.text
    [stored] = await rows("SELECT reported_by FROM usage_events")
    assert stored["reported_by"] != metered_market.provider.actor.user_id


async def test_what_a_test_key_reports_is_kept_and_counted_nowhere(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    await make_meters(api, metered_market)
    key = {"name": "reporter", "environment": "Test", "scopes": ["usage.write"]}
    made = await sent(api, metered_market.provider, "POST", "/api/developer/api-keys", key)
    events = [
        usage(contract, "a", "reports"),
        usage(contract, "b", "users", properties={"user": "ada"}),
        usage(contract, "c", "storage", value="100"),
    ]
    answer = await api.post(REPORT, json=events, headers={"X-API-Key": made["secret"]})
    assert answer.json() == {"accepted": 3, **NOTHING}
    assert await quantities(contract) == {}
    assert await rows("SELECT count(*) FROM usage_events WHERE NOT billable") == [{"count": 3}]
    assert await proof(tmp_path) == []
