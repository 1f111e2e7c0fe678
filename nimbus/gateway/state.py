# SPDX-License-Identifier: Apache-2.0
"""What the gateway knows of the house: feed records in, compiled products and grants out.

`apply` takes one record of the grants feed and is pure but for this object; `link` brings the
records, from the database or from the last good state on disk. A record older than the one known
of its entity changes nothing, so a late look-up can't bring back what a later change ended.
Everything joined is rebuilt on demand after any change.
"""

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.gateway.route import RouteTable
from nimbus.gateway.upstream import Upstream, read_upstream
from nimbus.rules.billable import BELOW_500, read_statuses
from nimbus.rules.grants import (
    AddressList,
    Grant,
    Key,
    Plan,
    Route,
    Standing,
    Subscription,
    choose_subscription,
)
from nimbus.rules.limits import Rate

log = get_logger("gateway.state")

Record = dict[str, Any]
Row = tuple[int, str, str, Record | None]  # number, kind, entity id, record (None: gone)

_UNJOINED = Plan(id=UUID(int=0), slug="", name="", rank=0, rate=None)
SERVED_PRODUCTS = frozenset(("published", "retired"))


@dataclass(frozen=True, slots=True)
class Product:
    """A product as calls need it; `upstreams` by environment, `hosts` its own names, `billable`
    the statuses for which a call is billed.
    """

    id: UUID
    slug: bytes
    provider_organization_id: UUID
    key_in_query: bool
    upstreams: dict[str, Upstream]
    routes: RouteTable
    hosts: tuple[bytes, ...] = ()
    billable: frozenset[int] = BELOW_500
    websockets: bool = False


