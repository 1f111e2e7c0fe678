# SPDX-License-Identifier: Apache-2.0
"""What the gateway knows of the house: feed records in, compiled products and grants out.

`apply` takes one record of the grants feed; `link` brings the records, from the database or from
the last good state on disk. A record older than the one known of its entity changes nothing, so
a late look-up can't bring back what a later change ended; and what a snapshot did not bring is
taken only from a record that is no older than the snapshot.

Records lie packed (see `records`). A grant is joined when it is first asked for and stays the
same object until something that it depends on changes.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hmac import compare_digest
from ipaddress import IPv4Network, IPv6Network, ip_network
from uuid import UUID

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.gateway.head import RequestHead
from nimbus.gateway.records import KINDS, Packed, Record, Records, entity_of, pack, unpack
from nimbus.gateway.route import Match, RouteTable
from nimbus.gateway.upstream import Address, Upstream, read_upstream
from nimbus.rules.billable import BELOW_500, read_statuses
from nimbus.rules.grants import (
    AddressList,
    Grant,
    Key,
    Plan,
    Route,
    Standing,
    Subscription,
    Taps,
    choose_subscription,
)
from nimbus.rules.limits import Rate
from nimbus.rules.metering import CALLS
from nimbus.rules.meters import read_path
from nimbus.rules.pricing import Charge, read_charge

log = get_logger("gateway.state")

Row = tuple[int, str, str, Record | None]  # number, kind, entity id, record (None: gone)

WARM_GRANTS = 4096
MAX_WAYS = 512
_REVOKED = "Revoked"
_COMPILED = frozenset(("clock", "product", "plan", "block"))
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


@dataclass(frozen=True, slots=True)
class Block:
    """An address range or a key that the operator refuses until `ends_at` (business time)."""

    network: IPv4Network | IPv6Network | None
    key_id: UUID | None
    ends_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """What follows from the bytes of a request without its credential, which stood at `at`: the
    head (without the secret), its method and traceparent line, and which route of which product is
    asked for.
    """

    at: int
    head: RequestHead
    method: bytes
    trace: bytes
    product: Product
    number: int  # of the product: what its grants are kept under
    match: Match


class State:
    """All records of the feed up to `number`, and what is compiled of them."""

    def __init__(self, unseal: Callable[[bytes], bytes]) -> None:
        self._unseal = unseal
        self.number = 0
        self.complete = False
        self.floor = 0  # what all records began with holds as of this number
        self.instant: datetime | None = None
        self.records = Records()
        self._products: dict[str, Product] = {}
        self._products_by_slug: dict[bytes, Product] = {}
        self._products_by_host: dict[bytes, Product] = {}
        self._plans: dict[UUID, Plan] = {}
        self.blocks: dict[str, Block] = {}
        self._forget()

    def empty(self) -> "State":
        """A state that knows nothing yet, to be filled beside this one."""
        return State(self._unseal)

    def replace(self, rows: Iterable[Row]) -> None:
        """Take a snapshot in place of all that was known."""
        filled = self.empty()
        filled.follow(rows)
        self.become(filled)

    def become(self, other: "State") -> None:
        """Take what another state knows in place of all that was known, in one step."""
        vars(self).update(vars(other))
        self.floor = self.number
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
        if kind not in KINDS:
            log.warning("unknown_record", kind=kind)
            return
        known = self.records.number(kind, entity_id)
        if number < (self.floor if known is None else known):
            return
        if kind == "key" and self._brings_back(entity_id, record):
            log.error("revoked_key_stays_revoked", key=entity_id)
            return
        try:
            packed = pack(kind, entity_id, record)
        except (TypeError, ValueError):
            log.exception("unreadable_record", kind=kind, entity=entity_id)
            packed, record = pack(kind, entity_id, None), None
        self._drop(kind, entity_id, record)
        self.records.put(number, packed)
        try:
            self._compile(kind, entity_id, record)
        except (KeyError, TypeError, ValueError):
            log.exception("unreadable_record", kind=kind, entity=entity_id)
            self._compile(kind, entity_id, None)

    def take(self, number: int, packed: Packed) -> None:
        """Take one record as the copy on disk has it, into a state that is being filled."""
        if KINDS[packed.blob[0]] in _COMPILED:
            self.apply(number, *entity_of(packed), unpack(packed))
        else:
            self.records.put(number, packed)

    def product(self, slug: bytes) -> Product | None:
        """The product that is served under this slug."""
        return self._products_by_slug.get(slug)

    def product_of_host(self, host: bytes) -> Product | None:
        """The product that is served under this host name of its own."""
        return self._products_by_host.get(host)

    def blocked_until(self, address: Address, as_of_us: int) -> datetime | None:
        """When an address that is refused now is let in again (business time); None: it is in."""
        ends = [
            block.ends_at
            for block in self.blocks.values()
            if block.network is not None
            and block.network.version == address.version
            and address in block.network
            and as_of_us < clock.to_us(block.ends_at)
        ]
        return max(ends, default=None)

    def knows_key(self, digest: bytes) -> bool:
        """Whether a key with this hash is known, usable or not."""
        return self.records.key(digest) is not None

    def grant(self, digest: bytes, product: Product) -> Grant | None:
        """What the key with this hash may do at a product; None for an unknown key. The same
        object until something it depends on changes, or long nobody asked for it.
        """
        found = self.grants.get((digest, product.id.int))  # a number is quick to hash
        return self._join(digest, product.id) if found is None else found

    def _brings_back(self, entity_id: str, record: Record | None) -> bool:
        """Whether a record would make a revoked key one that works: no number may do that."""
        old = self.records.get("key", entity_id)
        return (
            old is not None
            and record is not None
            and old.get("status") == _REVOKED != record.get("status")
        )

    def _drop(self, kind: str, entity_id: str, record: Record | None) -> None:
        """Forget the grants that this change concerns."""
        if kind in _COMPILED:
            self._forget()
            return
        if not self.grants:
            return
        for known in (record, self.records.get(kind, entity_id)):
            owner = entity_id if kind == "organization" else (known or {}).get("organization_id")
            for place in self._grants_of.pop(owner, ()):
                del self.grants[place]

    def _forget(self) -> None:
        self.ways: dict[bytes, Way] = {}
        self.grants: dict[tuple[bytes, int], Grant] = {}
        self._grants_of: dict[str | None, set[tuple[bytes, int]]] = {}

    def keep_way(self, rest: bytes, way: Way) -> None:
        """Remember what requests with these bytes, their credential apart, ask for."""
        if len(self.ways) >= MAX_WAYS:
            self.ways.clear()
        self.ways[rest] = way

    def _keep(self, digest: bytes, grant: Grant) -> None:
        """Keep a grant at hand, in place of the oldest one when there are many."""
        if len(self.grants) >= WARM_GRANTS:
            place, oldest = next(iter(self.grants.items()))
            del self.grants[place]
            self._grants_of[str(oldest.key.organization_id)].discard(place)
        place = digest, grant.product_id.int
        self.grants[place] = grant
        self._grants_of.setdefault(str(grant.key.organization_id), set()).add(place)

    def _compile(self, kind: str, entity_id: str, record: Record | None) -> None:
        """Make of a record what calls need at once; grants are joined when they are asked for."""
        if kind == "clock":
            self._take_clock(record)
        elif kind == "product":
            self._take_product(entity_id, record)
        elif kind == "plan":
            self._take_plan(entity_id, record)
        elif kind == "block":
            self._take_block(entity_id, record)

    def _take_clock(self, record: Record | None) -> None:
        self.instant = None if record is None else clock.from_wire(record["now"])

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
                charges=_charges(record.get("charges", ())),
            )

    def _take_block(self, entity_id: str, record: Record | None) -> None:
        self.blocks.pop(entity_id, None)
        if record is not None:
            self.blocks[entity_id] = Block(
                network=None if record["network"] is None else ip_network(record["network"]),
                key_id=_id(record["key_id"]),
                ends_at=clock.from_wire(record["ends_at"]),
            )

    def _product(self, record: Record) -> Product:
        upstreams = {}
        for environment, upstream in record["upstreams"].items():
            try:
                upstreams[environment] = read_upstream(
                    upstream, self._open, f"{record['id']}/{environment}"
                )
            except (KeyError, TypeError, ValueError):
                log.exception("unusable_upstream", product=record["id"])
        own = _addresses(record)
        check = record.get("parameter_check", False)
        taps = _taps(record.get("taps", ()))
        statuses = record.get("billable_statuses")
        return Product(
            id=UUID(record["id"]),
            slug=record["slug"].encode(),
            provider_organization_id=UUID(record["provider_organization_id"]),
            key_in_query=record["key_in_query"],
            upstreams=upstreams,
            routes=RouteTable(_route(route, own, taps, check=check) for route in record["routes"]),
            hosts=tuple(host.encode() for host in record.get("hosts", ())),
            billable=BELOW_500 if statuses is None else read_statuses(statuses),
            websockets=record.get("websockets", False),
        )

    def _open(self, sealed: str) -> bytes:
        try:
            return self._unseal(base64.b64decode(sealed, validate=True))
        except binascii.Error:
            raise ValueError("the sealed credentials are not base64") from None

    def _join(self, digest: bytes, product_id: UUID) -> Grant | None:
        record = self.records.key(digest)
        if record is None:
            return None
        try:
            grant = self._grant(record, digest.hex(), product_id)
        except (KeyError, TypeError, ValueError):
            log.exception("unreadable_key", key=record["id"])
            self.records.put(self.number, pack("key", record["id"], None))
            return None
        self._keep(digest, grant)
        return grant

    def _grant(self, record: Record, digest: str, product_id: UUID) -> Grant:
        retired = not compare_digest(digest, record["hash"])
        key = _key(record, clock.from_wire(record["retires_at"]) if retired else None)
        organization = self.records.get("organization", record["organization_id"])
        return Grant(
            key=key,
            organization_status="Suspended" if organization is None else organization["status"],
            product_id=product_id,
            subscription=choose_subscription(
                key, self._subscriptions(record["organization_id"], str(product_id))
            ),
            spending=tuple(
                _spending(standing)
                for counted in (organization or {}, record)
                for standing in counted.get("standings", ())
            ),
            blocked_until=max(
                (block.ends_at for block in self.blocks.values() if block.key_id == key.id),
                default=None,
            ),
        )

    def _subscriptions(self, organization_id: str, product_id: str) -> Iterator[Subscription]:
        """An organization's subscriptions to a product, on plans that are known."""
        for record in self.records.subscriptions(organization_id):
            if record["product_id"] != product_id:
                continue
            try:
                plan = self._plans.get(UUID(record["plan_version_id"]))
                if plan is not None:
                    yield _subscription(record, plan)
            except (KeyError, TypeError, ValueError):
                log.exception("unreadable_subscription", subscription=record["id"])


