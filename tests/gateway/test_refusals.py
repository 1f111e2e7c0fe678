# SPDX-License-Identifier: Apache-2.0
"""Each refusal of the pipeline, in its order, with its code; none reaches the upstream."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from nimbus.base import clock
from nimbus.errors import CATALOGUE
from nimbus.rules.metering import SlotState
from tests.gateway.house import (
    KEY,
    ORGANIZATION,
    PEPPER,
    PLAN,
    PRODUCT,
    STANDING,
    SUBSCRIPTION,
    UNKNOWN_KEY,
    OpenGate,
    Upstream,
    count_slots,
    digest_of,
    key_record,
    plan_record,
    product_record,
    request,
    route,
    secret,
    standing_record,
    subscription_record,
)

pytestmark = pytest.mark.anyio

PAST = clock.to_wire(datetime(2020, 1, 1, tzinfo=UTC))


async def test_the_order_of_refusals_is_the_order_of_the_pipeline(
    gate: OpenGate, upstream: Upstream
) -> None:
    """All faults at once; each repaired in turn shows the next."""
    gate.feed("organization", {"id": str(ORGANIZATION), "status": "Suspended"})
    gate.feed("subscription", subscription_record(status="Suspended"))
    broken = {"expires_at": PAST, "ip_allow": ["203.0.113.0/24"], "rate_per_minute": 1}
    revoked = secret(4)  # which no record makes work again
    gate.feed("key", key_record(revoked, status="Revoked", **broken))
    product = product_record(upstream.port)
    product["routes"] = [
        route("GET", "/p", minimum_rank=2, minimum_plan="Professional", scope="wind.write")
    ]
    gate.feed("product", product)

    async def code(path: bytes = b"/p", method: bytes = b"GET", **how: bytes) -> str:
        answer = await gate.ask(method, path, **how)
        assert answer.status == CATALOGUE[answer.code].status
        return answer.code

    assert await code(b"/api/v1/none/p") == "route_not_found"
    assert await code(b"/q") == "route_not_found"
    assert await code(method=b"POST") == "method_not_allowed"
    assert await code(key=b"") == "invalid_api_key"
    assert await code(key=UNKNOWN_KEY) == "invalid_api_key"
    assert await code(key=revoked) == "api_key_revoked"
    gate.feed("key", key_record(KEY, **broken))
    assert await code() == "api_key_expired"
    gate.feed("key", key_record(KEY, ip_allow=["203.0.113.0/24"], rate_per_minute=1))
    assert await code() == "ip_not_allowed"
    gate.feed("key", key_record(KEY, rate_per_minute=1))
    assert await code() == "organization_suspended"
    gate.feed("organization", {"id": str(ORGANIZATION), "status": "Active"})
    assert await code() == "subscription_suspended"
    gate.feed("subscription", subscription_record(status="Paused"))
    assert await code() == "subscription_required"
    gate.feed("subscription", subscription_record(standings=[standing_record(0)]))
    assert await code() == "plan_required"
    gate.feed("plan", plan_record(rank=2))
    assert await code() == "insufficient_scope"
    gate.feed("key", key_record(KEY, scopes=["wind.write"], rate_per_minute=1))
    assert await code() == "quota_exceeded"
    assert await code() == "rate_limited"
    gate.feed("subscription", subscription_record())
    gate.feed("key", key_record(KEY, scopes=["wind.write"]))
    assert (await gate.ask(b"GET", b"/p")).status == 200
    assert len(upstream.seen) == 1


async def test_refused_calls_of_a_known_key_are_logged_and_never_served_events(
    gate: OpenGate,
) -> None:
    gate.feed("key", key_record(KEY, status="Revoked"))
    await gate.ask(b"GET", b"/echo")
    await gate.ask(b"GET", b"/echo", key=UNKNOWN_KEY)
    [event] = gate.events()
    assert (event.refusal, event.status) == ("api_key_revoked", 401)
    assert (event.billable, event.units, event.organization_id) == (False, 0, ORGANIZATION)
    assert event.subscription_id == SUBSCRIPTION


async def test_a_refusal_is_a_problem_document_with_our_request_id(gate: OpenGate) -> None:
    answer = await gate.ask(b"GET", b"/pro/x")
    assert answer["content-type"] == "application/problem+json"
    assert answer.json == {
        "type": "/api/docs/errors#plan_required",
        "title": "Higher plan required",
        "status": 403,
        "detail": "This operation needs the plan Professional or a higher one.",
        "instance": f"urn:uuid:{answer['x-request-id']}",
        "error": "Higher plan required",
        "code": "plan_required",
        "request_id": answer["x-request-id"],
        "errors": [],
    }
    UUID(answer["x-request-id"])


async def test_scope_method_and_credentials_are_named(gate: OpenGate) -> None:
    assert "wind.write" in (await gate.ask(b"GET", b"/scoped")).json["detail"]
    answer = await gate.ask(b"DELETE", b"/heavy")
    assert (answer.status, answer["allow"]) == (405, "GET, HEAD")
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo", key=None))
        answer = await caller.answer()
        assert (answer.status, answer.code) == (401, "missing_api_key")
        assert answer["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([b"Authorization: Bearer " + KEY, b"X-API-Key: " + KEY], "ambiguous_credentials"),
        ([b"Authorization: Bearer " + KEY] * 2, "ambiguous_credentials"),
        ([b"X-API-Key: " + KEY] * 2, "ambiguous_credentials"),
        ([b"Authorization: Bearer " + KEY + b"x"], "invalid_api_key"),
        ([b"Authorization: Bearer " + KEY.upper()], "invalid_api_key"),
        ([b"Authorization: Bearer " + KEY + b"\xa0"], "invalid_api_key"),
        ([b"Authorization: Bearer " + KEY + b" " + KEY], "invalid_api_key"),
        ([b"Authorization: Basic " + KEY], "invalid_api_key"),
        ([b"Authorization: " + KEY], "invalid_api_key"),
        ([b"Authorization: Bearer"], "invalid_api_key"),
        ([b"Authorization: Bearer ' OR '1'='1"], "invalid_api_key"),
        ([b"Authorization: Bearer " + KEY[:-1] + b"!"], "invalid_api_key"),
    ],
)
async def test_what_is_not_exactly_one_key_is_refused_without_a_look_up(
    gate: OpenGate, lines: list[bytes], code: str
) -> None:
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo", *lines, key=None))
        assert (await caller.answer()).code == code
    assert gate.house.looked_up == []


@pytest.mark.parametrize("line", [b"X-API-Key: ", b"x-api-key: ", b"Authorization: bearer  "])
async def test_each_way_to_bring_a_key_works(gate: OpenGate, line: bytes) -> None:
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo", line + KEY, key=None))
        assert (await caller.answer()).status == 200


async def test_a_new_key_is_looked_up_once_however_many_calls_bring_it(gate: OpenGate) -> None:
    new = secret(7)
    gate.house.hidden_keys[digest_of(PEPPER, new)] = key_record(new)
    async with gate.caller() as one, gate.caller() as two:
        for caller in (one, two):
            await caller.send(request(b"GET", b"/echo", key=new) * 2)
        for caller in (one, two, one, two):
            assert (await caller.answer()).status == 200
    assert len(gate.house.looked_up) == 1
    for _ in range(5):
        assert (await gate.ask(b"GET", b"/echo", key=UNKNOWN_KEY)).code == "invalid_api_key"
    assert len(gate.house.looked_up) == 2


async def test_without_the_house_an_unknown_key_is_not_called_invalid(gate: OpenGate) -> None:
    gate.house.gone = True
    answer = await gate.ask(b"GET", b"/echo", key=UNKNOWN_KEY)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert (await gate.ask(b"GET", b"/echo")).status == 200


async def test_before_the_first_state_nothing_is_judged(gate: OpenGate) -> None:
    gate.gate.state.complete = False
    assert (await gate.ask(b"GET", b"/echo")).code == "unavailable"


async def test_a_rotated_out_secret_works_to_the_microsecond_its_grace_ends(
    gate: OpenGate,
) -> None:
    old, new = secret(20), secret(21)
    end = datetime(2026, 5, 1, tzinfo=UTC)
    record = key_record(
        new, retired_hash=digest_of(PEPPER, old).hex(), retires_at=clock.to_wire(end)
    )
    gate.feed("key", record)
    clock.set_instant(end - timedelta(microseconds=1))
    assert [(await gate.ask(b"GET", b"/echo", key=key)).status for key in (old, new)] == [200, 200]
    clock.set_instant(end)
    assert (await gate.ask(b"GET", b"/echo", key=old)).code == "api_key_expired"
    assert (await gate.ask(b"GET", b"/echo", key=new)).status == 200


async def test_a_trial_closes_by_itself_when_business_time_reaches_its_end(
    gate: OpenGate,
) -> None:
    end = datetime(2026, 5, 15, tzinfo=UTC)
    gate.feed("subscription", subscription_record(status="Trial", trial_ends_at=clock.to_wire(end)))
    clock.set_instant(end - timedelta(microseconds=1))
    assert (await gate.ask(b"GET", b"/echo")).status == 200
    clock.set_instant(end)
    assert (await gate.ask(b"GET", b"/echo")).code == "subscription_required"
    assert gate.events()[0].occurred_at == end - timedelta(microseconds=1)


async def test_what_was_ended_by_a_change_is_not_brought_back_by_a_late_look_up(
    gate: OpenGate,
) -> None:
    state = gate.gate.state
    gate.feed("key", key_record(KEY, status="Revoked"))
    state.apply(1, "key", key_record(KEY)["id"], key_record(KEY))
    assert (await gate.ask(b"GET", b"/echo")).code == "api_key_revoked"


@pytest.mark.parametrize(
    ("kind", "entity"),
    [
        ("subscription", SUBSCRIPTION),
        ("plan", PLAN),
        ("organization", ORGANIZATION),
        ("product", PRODUCT),
    ],
)
async def test_what_is_gone_from_the_feed_grants_nothing(
    gate: OpenGate, kind: str, entity: UUID
) -> None:
    gate.feed(kind, None, entity)
    assert (await gate.ask(b"GET", b"/echo")).status in {403, 404}


async def test_a_record_that_cannot_be_read_grants_nothing(gate: OpenGate) -> None:
    gate.feed("subscription", {**subscription_record(), "standings": [{"id": "x"}]})
    assert (await gate.ask(b"GET", b"/echo")).code == "subscription_required"


async def test_rate_limits_of_key_plan_and_route_all_hold_and_are_told(
    gate: OpenGate, upstream: Upstream
) -> None:
    product = product_record(upstream.port)
    slow = {"amount": 1, "period_s": 3600, "burst": None}
    product["routes"].append(route("GET", "/slow", rate=slow))
    gate.feed("product", product)
    gate.feed("plan", plan_record(rate={"amount": 10, "period_s": 3600, "burst": 3}))
    gate.feed("key", key_record(KEY, rate_per_minute=5))
    answer = await gate.ask(b"GET", b"/slow")
    assert answer["ratelimit-policy"] == '"key";q=5;w=60, "plan";q=10;w=3600, "route";q=1;w=3600'
    assert answer["ratelimit"].startswith('"key";r=4;t=')
    refused = await gate.ask(b"GET", b"/slow")
    assert (refused.status, refused.code) == (429, "rate_limited")
    assert 3590 <= int(refused["retry-after"]) <= 3600
    assert '"route";r=0;t=3' in refused["ratelimit"]
    statuses = [(await gate.ask(b"GET", b"/echo")).status for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert len(upstream.seen) == 3


async def test_quota_stops_exactly_at_its_limit_and_says_when_it_opens_again(
    gate: OpenGate, upstream: Upstream
) -> None:
    gate.house.left[STANDING] = 7
    gate.feed("subscription", subscription_record(standings=[standing_record(7)]))
    answers = [await gate.ask(b"GET", b"/echo") for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 6
    assert [answer["x-quota-remaining"] for answer in answers] == ["6", "5", "4", "3", "2", "1"]
    assert answers[0]["x-quota-limit"] == "7"
    assert answers[0]["x-quota-reset"] == "2100-01-01T00:00:00Z"
    heavy = await gate.ask(b"GET", b"/heavy")
    assert (heavy.status, heavy.code) == (429, "quota_exceeded")
    assert int(heavy["retry-after"]) > 10**9
    assert "2100-01-01T00:00:00Z" in heavy.json["detail"]
    assert (await gate.ask(b"GET", b"/echo")).status in {200, 429}
    served = [event for event in gate.events() if not event.refusal]
    assert sum(event.units for event in served) == sum(event.leased for event in served) <= 7
    assert len(upstream.seen) == len(served)


async def test_no_journal_slot_no_call(
    gate: OpenGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.posix_fallocate", full_disk)
    for _ in range(3):
        answer = await gate.ask(b"GET", b"/echo")
        assert (answer.status, answer.code) == (503, "unavailable")
    assert upstream.seen == []
    monkeypatch.undo()
    gate.gate.journal._retry_at = 0
    assert (await gate.ask(b"GET", b"/echo")).status == 200
    assert count_slots(gate.gate.journal.folder, SlotState.COMPLETED) == 1


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")