class State:
    """All records of the feed up to `number`, and what is compiled of them."""

    def __init__(self, unseal: Callable[[bytes], bytes]) -> None:
        self._unseal = unseal
        self.number = 0
        self.complete = False
        self.instant: datetime | None = None
        self._clear()

    def replace(self, rows: Iterable[Row]) -> None:
        """Take a snapshot in place of all that was known."""
        self._clear()
        self.number = 0
        self.follow(rows)
        self.complete = True

    def follow(self, rows: Iterable[Row]) -> None:
        """Take the feed's next records, in order."""
        for row in rows:
            self.apply(*row)
            self.number = max(self.number, row[0])

    def apply(self, number: int, kind: str, entity_id: str, record: Record | None) -> None:
        """Take one record: what it says of its entity holds from now on. The feed's place stays
        where it is, because a look-up may run ahead of it.
        """
        if number < self._numbers.get((kind, entity_id), 0):
            return
        take = self._takers.get(kind)
        if take is None:
            log.warning("unknown_record", kind=kind)
            return
        self._numbers[kind, entity_id] = number
        self._grants.clear()
        try:
            take(entity_id, record)
        except (KeyError, TypeError, ValueError):
            take(entity_id, None)
            log.exception("unreadable_record", kind=kind, entity=entity_id)
            return
        if record is None:
            self.records.pop((kind, entity_id), None)
        else:
            self.records[kind, entity_id] = record

    def rows(self) -> list[Row]:
        """All live records with their numbers, for the copy on disk."""
        return [
            (self._numbers[kind, entity_id], kind, entity_id, record)
            for (kind, entity_id), record in self.records.items()
        ]

    def product(self, slug: bytes) -> Product | None:
        """The product that is served under this slug."""
        return self._products_by_slug.get(slug)

    def product_of_host(self, host: bytes) -> Product | None:
        """The product that is served under this host name of its own."""
        return self._products_by_host.get(host)

    def knows_key(self, digest: bytes) -> bool:
        """Whether a key with this hash is known, usable or not."""
        return digest in self._keys

    def grant(self, digest: bytes, product: Product) -> Grant | None:
        """What the key with this hash may do at a product; None for an unknown key."""
        found = self._grants.get((digest, product.id))
        if found is None:
            key = self._keys.get(digest)
            if key is None:
                return None
            found = self._compile(key, product.id)
            self._grants[digest, product.id] = found
        return found

    def _clear(self) -> None:
        self.records: dict[tuple[str, str], Record] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._organizations: dict[UUID, str] = {}
        self._products: dict[str, Product] = {}
        self._products_by_slug: dict[bytes, Product] = {}
        self._products_by_host: dict[bytes, Product] = {}
        self._plans: dict[UUID, Plan] = {}
        self._contracts: dict[UUID, dict[str, tuple[UUID, Subscription]]] = {}
        self._contract_owner: dict[str, UUID] = {}
        self._keys: dict[bytes, Key] = {}
        self._key_digests: dict[str, list[bytes]] = {}
        self._grants: dict[tuple[bytes, UUID], Grant] = {}
        self._takers: dict[str, Callable[[str, Record | None], None]] = {
            "clock": self._take_clock,
            "organization": self._take_organization,
            "product": self._take_product,
            "plan": self._take_plan,
            "subscription": self._take_subscription,
            "key": self._take_key,
        }

    def _take_clock(self, _: str, record: Record | None) -> None:
        self.instant = None if record is None else clock.from_wire(record["now"])

    def _take_organization(self, entity_id: str, record: Record | None) -> None:
        if record is None:
            self._organizations.pop(UUID(entity_id), None)
        else:
            self._organizations[UUID(entity_id)] = record["status"]

    def _take_product(self, entity_id: str, record: Record | None) -> None:
        old = self._products.pop(entity_id, None)
        if old is not None and self._products_by_slug.get(old.slug) is old:
            del self._products_by_slug[old.slug]
        for host in () if old is None else old.hosts:
            if self._products_by_host.get(host) is old:
                del self._products_by_host[host]
        if record is None or record["status"] not in SERVED_PRODUCTS:
            return
        product = self._product(record)
        self._products[entity_id] = product
        self._products_by_slug[product.slug] = product
        self._products_by_host.update(dict.fromkeys(product.hosts, product))

    def _take_plan(self, entity_id: str, record: Record | None) -> None:
        self._plans.pop(UUID(entity_id), None)
        if record is not None:
            self._plans[UUID(entity_id)] = Plan(
                id=UUID(entity_id),
                slug=record["slug"],
                name=record["name"],
                rank=record["rank"],
                rate=_rate(record["rate"]),
            )

    def _take_subscription(self, entity_id: str, record: Record | None) -> None:
        owner = self._contract_owner.pop(entity_id, None)
        if owner is not None:
            self._contracts[owner].pop(entity_id, None)
        if record is not None:
            subscription = _subscription(record)
            owner = subscription.organization_id
            self._contract_owner[entity_id] = owner
            plan_id = UUID(record["plan_version_id"])
            self._contracts.setdefault(owner, {})[entity_id] = plan_id, subscription

    def _take_key(self, entity_id: str, record: Record | None) -> None:
        for digest in self._key_digests.pop(entity_id, []):
            self._keys.pop(digest, None)
        if record is None:
            return
        self._keys[bytes.fromhex(record["hash"])] = _key(record, None)
        digests = [bytes.fromhex(record["hash"])]
        self._key_digests[entity_id] = digests
        if record["retired_hash"]:
            digests.append(bytes.fromhex(record["retired_hash"]))
            self._keys[digests[1]] = _key(record, clock.from_wire(record["retires_at"]))

    def _product(self, record: Record) -> Product:
        upstreams = {}
        for environment, upstream in record["upstreams"].items():
            try:
                upstreams[environment] = read_upstream(upstream, self._open)
            except (KeyError, TypeError, ValueError):
                log.exception("unusable_upstream", product=record["id"])
        own = _addresses(record)
        check = record.get("parameter_check", False)
        statuses = record.get("billable_statuses")
        return Product(
            id=UUID(record["id"]),
            slug=record["slug"].encode(),
            provider_organization_id=UUID(record["provider_organization_id"]),
            key_in_query=record["key_in_query"],
            upstreams=upstreams,
            routes=RouteTable(_route(route, own, check=check) for route in record["routes"]),
            hosts=tuple(host.encode() for host in record.get("hosts", ())),
            billable=BELOW_500 if statuses is None else read_statuses(statuses),
            websockets=record.get("websockets", False),
        )

    def _open(self, sealed: str) -> bytes:
        try:
            return self._unseal(base64.b64decode(sealed, validate=True))
        except binascii.Error:
            raise ValueError("the sealed credentials are not base64") from None

    def _compile(self, key: Key, product_id: UUID) -> Grant:
        contracts = self._contracts.get(key.organization_id, {}).values()
        found = [
            replace(subscription, plan=self._plans[plan_id])
            for plan_id, subscription in contracts
            if subscription.product_id == product_id and plan_id in self._plans
        ]
        return Grant(
            key=key,
            organization_status=self._organizations.get(key.organization_id, "Suspended"),
            product_id=product_id,
            subscription=choose_subscription(key, found),
        )