def _subscription(record: Record, plan: Plan) -> Subscription:
    return Subscription(
        id=UUID(record["id"]),
        organization_id=UUID(record["organization_id"]),
        provider_organization_id=UUID(record["provider_organization_id"]),
        product_id=UUID(record["product_id"]),
        status=record["status"],
        trial_ends_at=_instant(record["trial_ends_at"]),
        ends_at=_instant(record["ends_at"]),
        plan=plan,
        standings=tuple(_standing(standing) for standing in record["standings"]),
        currency=record.get("currency", ""),
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


def _taps(records: Iterable[Record]) -> Taps:
    """Where in answers the units of meters stand; a place that can't be read is left out."""
    found = []
    for record in records:
        try:
            found.append((record["meter"], read_path(record["path"])))
        except (KeyError, TypeError, ValueError):
            log.exception("unreadable_tap", meter=record.get("meter"))
    return tuple(found)


def _route(
    record: Record, of_product: tuple[AddressList, ...], taps: Taps, *, check: bool
) -> Route:
    """A route; `of_product` and `taps` are its product's, `check` whether parameters are."""
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
        holds=tuple(sorted(record.get("holds", {}).items())),
        taps=taps,
    )


def _standing(record: Record) -> Standing:
    return Standing(
        id=UUID(record["id"]),
        meter_key=record["meter_key"],
        limit=record["limit"],
        policy=record["policy"],
        starts_at=clock.from_wire(record["period_starts_at"]),
        ends_at=clock.from_wire(record["period_ends_at"]),
        overage_cap=record.get("overage_cap"),
    )


def _spending(record: Record) -> Standing:
    return Standing(
        id=UUID(record["id"]),
        meter_key=CALLS if record["kind"] == "key_quota" else "",
        limit=record["limit"],
        policy="deny",
        starts_at=clock.from_wire(record["period_starts_at"]),
        ends_at=clock.from_wire(record["period_ends_at"]),
        kind=record["kind"],
    )


def _charges(records: Iterable[Record]) -> dict[str, tuple[Charge, ...]]:
    """A plan's charges by currency."""
    found: dict[str, tuple[Charge, ...]] = {}
    for record in records:
        charge = read_charge(
            record["meter_key"],
            record["model"],
            Decimal(record["included"]),
            Decimal(record["unit_price"]),
            record["terms"],
        )
        found[record["currency"]] = (*found.get(record["currency"], ()), charge)
    return found


def _rate(record: Record | None) -> Rate | None:
    if record is None:
        return None
    return Rate(record["amount"], record["period_s"], record["burst"])


def _instant(text: str | None) -> datetime | None:
    return None if text is None else clock.from_wire(text)


def _id(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)
