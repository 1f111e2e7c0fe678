# SPDX-License-Identifier: Apache-2.0
"""What happened: each fact is announced once, and becomes one audit row and one outbox row.

Facts are kept on the session until its transaction ends; then reactions of rooms above run, in
the same transaction, and the rows are written last, so that the lock on the audit chain's head
is held for the shortest time.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
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
_reactions: dict[type[Event], list[Reaction]] = {}

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


def announce(session: AsyncSession, actor: Actor, event: Event) -> None:
    """Say that something happened; written when the session's transaction commits."""
    session.info.setdefault(FACTS, []).append((actor, event))


def announced(session: AsyncSession) -> list[Event]:
    """The facts announced so far in this transaction."""
    return [event for _, event in session.info.get(FACTS, [])]


async def settle(session: AsyncSession) -> None:
    """Run the reactions, which may announce more, then write every fact; call before commit."""
    facts: list[tuple[Actor, Event]] = session.info.get(FACTS, [])
    done = 0
    while done < len(facts):
        actor, event = facts[done]
        done += 1
        for reaction in _reactions.get(type(event), ()):
            await reaction(session, actor, event)
    await session.flush()
    # Chain heads are locked in one order whatever the facts' own order: no deadlock.
    for actor, event in sorted(facts, key=lambda fact: fact[1].organization_id.int):
        await _write(session, actor, event)
    facts.clear()


async def _write(session: AsyncSession, actor: Actor, event: Event) -> None:
    moment = clock.now()
    body = {
        "action": event.action,
        "entity_type": event.entity_type,
        "entity_id": event.entity_id,
        "actor_kind": actor.kind,
        "user_id": actor.user_id if actor.user_id != NIL else None,
        "key_id": actor.key_id,
        "acting_for": actor.organization_id if actor.platform_role else None,
        "ip": actor.ip,
        "request_id": actor.request_id,
        "before": _masked(event.before),
        "after": _masked(event.after),
        "reason": event.reason,
        "at": clock.to_wire(moment),
    }
    await session.execute(
        text("SELECT audit_append(:id, :organization_id, :body)"),
        {"id": new_id(), "organization_id": event.organization_id, "body": to_json(body)},
    )
    await session.execute(
        text(
            "INSERT INTO outbox (id, organization_id, provider_organization_id, name, entity_type,"
            " entity_id, payload, occurred_at) VALUES (:id, :organization_id, :provider, :name,"
            " :entity_type, :entity_id, CAST(:payload AS jsonb), :occurred_at)"
        ),
        {
            "id": new_id(),
            "organization_id": event.organization_id,
            "provider": event.provider_organization_id,
            "name": event.name,
            "entity_type": event.entity_type,
            "entity_id": event.entity_id,
            "payload": to_json(_masked(event.after)),
            "occurred_at": moment,
        },
    )


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no blanks; ids, instants and decimals as their text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
    )


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value)


def _masked(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: "***" if any(word in name for word in SECRET_WORDS) else value
        for name, value in values.items()
    }
