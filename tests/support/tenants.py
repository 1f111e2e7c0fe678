# SPDX-License-Identifier: Apache-2.0
"""Made-up tenants: fourteen months of contract, usage and bill runs, as the oracle reads them.

`law_of` puts the same facts to the law, run by run, as the bill run does: each looks only at the
periods that may still get usage, and at what was billed of them.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from nimbus.rules.bill import Bill, BillFacts, draft
from nimbus.rules.contracts import (
    Contract,
    ContractPeriod,
    PlanTerms,
    Segment,
    contract_periods,
    metered,
)
from nimbus.rules.coupons import Coupon
from nimbus.rules.invoicing import LineDraft, MeterUsage
from nimbus.rules.meters import Aggregation, Reading, period_value
from nimbus.rules.periods import Anchor, Period, period
from nimbus.rules.pricing import Charge, Tier
from nimbus.rules.tax import TaxTreatment

Facts = dict[str, Any]
Terms = list[tuple[datetime, list[Facts]]]
"""(from, the plan and its add-ons); none while paused."""

ZONES = (
    "UTC", "Europe/Amsterdam", "Europe/London", "America/New_York", "America/Sao_Paulo",
    "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia",
    "Pacific/Kiritimati", "Antarctica/Troll",
)  # fmt: skip
MONTHS_14 = timedelta(days=426)
LATE = timedelta(days=35)
EVER = datetime(1, 1, 1, tzinfo=UTC)
METERS = ("api_calls", "assets", "reports", "storage", "seats", "users", "disk")
KINDS: dict[str, Aggregation] = {
    "assets": "max",
    "seats": "last",
    "users": "unique",
    "disk": "time_weighted",
}
MODELS = (
    "unit", "unit", "unit", "graduated", "graduated_percentage", "volume", "package", "percentage",
    "stair_step", "capacity", "cost_plus",
)  # fmt: skip
TIERED = {"graduated", "graduated_percentage", "volume", "stair_step", "capacity"}


def tenant(rng: random.Random) -> Facts:
    """One tenant's raw facts."""
    start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(3 * 366 * 86_400))
    if rng.random() < 0.5:
        start = start.replace(hour=0, minute=0, second=0)
    interval = rng.choice(("month",) * 12 + ("quarter", "year", "week"))
    facts: Facts = {
        "zone": rng.choice(ZONES),
        "anchor": start,
        "interval": interval,
        "count": 1 if rng.random() < 0.9 else 2,
        "calendar": rng.random() < 0.3,
        "digits": 2,
        "ends_at": None,
        "kinds": KINDS,
    }
    until = start + MONTHS_14
    ends = list(_ends(facts, until))
    if rng.random() < 0.3:
        facts["ends_at"] = _moment(rng, start, until, ends)
    told = rng.choice((start, facts["ends_at"] or start))
    terms = _terms(rng, facts, until, ends)
    edges = [begin for begin, _ in terms]
    facts["events"] = _events(rng, start, until, [*ends, *edges])
    items = []
    if rng.random() < 0.2:
        items = [(_moment(rng, start, until, ends), str(UUID(int=100)), rng.randrange(1, 10**5))]
    facts["runs"] = _runs(rng, facts, ends, edges)
    for number, run in enumerate(facts["runs"]):
        run |= {"invoice": number, "kind": "period", "since": EVER, "gifts": {}}
        run["ends_at"] = facts["ends_at"] if told <= run["at"] else None
        run["terms"] = _known_terms(terms, run["at"])
        run["one_off"] = [(source, minor) for at, source, minor in items if at <= run["at"]]
    return facts


def _known_terms(terms: Terms, at: datetime) -> list[tuple[datetime, datetime | None, list[Facts]]]:
    """The terms that were agreed by an instant, each until the next; a change is a surprise."""
    known = [one for one in terms if one[0] <= at]
    ends = [*(begin for begin, _ in known[1:]), None]
    return [(a, b, items) for (a, items), b in zip(known, ends, strict=True)]


def _ends(facts: Facts, until: datetime) -> Sequence[datetime]:
    number, found = 0, []
    while (span := period(anchor_of(facts), number)).ends_at <= until:
        found.append(span.ends_at)
        number += 1
    return found


