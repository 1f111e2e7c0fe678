# SPDX-License-Identifier: Apache-2.0
"""Usage from outside over HTTP: plain JSON, or CloudEvents 1.0 in each of its three modes.

Read without a library on purpose: it makes up an id for an event that has none, and what has no
id of its sender's can't be counted once.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import unquote

from fastapi import Request

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Router, mutates, unit_of
from nimbus.errors import FieldError, Refusal, field_error
from nimbus.identity import Permission, allowed
from nimbus.usage import schemas
from nimbus.usage.events import (
    QuotaExceeded,
    UsageCorrected,
    UsageReported,
    UsageThresholdReached,
)
from nimbus.usage.service.ingest import MAX_EVENTS, Rejected, report

CLOUD_EVENT: Final = "application/cloudevents+json"
CLOUD_BATCH: Final = "application/cloudevents-batch+json"
BINARY: Final = "ce-"
# What a field of ours is called in a CloudEvent.
_CLOUD_NAMES: Final = {
    "subscription_id": "subject",
    "meter": "type",
    "at": "time",
    "value": "data.value",
    "mode": "data.mode",
    "properties": "data.properties",
    "corrects": "data.corrects",
    "reason": "data.reason",
}
_OF_DATA: Final = frozenset(("value", "mode", "properties"))
_OF_CORRECTIONS: Final = frozenset(("corrects", "reason"))

router = Router(tags=["usage"])
Reporter = Annotated[Actor, allowed(Permission.MANAGE_PRODUCTS, scope="usage.write")]


def _declared() -> dict[str, Any]:
    """What the operation needs and announces, and the bodies that it takes."""
    options = mutates(
        permission=Permission.MANAGE_PRODUCTS,
        events=[UsageReported, UsageCorrected, UsageThresholdReached, QuotaExceeded],
        idempotency="natural",
    )
    event = schemas.NewUsage.model_json_schema()
    batch = {"type": "array", "items": event, "minItems": 1, "maxItems": MAX_EVENTS}
    cloud = {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string"},
            "source": {"type": "string"},
            "type": {"type": "string", "description": "The meter."},
            "subject": {"type": "string", "description": "The subscription's id."},
            "time": {"type": "string", "format": "date-time"},
            "data": {"type": "object", "description": "`value`, `mode` and `properties`."},
        },
    }
    cloud_batch = {"type": "array", "items": cloud, "minItems": 1, "maxItems": MAX_EVENTS}
    options["openapi_extra"]["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": {"anyOf": [event, batch]}},
            CLOUD_EVENT: {"schema": cloud},
            CLOUD_BATCH: {"schema": cloud_batch},
        },
    }
    return options


@router.post(
    "/api/billing/usage",
    operation_id="report_usage",
    status_code=202,
    responses=documented(400, 401, 403, 413, 415, 422),
    **_declared(),
)
async def report_usage(request: Request, actor: Reporter) -> schemas.ReportShape:
    """Report what happened outside the gateway: one event, or up to 1,000 of them.

    An event counts once, whenever and however often it is sent: `id` is yours, and what came first
    under it holds. At most 35 days back and 5 minutes ahead. Of many events, those that can't be
    taken are named; a single one that can't is a 422. Nothing that was counted is changed or taken
    away: what an event should have said is an event of its own, with `corrects` and a `reason`.
    """
    given, cloud = _read(request, await request.body())
    single = isinstance(given, dict)
    events = [given] if isinstance(given, dict) else given
    plain = [_plain(index, event) for index, event in enumerate(events)] if cloud else events
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system("usage from outside")
    found = await report(session, actor, plain, clock.now())
    rejected = [_named(one) if cloud else one for one in found.rejected]
    if single and rejected:
        [bad] = rejected
        wrong = FieldError(bad.field, bad.code, bad.message)
        raise Refusal("validation_failed", bad.message, fields=(wrong,))
    return schemas.ReportShape(
        accepted=found.accepted,
        duplicates=found.duplicates,
        rejected=[
            schemas.RejectedUsage(
                index=one.index, field=one.field, code=one.code, message=one.message
            )
            for one in rejected
        ],
    )


def _read(request: Request, body: bytes) -> tuple[dict[str, Any] | list[Any], bool]:
    """What was sent, and whether it is CloudEvents; 400 or 422 when it is neither."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if "ce-specversion" in request.headers and kind not in {CLOUD_EVENT, CLOUD_BATCH}:
        event: dict[str, Any] = {
            name[len(BINARY) :]: unquote(value)
            for name, value in request.headers.items()
            if name.startswith(BINARY)
        }
        if body:
            event["data"] = _json(body)
        return event, True
    given = _json(body)
    if isinstance(given, list) and kind != CLOUD_EVENT:
        if not 1 <= len(given) <= MAX_EVENTS:
            raise field_error("", "too_many" if given else "missing", f"1 to {MAX_EVENTS} events.")
        return given, kind == CLOUD_BATCH
    if isinstance(given, dict) and kind != CLOUD_BATCH:
        return given, kind == CLOUD_EVENT
    raise field_error("", "invalid", "An event, or a list of events, is expected.")


def _json(body: bytes) -> Any:
    """JSON with its fractions as texts, so that none is rounded; 400 for what is no JSON."""
    try:
        return json.loads(body, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refusal("malformed_request", "The body is not JSON.") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _plain(index: int, event: Any) -> Any:
    """A CloudEvent as a plain event, or why it is none. Members of `data` that are not ours are
    properties.
    """
    if not isinstance(event, dict):
        return event
    wrong = _wrong(event)
    if wrong is not None:
        return Rejected(index, *wrong)
    data: Mapping[str, Any] = event.get("data") or {}
    named = data.get("properties")
    own = _OF_DATA | _OF_CORRECTIONS if "corrects" in data else _OF_DATA
    others = {name: value for name, value in data.items() if name not in own}
    properties = {**others, **named} if isinstance(named, dict) else (named or others or None)
    correction = {name: data[name] for name in own & _OF_CORRECTIONS & data.keys()}
    return correction | {
        "id": event.get("id"),
        "source": event.get("source"),
        "meter": event.get("type"),
        "subscription_id": event.get("subject"),
        "at": event.get("time"),
        "value": data.get("value"),
        "mode": data.get("mode"),
        "properties": properties,
    }


def _wrong(event: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Why this is no CloudEvent that can be counted: field, code, message."""
    if event.get("specversion") != "1.0":
        return "specversion", "invalid", "CloudEvents 1.0 are read."
    if event.get("source") is None:
        return "source", "missing", "It has to be said."
    if "data_base64" in event:
        return "data_base64", "not_allowed", "The data is an object."
    if not isinstance(event.get("data") or {}, dict):
        return "data", "invalid", "The data is an object."
    return None


def _named(one: Rejected) -> Rejected:
    """A refusal with the field's name as CloudEvents have it."""
    first, dot, rest = one.field.partition(".")
    return Rejected(
        one.index, f"{_CLOUD_NAMES.get(first, first)}{dot}{rest}", one.code, one.message
    )