def _subscription(record: Record) -> Subscription:
    """A subscription as its record says it, not joined with its plan yet."""
    return Subscription(
        id=UUID(record["id"]),
        organization_id=UUID(record["organization_id"]),
        provider_organization_id=UUID(record["provider_organization_id"]),
        product_id=UUID(record["product_id"]),
        status=record["status"],
        trial_ends_at=_instant(record["trial_ends_at"]),
        ends_at=_instant(record["ends_at"]),
        plan=_UNJOINED,
        standings=tuple(_standing(standing) for standing in record["standings"]),
    )


def _key(record: Record, retires_at: datetime | None) -> Key:
    return Key(
        id=UUID(record["id"]),
        organization_id=UUID(record["organization_id"]),
        environment=record["environment"],
        status=record["status"],
        scopes=frozenset(record["scopes"]),
        networks=tuple(ip_network(network, strict=False) for network in record["ip_allow"]),
        expires_at=_instant(record["expires_at"]),
        retires_at=retires_at,
        rate=None if record["rate_per_minute"] is None else Rate(record["rate_per_minute"], 60),
        product_id=_id(record["product_id"]),
        subscription_id=_id(record["subscription_id"]),
    )


def _addresses(record: Record) -> tuple[AddressList, ...]:
    """The address list of a product or route; none where it says nothing."""
    allow, deny = (
        tuple(ip_network(network, strict=False) for network in record.get(name, ()))
        for name in ("ip_allow", "ip_deny")
    )
    return (AddressList(allow, deny),) if allow or deny else ()


def _route(record: Record, of_product: tuple[AddressList, ...], *, check: bool) -> Route:
    """A route; `of_product` is its product's address list, `check` whether parameters are."""
    required = record.get("required", ()) if check else ()
    return Route(
        id=UUID(record["id"]),
        method=record["method"],
        path=record["path"],
        upstream_path=record["upstream_path"] or record["path"],
        scope=record["scope"],
        minimum_rank=record["minimum_rank"],
        minimum_plan=record["minimum_plan"],
        weight=record["weight"],
        rate=_rate(record["rate"]),
        address_lists=of_product + _addresses(record),
        required=tuple(name.encode() for name in required),
        strict_journal=record.get("strict_journal", False),
    )


def _standing(record: Record) -> Standing:
    return Standing(
        id=UUID(record["id"]),
        meter_key=record["meter_key"],
        limit=record["limit"],
        policy=record["policy"],
        starts_at=clock.from_wire(record["period_starts_at"]),
        ends_at=clock.from_wire(record["period_ends_at"]),
    )


def _rate(record: Record | None) -> Rate | None:
    if record is None:
        return None
    return Rate(record["amount"], record["period_s"], record["burst"])


def _instant(text: str | None) -> datetime | None:
    return None if text is None else clock.from_wire(text)


def _id(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)