def _moment(
    rng: random.Random, start: datetime, until: datetime, ends: Sequence[datetime]
) -> datetime:
    if ends and rng.random() < 0.3:
        return rng.choice(ends) + timedelta(microseconds=rng.choice((-1, 0, 0, 1)))
    return start + timedelta(microseconds=rng.randrange((until - start) // timedelta.resolution))


def _terms(rng: random.Random, facts: Facts, until: datetime, ends: Sequence[datetime]) -> Terms:
    plans = [_item(rng, number) for number in range(3)]
    add_ons = [_item(rng, number) for number in range(3, 6)]
    changes = {_moment(rng, facts["anchor"], until, ends) for _ in range(rng.randrange(5))}
    starts = [facts["anchor"], *sorted(one for one in changes if one > facts["anchor"])]
    found, plan, taken = [], rng.choice(plans), []
    for number, begin in enumerate(starts):
        if number:
            plan = rng.choice(plans)
            taken = rng.sample(add_ons, rng.randrange(3))
        paused = number and rng.random() < 0.15
        found.append((begin, [] if paused else [plan, *taken]))
    return found


def _item(rng: random.Random, number: int) -> Facts:
    main = number < 3
    meters = rng.sample(METERS, rng.randrange(1, 4) if main else rng.randrange(2))
    return {
        "source": str(UUID(int=number + 1)),
        "fee": rng.choice((0, 4_900, 19_900, 9_999, 100_000, rng.randrange(10**6))),
        "quantity": 1 if main else rng.randrange(1, 4),
        "timing": rng.choice(("advance", "arrears")),
        "proration": rng.choice(("second", "second", "day", "none")),
        "commitment": rng.choice((0, 0, 0, rng.randrange(10**5))) if main else 0,
        "charges": [_charge(rng, meter) for meter in meters],
    }


def _charge(rng: random.Random, meter: str) -> Facts:
    model = rng.choice(MODELS if meter not in KINDS else MODELS[:7])
    charge: Facts = {"meter": meter, "model": model}
    if model == "unit":
        charge["unit_price"] = rng.choice(("0.002", "1.50", "0.0000123", "2.005", "0.333"))
    if model in TIERED:
        charge["tiers"] = _tiers(rng, model)
    if model == "package":
        charge |= {"package_size": rng.choice(("1", "7", "100", "0.5")), "package_price": "5.00"}
    if model in {"percentage", "cost_plus"}:
        charge["rate"] = rng.choice(("1", "1.2", "21", "0.05"))
    if model == "percentage":
        charge["fixed_per_event"] = rng.choice(("0", "0.10", "0.005"))
        if rng.random() < 0.5:
            charge["free_events"] = rng.randrange(4)
        if rng.random() < 0.5:
            charge["free_amount"] = rng.choice(("0", "15", "500.25"))
    if rng.random() < 0.5:
        charge["included"] = rng.choice(("10", "100", "1000", "0.5", "33"))
    if rng.random() < 0.2:
        charge["minimum"] = rng.choice(("10", "25.005"))
    if rng.random() < 0.2:
        charge["maximum"] = rng.choice(("125", "40.333"))
    return charge


def _tiers(rng: random.Random, model: str) -> list[Facts]:
    bounds = sorted(rng.sample(range(1, 500), rng.randrange(3)))
    return [
        {"up_to": None if bound is None else str(bound)}
        | ({"rate": rng.choice(("1", "2.5"))} if model == "graduated_percentage" else {})
        | ({"unit_price": rng.choice(("1", "0.5", "0.015", "0"))} if "_" not in model else {})
        | {"flat_fee": rng.choice(("0", "0", "10", "99.995"))}
        for bound in [*bounds, None]
    ]


def _events(
    rng: random.Random, start: datetime, until: datetime, edges: Sequence[datetime]
) -> list[tuple[datetime, datetime, str, str]]:
    found = []
    for _ in range(rng.randrange(80)):
        at = _moment(rng, start, until, edges)
        late = rng.choice((0, 0, 0, rng.randrange(35 * 86_400)))
        value = rng.choice(("1", "10", "250", "0.125", "33.333333333333", "1000"))
        found.append((at, at + timedelta(seconds=late), rng.choice(METERS), value))
    return sorted(found)


def _runs(
    rng: random.Random, facts: Facts, ends: Sequence[datetime], edges: Sequence[datetime]
) -> list[Facts]:
    """At the start, each period's end, some changes and the end of service; some are repeated."""
    last = [facts["ends_at"]] if facts["ends_at"] else []
    moments = {facts["anchor"], *ends, *last, *rng.sample(edges, min(2, len(edges)))}
    moments |= {facts["anchor"] + MONTHS_14 + LATE}
    found: list[Facts] = []
    known = facts["anchor"]
    for moment in sorted(moments):
        coupons = []
        for meter in rng.sample((None, None, None, *METERS), rng.choice((0, 0, 0, 1, 2, 3))):
            off = {"percent": rng.choice(("10", "33.3", "100"))} if rng.random() < 0.5 else {}
            plan = str(UUID(int=rng.randrange(1, 4))) if meter is None else None
            where = {"meter": meter, "source": rng.choice((None, plan))}
            coupons.append(where | (off or {"amount": rng.randrange(10**4)}))
        known = max(known, moment + timedelta(hours=rng.choice((0, 0, 1, 72))))
        run = {
            "at": moment,
            "stored": known,
            "rate": rng.choice((None, "21", "21", "25.5", "0")),
            "coupons": coupons,
            "credit": rng.choice((0, 0, rng.randrange(10**4))),
            "wallet": rng.choice((0, 0, rng.randrange(10**5))),
        }
        found += [dict(run) for _ in range(2 if rng.random() < 0.1 else 1)]
    return found


def law_of(facts: Facts) -> list[dict[str, int]]:
    """What the law bills in each run, as the oracle says it."""
    anchor = anchor_of(facts)
    billed: list[LineDraft] = []
    found = []
    looked = facts["anchor"]
    for run in facts["runs"]:
        first = _first_open(anchor, looked)
        looked = run["stored"]
        begins = period(anchor, first).starts_at
        periods = tuple(contract_periods(_contract_of(anchor, first, run), run["at"]))
        bill = draft(
            BillFacts(
                currency="EUR",
                periods=periods,
                usage=usage_of(facts, periods, run["stored"]),
                items=items_of(run),
                billed=tuple(
                    line
                    for line in billed
                    if line.text == "item" or line.period.starts_at >= begins
                ),
                coupons=coupons_of(run),
                treatment=run["rate"] and TaxTreatment("S", Decimal(run["rate"]), "NL", None),
                credit_minor=run["credit"],
                wallet_minor=run["wallet"],
            ),
            run["at"],
        )
        billed += bill.lines
        found.append(_told(bill))
    return found


def _told(bill: Bill) -> dict[str, int]:
    return {
        "net": bill.totals.subtotal_minor,
        "tax": bill.totals.tax_minor,
        "total": bill.totals.total_minor,
        "credit": bill.credit_used_minor,
        "wallet": bill.wallet_used_minor,
        "due": bill.due_minor,
    }


def _first_open(anchor: Anchor, looked: datetime) -> int:
    """The first period that can have got usage since it was last looked at."""
    number = 0
    while period(anchor, number).ends_at < looked - LATE:
        number += 1
    return number


def anchor_of(facts: Facts) -> Anchor:
    """The anchor as the law's value."""
    return Anchor(
        facts["anchor"], facts["zone"], facts["interval"], facts["count"], facts["calendar"]
    )


def _contract_of(anchor: Anchor, first: int, run: Facts) -> Contract:
    """The contract, as it was known at a run, as the law's value."""
    segments = []
    for begins, ends, items in run["terms"]:
        if items:
            plan, *add_ons = map(_plan_terms, items)
            segments.append(Segment(begins, ends, plan, tuple(add_ons)))
    return Contract(anchor, first, tuple(segments), run["ends_at"])


def _plan_terms(item: Facts) -> PlanTerms:
    return PlanTerms(
        "EUR",
        item["fee"],
        item["timing"],
        item["proration"],
        tuple(map(charge_of, item["charges"])),
        UUID(item["source"]),
        item["quantity"],
        item["commitment"],
    )


def charge_of(given: Facts) -> Charge:
    """A charge as the law's value."""
    numbers = {
        name: Decimal(value)
        for name, value in given.items()
        if name not in {"meter", "model", "tiers", "free_events"}
    }
    tiers = tuple(
        Tier(**{name: value if value is None else Decimal(value) for name, value in tier.items()})
        for tier in given.get("tiers", ())
    )
    return Charge(
        given["meter"], given["model"], tiers=tiers, free_events=given.get("free_events"), **numbers
    )


def usage_of(
    facts: Facts, periods: Sequence[ContractPeriod], known: datetime
) -> dict[tuple[str, Period], MeterUsage]:
    """The usage of each span that the law prices, from what was stored by `known`."""
    by_meter: defaultdict[str, list[Reading]] = defaultdict(list)
    for number, (at, stored, meter, value) in enumerate(facts["events"]):
        if stored <= known:
            reading = Reading(at, UUID(int=number), Decimal(value), value)
            by_meter[meter].append(reading)
    local = facts["anchor"].astimezone(ZoneInfo(facts["zone"]))
    months = datetime(2000, 1, 1, tzinfo=local.tzinfo) if facts["calendar"] else local
    found = {}
    for of in periods:
        for one in metered(of):
            meter = one.charge.meter_key
            readings = by_meter[meter]
            total = period_value(KINDS.get(meter, "sum"), readings, one.span, months)
            events = tuple(reading.quantity for reading in readings if reading.at in one.span)
            found[meter, one.span] = MeterUsage(total, events)
    return found


def items_of(run: Facts) -> tuple[LineDraft, ...]:
    """The one-off items known at a run as the law's lines."""
    span = Period(run["at"], run["at"])
    return tuple(
        LineDraft("Other", None, "item", Decimal(1), None, minor, span, UUID(source))
        for source, minor in run["one_off"]
    )


def coupons_of(run: Facts) -> tuple[Coupon, ...]:
    """The coupons as the law's values."""
    return tuple(
        Coupon(
            str(number),
            Decimal(coupon["percent"]) if "percent" in coupon else None,
            coupon.get("amount"),
            frozenset({coupon["meter"]}) if coupon["meter"] else None,
            frozenset({UUID(coupon["source"])}) if coupon["source"] else None,
        )
        for number, coupon in enumerate(run["coupons"])
    )
