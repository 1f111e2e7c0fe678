# SPDX-License-Identifier: Apache-2.0
"""Usage that a provider reports from outside: each event judged by itself, counted once for ever.

An event that is refused leaves nothing, not even its id; one that is accepted is stored by
`record`, beside the gateways' calls and with everything that is summed up from them. Its id is the
sender's, unique within the provider; what came first under an id holds.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b, sha1
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.catalog import MeterFacts
from nimbus.rules.metering import CALLS
from nimbus.rules.meters import MODES, matches, property_text, read_quantity
from nimbus.rules.money import EXACT
from nimbus.rules.reports import Reported, Target
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage.events import UsageCorrected, UsageReported
from nimbus.usage.service import corrections
from nimbus.usage.service.batches import record
from nimbus.usage.service.corrections import Original

MAX_EVENTS: Final = 1000
MAX_AGE: Final = timedelta(days=35)
MAX_AHEAD: Final = timedelta(minutes=5)
MAX_ID: Final = 255
MAX_PROPERTIES: Final = 50
MAX_PROPERTY_NAME: Final = 64
MAX_PROPERTY: Final = 255
PLAIN: Final = "api"
"""The source of events that don't name one."""
CONFLICT: Final = "Another event was reported under this id; it holds."

_FIELDS = frozenset(
    ("id", "subscription_id", "meter", "value", "mode", "at", "properties", "source")
)
_OF_CORRECTIONS = frozenset(
    ("id", "subscription_id", "meter", "value", "source", "corrects", "reason")
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_CANONICAL = json.JSONEncoder(sort_keys=True).encode  # one encoder: json.dumps makes many
# Those that are not taken now were taken before.
_CLAIM = text(
    "WITH taken AS (INSERT INTO usage_dedupe (organization_id, event_id, content)"
    " SELECT :provider, * FROM unnest(CAST(:ids AS uuid[]), CAST(:contents AS uuid[]))"
    " ON CONFLICT DO NOTHING RETURNING event_id)"
    " SELECT unnest(CAST(:ids AS uuid[])) EXCEPT SELECT event_id FROM taken"
)
_CLAIMED = text(
    "SELECT event_id, content FROM usage_dedupe"
    " WHERE organization_id = :provider AND event_id = ANY (CAST(:ids AS uuid[]))"
)
_ONE = Decimal(1), "1"
# Of a uuid5: its random bits, and those that say what it is.
_RANDOM, _VERSION_5 = 0xFFFFFFFFFFFF0FFF3FFFFFFFFFFFFFFF, 0x50008000000000000000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that was not taken: which one, and what is wrong with which field."""

    index: int
    field: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the events of one request."""

    accepted: int
    duplicates: int
    rejected: tuple[Rejected, ...]


class _Read(NamedTuple):
    """An event that is well formed; `content` stands for all that it says but its id."""

    position: int
    content: bytes
    event: Reported


@dataclass(frozen=True, slots=True)
class _Place:
    """What events count for that name the same subscription, meter and mode; `content` stands for
    the three, `quantities` are those that were read already.
    """

    contract: SubscriptionFacts
    meter: MeterFacts
    target: Target
    content: str
    quantities: dict[str, tuple[Decimal, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who reports to which contracts, and when; the `namespace` of ids; `meters` by product, and
    the meters that stand behind a plan's entitlements by plan version and key. `originals` are the
    events that are corrected, `corrected` is what was found of them: by which event, and the news.
    """

    actor: Actor
    namespace: bytes
    as_of: datetime
    contracts: Mapping[str, SubscriptionFacts]
    meters: Mapping[UUID, Mapping[str, MeterFacts]]
    entitled: Mapping[tuple[UUID, str], str]
    originals: Mapping[UUID, Original]
    by_event: Collection[tuple[UUID, str]]
    corrected: dict[UUID, tuple[bytes, UsageCorrected]] = field(default_factory=dict)
    places: dict[tuple[Any, Any, Any], "_Place"] = field(default_factory=dict)
    earliest: datetime = field(init=False)
    latest: datetime = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "earliest", self.as_of - MAX_AGE)
        object.__setattr__(self, "latest", self.as_of + MAX_AHEAD)

    def meter(self, contract: SubscriptionFacts, name: str) -> MeterFacts | None:
        """The meter of this key, or else of an entitlement of this key."""
        meters = self.meters[contract.product_id]
        behind = self.entitled.get((contract.plan_version_id, name), "")
        return meters.get(name) or meters.get(behind)


class _BadError(Exception):
    """What is wrong with an event: field, code, message."""


async def report(
    session: AsyncSession, actor: Actor, events: Sequence[Any], as_of: datetime
) -> Report:
    """Take the events of the provider that the actor acts for, each by itself.

    An event is `{id, subscription_id, meter, value, mode, at, properties, source}` as JSON says
    it, fractions as text (see `_read`), or rejected already; one that says what another should have
    said has `{corrects, reason}`. What an earlier event said under the
    same id is a duplicate when it says the same, and rejected when it doesn't. `as_of` is business
    time. Needs a system session: the filter by provider is here.
    """
    sender = await _sender(session, actor, events, as_of)
    rejected: list[Rejected] = []
    read: list[_Read] = []
    for index, given in enumerate(events):
        if isinstance(given, Rejected):
            rejected.append(given)
            continue
        try:
            read.append(_read(sender, index, given))
        except _BadError as bad:
            rejected.append(Rejected(index, *bad.args))
    first: dict[bytes, _Read] = {}
    for one in read:
        first.setdefault(one.event.event_id, one)
    known = await _claim(session, actor.organization_id, first)
    fresh = [one.event for event_id, one in first.items() if event_id not in known]
    holds = {event_id: one.content for event_id, one in first.items()} | known
    conflicts = [one for one in read if one.content != holds[one.event.event_id]]
    rejected += [Rejected(one.position, "id", "conflict", CONFLICT) for one in conflicts]
    if fresh:
        await record(session, fresh)
    found = Report(
        accepted=len(fresh),
        duplicates=len(read) - len(fresh) - len(conflicts),
        rejected=tuple(sorted(rejected, key=lambda one: one.index)),
    )
    if fresh:
        counts = {"accepted": found.accepted, "duplicates": found.duplicates}
        whose = actor.organization_id
        event = UsageReported(organization_id=whose, entity_id=whose, after=counts)
        announce(session, actor, event)
        ids = {one.event_id for one in fresh} if sender.corrected else set()
        for event_id, news in sender.corrected.values():
            if event_id in ids:
                announce(session, actor, news)
    return found


async def _sender(
    session: AsyncSession, actor: Actor, events: Iterable[Any], as_of: datetime
) -> _Sender:
    said = [given.get("subscription_id") for given in events if isinstance(given, dict)]
    texts = {one for one in said if isinstance(one, str)}
    known = {text: UUID(text) for text in texts if _UUID.fullmatch(text)}
    facts = await subscriptions.facts_of(session, set(known.values())) if known else {}
    contracts = {
        text: facts[subscription_id]
        for text, subscription_id in known.items()
        if subscription_id in facts
        and facts[subscription_id].provider_organization_id == actor.organization_id
    }
    products = {contract.product_id for contract in contracts.values()}
    meters = {product: await catalog.meter_facts(session, product) for product in products}
    promised = await catalog.plan_entitlements(
        session, {contract.plan_version_id for contract in contracts.values()}
    )
    entitled = {
        (version, one.key): one.meter_key
        for version, entitlements in promised.items()
        for one in entitlements
        if one.meter_key is not None
    }
    namespace = actor.organization_id.bytes
    correcting = [one for one in events if isinstance(one, dict) and one.get("corrects")]
    concerned = [contracts[one["subscription_id"]] for one in correcting if _known(one, contracts)]
    originals: dict[UUID, Original] = {}
    by_event: set[tuple[UUID, str]] = set()
    if concerned:
        ids = {one for each in correcting for one in _event_ids(namespace, each["corrects"])}
        since, provider = as_of - MAX_AGE, actor.organization_id
        originals = await corrections.originals(session, provider, concerned, ids, since)
        by_event = await corrections.priced_by_event(session, concerned)
    return _Sender(actor, namespace, as_of, contracts, meters, entitled, originals, by_event)


def _known(given: Mapping[str, Any], contracts: Mapping[str, SubscriptionFacts]) -> bool:
    named = given.get("subscription_id")
    return isinstance(named, str) and named in contracts


def _event_ids(namespace: bytes, named: Any) -> list[UUID]:
    """The events that a name can mean: of an event that was reported, or the id of a call."""
    if not isinstance(named, str):
        return []
    ids = [UUID(bytes=_event_id(namespace, named))]
    return [*ids, UUID(named)] if _UUID.fullmatch(named) else ids


def _read(sender: _Sender, index: int, given: Any) -> _Read:
    """One event as the sender says it, or what is wrong with it.

    `value` may be left out where events are counted or told apart, `mode` where the meter has one
    meaning, `at` for now.
    """
    if not isinstance(given, dict):
        raise _BadError("", "invalid", "An event is an object.")
    if given.get("corrects") is not None:
        return _correction(sender, index, given)
    if not given.keys() <= _FIELDS:
        unknown = min(given.keys() - _FIELDS)
        raise _BadError(unknown[:MAX_ID], "unknown_field", "An event has no such field.")
    external_id = _text(given, "id", None)
    source = _text(given, "source", PLAIN)
    try:
        place = sender.places[given["subscription_id"], given["meter"], given.get("mode")]
    except (KeyError, TypeError):
        place = _place(sender, given)
    meter, said_at = place.meter, given.get("at")
    quantity, amount = _quantity(given, place)
    at = _instant(said_at, place.contract, sender)
    properties = _properties(given)
    members = "" if properties is None else _CANONICAL(properties)
    instant = f"{at.replace(tzinfo=None).isoformat()}+00:00" if said_at else ""
    content = f"{place.content}\n{amount}\n{instant}\n{members}"
    counts = not meter.filters or matches(meter.filters, properties)
    member = _member(meter, properties) if counts and meter.property is not None else None
    event = Reported(
        place.target,
        _event_id(sender.namespace, external_id),
        (at - _EPOCH) // _MICROSECOND,
        quantity,
        amount,
        counts,
        source,
        external_id,
        members,
        member if place.target.live else None,
    )
    return _Read(index, blake2b(content.encode(), digest_size=16).digest(), event)


def _correction(sender: _Sender, index: int, given: Mapping[str, Any]) -> _Read:
    """What another event should have said, and why; or what is wrong with saying so."""
    said = {name: value for name, value in given.items() if value is not None}
    if not said.keys() <= _OF_CORRECTIONS:
        other = min(said.keys() - _OF_CORRECTIONS)
        text = "A correction is of the instant and the kind of what it corrects."
        raise _BadError(other[:MAX_ID], "not_allowed", text)
    external_id, source = _text(given, "id", None), _text(given, "source", PLAIN)
    named, reason = _text(given, "corrects", None), _text(given, "reason", None)
    place = _place(sender, given)
    contract, meter = place.contract, place.meter
    if meter.key != CALLS and meter.aggregation != corrections.ADDITIVE:
        raise _BadError("meter", "not_additive", "Only meters that add up can be corrected.")
    if (contract.id, meter.key) in sender.by_event:
        raise _BadError("meter", "priced_by_event", "The meter is priced by single events.")
    ids = _event_ids(sender.namespace, named)
    original = next((sender.originals[one] for one in ids if one in sender.originals), None)
    if original is None or sender.actor.test or original.subscription_id != contract.id:
        text = f"No event of the last {MAX_AGE.days} days that counted for this subscription."
        raise _BadError("corrects", "unknown_event", text)
    if meter.key not in original.quantities:
        raise _BadError("meter", "not_counted", "The event counted nothing for this meter.")
    if original.event_id in sender.corrected:
        raise _BadError("corrects", "twice", "An event is corrected once in a request.")
    quantity, amount = _quantity(given, place)
    before = original.quantities[meter.key]
    difference = EXACT.subtract(quantity, before)
    if original.counted.get(meter.key, -difference) + difference < 0:
        text = "A quota that counted the event was counted anew since."
        raise _BadError("corrects", "counted_anew", text)
    properties = _CANONICAL({"corrects": str(original.event_id), "reason": reason})
    event = Reported(
        target=replace(place.target, correction=True),
        event_id=_event_id(sender.namespace, external_id),
        occurred_us=(original.occurred_at - _EPOCH) // _MICROSECOND,
        quantity=difference,
        amount=f"{difference:f}",
        counts=True,
        source=source,
        external_id=external_id,
        properties=properties,
        member=None,
    )
    news = UsageCorrected(
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        entity_id=contract.id,
        before={"quantity": format(before.normalize(), "f")},
        after={"event_id": str(original.event_id), "meter": meter.key, "quantity": amount},
        reason=reason,
    )
    sender.corrected[original.event_id] = event.event_id, news
    content = f"{place.content}\n{amount}\n{named}\n{reason}"
    return _Read(index, blake2b(content.encode(), digest_size=16).digest(), event)


def _event_id(namespace: bytes, external_id: str) -> bytes:
    """The bytes of uuid5(namespace, external_id)."""
    digest = sha1(namespace + external_id.encode()).digest()  # noqa: S324 - the id's definition
    return (int.from_bytes(digest[:16]) & _RANDOM | _VERSION_5).to_bytes(16)


def _member(meter: MeterFacts, properties: Mapping[str, Any] | None) -> UUID:
    """What stands for the value of the property that the meter tells apart."""
    named = property_text((properties or {}).get(meter.property or ""))
    if named is None:
        text = "The meter tells the values of this property apart: a text or a number."
        raise _BadError(f"properties.{meter.property}", "missing", text)
    return UUID(bytes=blake2b(named.encode(), digest_size=16).digest())


def _place(sender: _Sender, given: Mapping[str, Any]) -> _Place:
    """Find what an event counts for, and remember it for the next one that names the same."""
    contract = sender.contracts.get(_text(given, "subscription_id", None))
    if contract is None:
        text = "You have no such subscription to a product of yours."
        raise _BadError("subscription_id", "unknown_subscription", text)
    meter = sender.meter(contract, _text(given, "meter", None))
    if meter is None:
        raise _BadError("meter", "unknown_meter", "The product has no such meter.")
    mode = given.get("mode")
    if mode is not None and mode not in MODES[meter.aggregation]:
        modes = " or ".join(MODES[meter.aggregation])
        raise _BadError("mode", "not_allowed", f"A {meter.aggregation} meter takes {modes}.")
    content = f"{contract.id}\n{meter.key}\n{mode or MODES[meter.aggregation][0]}"
    target = Target(
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        subscription_id=contract.id,
        product_id=contract.product_id,
        meter_key=meter.key,
        live=not sender.actor.test,
        reported_by=sender.actor.key_id or sender.actor.user_id,
        request_id=sender.actor.request_id or "",
    )
    place = _Place(contract, meter, target, content)
    sender.places[given["subscription_id"], given["meter"], mode] = place
    return place


def _text(given: Mapping[str, Any], name: str, default: str | None) -> str:
    value = given.get(name, default)
    if value is None:
        raise _BadError(name, "missing", "It has to be said.")
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID or not value.isprintable():
        raise _BadError(name, "invalid", f"A text of 1 to {MAX_ID} printable characters.")
    return value


def _quantity(given: Mapping[str, Any], place: _Place) -> tuple[Decimal, str]:
    """The quantity, and the same as a plain decimal text."""
    value, meter = given.get("value"), place.meter
    if value is None and meter.aggregation in {"count", "unique"}:
        return _ONE
    if value is None:
        raise _BadError("value", "missing", "It has to be said.")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _BadError("value", "invalid", 'A decimal number as a text, such as "0.5".')
    said = str(value)
    known = place.quantities.get(said)
    if known is not None:
        return known
    number = read_quantity(said)
    if number is None and said.startswith("-") and read_quantity(said[1:]) is not None:
        raise _BadError("value", "negative", "No quantity is negative.")
    if number is None:
        text = 'A decimal number such as "0.5": at most 15 digits and 12 decimals.'
        raise _BadError("value", "invalid", text)
    if meter.key == CALLS and number % 1:
        raise _BadError("value", "invalid", "Calls are whole.")
    found = place.quantities[said] = number, f"{number:f}"
    return found


def _instant(said: Any, contract: SubscriptionFacts, sender: _Sender) -> datetime:
    if said is None:
        at = sender.as_of
    else:
        wrong = "at", "invalid", "An instant such as 2026-05-01T00:00:00Z."
        if not isinstance(said, str) or not _INSTANT.fullmatch(said):
            raise _BadError(*wrong)
        try:
            at = datetime.fromisoformat(said.upper())
            if at.tzinfo is not UTC:
                at = at.astimezone(UTC)
        except (ValueError, OverflowError):
            raise _BadError(*wrong) from None
        if at < sender.earliest:
            raise _BadError("at", "too_old", f"At most {MAX_AGE.days} days back.")
        if at > sender.latest:
            raise _BadError("at", "in_future", "At most 5 minutes ahead.")
    if at < contract.started_at or (contract.ends_at is not None and at >= contract.ends_at):
        raise _BadError("at", "not_subscribed", "The subscription was not there at this instant.")
    return at


def _properties(given: Mapping[str, Any]) -> dict[str, Any] | None:
    properties = given.get("properties")
    if properties is None:
        return None
    if not isinstance(properties, dict) or len(properties) > MAX_PROPERTIES:
        raise _BadError("properties", "invalid", f"An object of at most {MAX_PROPERTIES} members.")
    for name, value in properties.items():
        if not 1 <= len(name) <= MAX_PROPERTY_NAME or not name.isprintable():
            text = f"Names have 1 to {MAX_PROPERTY_NAME} printable characters."
            raise _BadError("properties", "invalid", text)
        plain = isinstance(value, str) and len(value) <= MAX_PROPERTY and value.isprintable()
        if not plain and not (value is None or isinstance(value, bool | int)):
            text = f"A number, true, false, null, or at most {MAX_PROPERTY} printable characters."
            raise _BadError(f"properties.{name}", "invalid", text)
    return properties


async def _claim(
    session: AsyncSession, provider: UUID, first: Mapping[bytes, _Read]
) -> dict[bytes, bytes]:
    """Take these ids for this transaction's events; those that were taken before, with what was
    said under them. In one order for everybody, because who comes second waits for who came first.
    """
    if not first:
        return {}
    ids = sorted(first)
    values = {
        "provider": provider,
        "ids": _uuids(ids),
        "contents": _uuids([first[one].content for one in ids]),
    }
    known = await session.scalars(_CLAIM, values)
    ids = [one.bytes for one in known]
    if not ids:
        return {}
    rows = await session.execute(_CLAIMED, {"provider": provider, "ids": _uuids(ids)})
    return {row.event_id.bytes: row.content.bytes for row in rows}


def _uuids(ids: Iterable[bytes]) -> str:
    """A uuid[] as a text: one parameter is quicker than a thousand."""
    return f"{{{','.join([one.hex() for one in ids])}}}"
