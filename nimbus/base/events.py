# SPDX-License-Identifier: Apache-2.0
"""What happened: each fact is announced once, and becomes one audit row and one outbox row.

Facts are kept on the session until its transaction ends; then reactions of rooms above run, in
the same transaction, and the rows are written last, so that the lock on the audit chain's head
is held for the shortest time.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.ids import NIL, new_id
from nimbus.base.log import SECRET_WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact. `name` is what webhooks call it, `action` what the audit trail calls it.

    `organization_id` is whose trail it goes into (NIL: the platform's own);
    `provider_organization_id` is the other side of a two-sided fact.
    """

    name: ClassVar[str]
    action: ClassVar[str]
    entity_type: ClassVar[str]

    organization_id: UUID
    entity_id: UUID
    provider_organization_id: UUID | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


EventT = TypeVar("EventT", bound=Event)
Reaction = Callable[[AsyncSession, Actor, Any], Awaitable[None]]
SetReaction = Callable[[AsyncSession, Sequence[Any]], Awaitable[None]]
_reactions: dict[type[Event], list[Reaction]] = {}
_set_reactions: dict[type[Event], list[SetReaction]] = {}

FACTS = "nimbus_facts"


def on(
    *event_types: type[EventT],
) -> Callable[[Reaction], Reaction]:
    """Register a reaction: it runs inside the announcing transaction, before it commits."""

    def register(reaction: Reaction) -> Reaction:
        for event_type in event_types:
            known = _reactions.setdefault(event_type, [])
            if reaction not in known:
                known.append(reaction)
        return reaction

    return register


def on_all(*event_types: type[EventT]) -> Callable[[SetReaction], SetReaction]:
    """Register a reaction to all facts of a type at once: what a bill run announces by thousands.

    Like `on`, inside the announcing transaction; called with the facts in their order.
    """

    def register(reaction: SetReaction) -> SetReaction:
        for event_type in event_types:
            known = _set_reactions.setdefault(event_type, [])
            if reaction not in known:
                known.append(reaction)
        return reaction

    return register


def announce(session: AsyncSession, actor: Actor, event: Event) -> None:
    """Say that something happened; written when the session's transaction commits."""
    session.info.setdefault(FACTS, []).append((actor, event))


def announced(session: AsyncSession) -> list[Event]:
    """The facts announced so far in this transaction."""
    return [event for _, event in session.info.get(FACTS, [])]


@asynccontextmanager
async def rehearsal(session: AsyncSession) -> AsyncIterator[None]:
    """Do something to see what it comes to: all that the block wrote and announced is undone.

    Rows that it loaded are to be read again afterwards.
    """
    facts = session.info.setdefault(FACTS, [])
    known = len(facts)
    savepoint = await session.begin_nested()
    try:
        yield
    finally:
        await savepoint.rollback()
        del facts[known:]


async def settle(session: AsyncSession) -> None:
    """Run the reactions, which may announce more, then write every fact; call before commit."""
    facts: list[tuple[Actor, Event]] = session.info.get(FACTS, [])
    done = 0
    while done < len(facts):
        new, done = facts[done:], len(facts)
        for actor, event in new:
            for reaction in _reactions.get(type(event), ()):
                await reaction(session, actor, event)
        for event_type in dict.fromkeys(type(event) for _, event in new):
            for set_reaction in _set_reactions.get(event_type, ()):
                await set_reaction(session, [fact for _, fact in new if type(fact) is event_type])
    await session.flush()
    if facts:
        # Chain heads are locked in one order whatever the facts' own order: no deadlock.
        await _write(session, sorted(facts, key=lambda fact: fact[1].organization_id.int))
    facts.clear()


async def _write(session: AsyncSession, facts: Sequence[tuple[Actor, Event]]) -> None:
    moment = clock.now()
    occurred_at = moment.isoformat()
    trail: list[tuple[str, str, str]] = []
    told: list[dict[str, Any]] = []
    for actor, event in facts:
        organization_id = str(event.organization_id)
        provider_id = event.provider_organization_id
        entity_id = str(event.entity_id)
        after = _masked(event.after)
        body = _body(actor, event, entity_id, after, moment)
        trail.append((str(new_id()), organization_id, to_json(body)))
        told.append(
            {
                "id": str(new_id()),
                "organization_id": organization_id,
                "provider_organization_id": provider_id and str(provider_id),
                "name": event.name,
                "entity_type": event.entity_type,
                "entity_id": entity_id,
                "payload": after,
                "occurred_at": occurred_at,
            }
        )
    audit = text("SELECT audit_append(CAST(:rows AS jsonb))")
    await session.execute(audit, {"rows": json.dumps(trail)})
    await session.execute(_INTO_OUTBOX, {"rows": to_json(told)})


_INTO_OUTBOX = text(
    """
    INSERT INTO outbox (id, organization_id, provider_organization_id, name, entity_type,
        entity_id, payload, occurred_at)
    SELECT id, organization_id, provider_organization_id, name, entity_type, entity_id, payload,
        occurred_at FROM jsonb_populate_recordset(NULL::outbox, CAST(:rows AS jsonb))
    """
)


def _body(
    actor: Actor, event: Event, entity_id: str, after: Mapping[str, Any], moment: datetime
) -> dict[str, Any]:
    return {
        "action": event.action,
        "entity_type": event.entity_type,
        "entity_id": entity_id,
        "actor_kind": actor.kind,
        "user_id": actor.user_id if actor.user_id != NIL else None,
        "key_id": actor.key_id,
        "acting_for": actor.organization_id if actor.platform_role else None,
        "ip": actor.ip,
        "request_id": actor.request_id,
        "before": _masked(event.before),
        "after": after,
        "reason": event.reason,
        "at": clock.to_wire(moment),
    }


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no blanks; ids, instants and decimals as their text."""
    return _CANONICAL.encode(value)


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value)


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
)


def _masked(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "***" if _is_secret(name) else value for name, value in values.items()}


@cache
def _is_secret(name: str) -> bool:
    return any(word in name for word in SECRET_WORDS)
