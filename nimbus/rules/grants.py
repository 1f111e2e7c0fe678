# SPDX-License-Identifier: Apache-2.0
"""May this key make this call? One total function over what the house compiled.

    Key, organization status, Subscription with its Plan  →  Grant (of one key for one product)
    decide(grant, route, address, as_of)  →  Verdict

`decide` never raises: every input gives a verdict, allowed or with a code of spec 08. The order
of the checks is the pipeline of spec 03, steps 3 to 6. Times are business time in UTC; a period
or a validity is half-open, so what ends at an instant has ended at that instant.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal
from urllib.parse import unquote_to_bytes
from uuid import UUID
from zlib import crc32

from nimbus.rules.limits import Rate
from nimbus.rules.metering import Environment
from nimbus.rules.meters import Path
from nimbus.rules.pricing import Charge
from nimbus.rules.quotas import OverQuotaPolicy, ceiling

KEY_PREFIXES = (b"nimbus_live_", b"nimbus_test_")
KEY_RANDOM_LENGTH, KEY_CHECK_LENGTH = 43, 6
_BASE62 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE62_SET = frozenset(_BASE62)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Taps = tuple[tuple[str, Path], ...]
"""Meter keys, each with the path of its units in a JSON answer."""
StandingKind = Literal["quota", "key_quota", "organization_spend", "key_spend", "balance"]
# Which of several subscriptions to one product speaks for the key, the first being the best.
_PRECEDENCE = ("Active", "Trial", "PastDue", "Cancelled", "Suspended", "Paused", "Expired")


@dataclass(frozen=True, slots=True)
class Standing:
    """The quota counter of one meter and period of a subscription; `limit` None is no limit. Under
    `overage` it may have a cap: so many units over the limit are served, and no more.

    A `key_quota` counts a key's calls in a month. The other kinds count money, in millionths of a
    minor unit, and have no meter: what calls of the organization or of the key cost in a month, or
    take from the prepaid balance.
    """

    id: UUID
    meter_key: str
    limit: int | None
    policy: OverQuotaPolicy
    starts_at: datetime
    ends_at: datetime
    kind: StandingKind = "quota"
    overage_cap: int | None = None

    @property
    def ends(self) -> bool:
        """Whether there is a unit that is not served any more."""
        return ceiling(self.limit, self.policy, self.overage_cap) is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan version a subscription is on; `charges` are its prices of usage by currency."""

    id: UUID
    slug: str
    name: str
    rank: int
    rate: Rate | None
    charges: Mapping[str, tuple[Charge, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscription:
    """An organization's subscription to one product, as it stands."""

    id: UUID
    organization_id: UUID
    provider_organization_id: UUID
    product_id: UUID
    status: str
    trial_ends_at: datetime | None
    ends_at: datetime | None
    plan: Plan
    standings: tuple[Standing, ...]
    currency: str = ""

    def standings_at(self, meter_key: str, as_of: datetime) -> tuple[Standing, ...]:
        """The counters of a meter whose period contains the instant."""
        return tuple(
            standing
            for standing in self.standings
            if standing.meter_key == meter_key and standing.starts_at <= as_of < standing.ends_at
        )


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. `ends_at` is the end of a rotated-out secret's grace."""

    id: UUID
    organization_id: UUID
    environment: Environment
    status: str
    scopes: frozenset[str]
    networks: tuple[Network, ...]
    expires_at: datetime | None
    retires_at: datetime | None
    rate: Rate | None
    product_id: UUID | None
    subscription_id: UUID | None


@dataclass(frozen=True, slots=True)
class Grant:
    """What one key may do at one product: everything `decide` looks at, and the spend limits and
    prepaid balance that its calls count against. `blocked_until`: the operator refuses the key.

    `permits` is room for what the gateway compiled of this grant, by route. It is no part of what
    the grant says, and goes with it: who drops a grant drops its permits.
    """

    key: Key
    organization_status: str
    product_id: UUID
    subscription: Subscription | None
    spending: tuple[Standing, ...] = ()
    blocked_until: datetime | None = None
    permits: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AddressList:
    """Where calls may come from: an empty `allow` is everywhere, and `deny` wins."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()

    def permits(self, address: Address) -> bool:
        """Whether a call may come from this address (an IPv4 one in its plain form).

        allow 192.0.2.0/24, deny 192.0.2.7/32: yes to 192.0.2.8, no to 192.0.2.7 and 2001:db8::1.
        """
        if any(address in network for network in self.deny):
            return False
        return not self.allow or any(address in network for network in self.allow)


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of a product, as the provider published it.

    `address_lists` are the product's and the route's own, where they say anything; `required` the
    names of query parameters without which the product wants no call; `strict_journal`: synced
    before the answer. `holds` are the most units of reported meters that a call uses, by key;
    `taps` the meters whose units stand in the answer, with the place. `in_steps`: an answer can't
    be passed on in one step.
    """

    id: UUID
    method: str
    path: str
    upstream_path: str
    scope: str | None
    minimum_rank: int | None
    minimum_plan: str | None
    weight: int
    rate: Rate | None
    address_lists: tuple[AddressList, ...] = ()
    required: tuple[bytes, ...] = ()
    strict_journal: bool = False
    holds: tuple[tuple[str, int], ...] = ()
    taps: Taps = ()
    in_steps: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """What follows from what was said."""
        object.__setattr__(self, "in_steps", self.strict_journal or bool(self.taps))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed when `code` is empty; else the refusal's code and a sentence safe for strangers."""

    code: str = ""
    detail: str = ""


ALLOWED = Verdict()
_INVALID = Verdict("invalid_api_key")
_REVOKED = Verdict("api_key_revoked")
_EXPIRED = Verdict("api_key_expired")
_BLOCKED = Verdict("rate_limited", "This key is blocked for a time.")
_KEY_ADDRESS = Verdict("ip_not_allowed", "This key may not be used from this address.")
_ADDRESS = Verdict("ip_not_allowed", "This operation may not be called from this address.")
_ORGANIZATION = Verdict("organization_suspended")
_NONE = Verdict("subscription_required", "There is no active subscription to this product.")
_ENDED = Verdict("subscription_required", "The subscription to this product has ended.")
_TRIAL_ENDED = Verdict("subscription_required", "The trial of this product has ended.")
_PAUSED = Verdict("subscription_required", "The subscription to this product is paused.")
_OTHER_PRODUCT = Verdict("subscription_required", "This key belongs to another product.")
_SUSPENDED = Verdict("subscription_suspended")


def decide(
    grant: Grant | None,
    route: Route,
    address: Address,
    as_of: datetime,
) -> Verdict:
    """Whether the call may go on to the rate limits. `grant` None is an unknown key.

    Source: spec 03 "The pipeline" steps 3 to 6; which subscription states are served: the same.
    """
    if grant is None:
        return _INVALID
    return (
        _key_verdict(grant, as_of)
        or address_verdict(grant.key, route, address)
        or _organization_verdict(grant)
        or _subscription_verdict(grant, as_of)
        or _route_verdict(grant, route)
        or ALLOWED
    )


def turning_points(grant: Grant) -> tuple[datetime, ...]:
    """The instants at which `decide` may say something else of this grant, or other counters are
    in force. Between two of them its verdict stays the same for each route and address.

    A key until June of a trial until 15 May, with a quota of May → 15 May, 1 May, 1 June (twice).
    """
    key, subscription = grant.key, grant.subscription
    found = [key.expires_at, key.retires_at, grant.blocked_until]
    if subscription is not None:
        found += [subscription.trial_ends_at, subscription.ends_at]
        for standing in (*subscription.standings, *grant.spending):
            found += [standing.starts_at, standing.ends_at]
    return tuple(instant for instant in found if instant is not None)


def address_verdict(key: Key, route: Route, address: Address) -> Verdict | None:
    """The refusal of a call from this address, by the lists of key, product and route; None when
    all permit it. Source: spec 03 step 3.
    """
    if key.networks and not any(address in network for network in key.networks):
        return _KEY_ADDRESS
    for addresses in route.address_lists:
        if not addresses.permits(address):
            return _ADDRESS
    return None


def parameter_verdict(route: Route, query: bytes | None) -> Verdict | None:
    """The refusal of a call whose query lacks a required parameter, which it names; None when all
    are there. A parameter without a value is there: what it says is the upstream's to judge.
    Source: spec 03 step 6, after plan and scope.

    required (city,): `city=Delft`, `?city` and `c%69ty=` pass; `City=Delft` and no query don't.
    """
    if not route.required:
        return None
    given = {_plain_name(part) for part in query.split(b"&")} if query else set()
    for name in route.required:
        if name not in given:
            detail = f"The query parameter {name.decode()} is missing."
            return Verdict("missing_parameter", detail)
    return None


def choose_subscription(key: Key, found: Iterable[Subscription]) -> Subscription | None:
    """The subscription that a key speaks for, among its organization's to one product: the one
    it is bound to, else the one in the best state. None when there is none.
    """
    candidates = [
        subscription
        for subscription in found
        if key.subscription_id in {None, subscription.id}
        and key.organization_id == subscription.organization_id
    ]
    return min(candidates, key=_precedence, default=None)


def well_formed(secret: bytes) -> bool:
    """Whether this has the form of a key and its checksum fits: what is not is refused without
    any look-up. Source: spec 11 §8.
    """
    head = KEY_PREFIXES[0]
    if len(secret) != len(head) + KEY_RANDOM_LENGTH + KEY_CHECK_LENGTH:
        return False
    if not secret.startswith(KEY_PREFIXES) or not _BASE62_SET.issuperset(secret[len(head) :]):
        return False
    return key_check(secret[:-KEY_CHECK_LENGTH]) == secret[-KEY_CHECK_LENGTH:]


def key_check(text: bytes) -> bytes:
    """The six base62 characters of the CRC-32 over what stands before them."""
    number, digits = crc32(text), bytearray()
    for _ in range(KEY_CHECK_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return bytes(reversed(digits))


def _key_verdict(grant: Grant, as_of: datetime) -> Verdict | None:
    key = grant.key
    if key.status != "Active":
        return _REVOKED
    if _over(key.expires_at, as_of) or _over(key.retires_at, as_of):
        return _EXPIRED
    if grant.blocked_until is not None and as_of < grant.blocked_until:
        return _BLOCKED
    return None


def _organization_verdict(grant: Grant) -> Verdict | None:
    if grant.organization_status in {"Suspended", "Cancelled"}:
        return _ORGANIZATION
    return None


def _subscription_verdict(grant: Grant, as_of: datetime) -> Verdict | None:
    subscription = grant.subscription
    if grant.key.product_id not in {None, grant.product_id}:
        return _OTHER_PRODUCT
    if subscription is None:
        return _NONE
    if subscription.status == "Suspended":
        return _SUSPENDED
    if subscription.status == "Paused":
        return _PAUSED
    if subscription.status == "Trial" and _over(subscription.trial_ends_at, as_of):
        return _TRIAL_ENDED
    if _over(subscription.ends_at, as_of):
        return _ENDED
    if subscription.status == "Cancelled" and subscription.ends_at is None:
        return _ENDED
    if subscription.status not in {"Active", "Trial", "PastDue", "Cancelled"}:
        return _ENDED
    return None


def _route_verdict(grant: Grant, route: Route) -> Verdict | None:
    assert grant.subscription is not None
    if route.minimum_rank is not None and grant.subscription.plan.rank < route.minimum_rank:
        name = route.minimum_plan or "a higher plan"
        return Verdict("plan_required", f"This operation needs the plan {name} or a higher one.")
    if route.scope is not None and route.scope not in grant.key.scopes:
        return Verdict("insufficient_scope", f"This operation needs the scope {route.scope}.")
    return None


def _plain_name(part: bytes) -> bytes:
    """The name of one `name=value` of a query, as a form means it."""
    return unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" "))


def _over(end: datetime | None, as_of: datetime) -> bool:
    return end is not None and as_of >= end


def _precedence(subscription: Subscription) -> int:
    status = subscription.status
    return _PRECEDENCE.index(status) if status in _PRECEDENCE else len(_PRECEDENCE)
