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
from nimbus.rules.periods import Anchor, Period, period
from nimbus.rules.pricing import Charge, Tier
from nimbus.rules.tax import TaxTreatment

Facts = dict[str, Any]

ZONES = (
    "UTC", "Europe/Amsterdam", "Europe/London", "America/New_York", "America/Sao_Paulo",
    "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia",
    "Pacific/Kiritimati", "Antarctica/Troll",
)  # fmt: skip
MONTHS_14 = timedelta(days=426)
LATE = timedelta(days=35)
METERS = ("api_calls", "assets", "reports", "storage")
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
        "peaks": ["assets"],
        "one_off": [],
    }
    until = start + MONTHS_14
    ends = list(_ends(facts, until))
    if rng.random() < 0.3:
        facts["ends_at"] = _moment(rng, start, until, ends)
    facts["terms"] = _terms(rng, facts, until, ends)
    edges = [moment for one in facts["terms"] for moment in (one["from"], one["to"]) if moment]
    facts["events"] = _events(rng, start, until, ends + edges)
    if rng.random() < 0.2:
        facts["one_off"] = [(_moment(rng, start, until, ends), rng.randrange(1, 10**5))]
    facts["runs"] = _runs(rng, facts, ends, edges)
    return facts


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


def _terms(
    rng: random.Random, facts: Facts, until: datetime, ends: Sequence[datetime]
) -> list[Facts]:
    plans = [_item(rng, number) for number in range(3)]
    add_ons = [_item(rng, number) for number in range(3, 6)]
    changes = {_moment(rng, facts["anchor"], until, ends) for _ in range(rng.randrange(5))}
    starts = [facts["anchor"], *sorted(one for one in changes if one > facts["anchor"])]
    found, plan, taken = [], rng.choice(plans), []
    for number, begin in enumerate(starts):
        if number:
            plan = rng.choice(plans)
            taken = rng.sample(add_ons, rng.randrange(3))
        if number and rng.random() < 0.15:
            continue  # paused
        following = starts[number + 1] if number + 1 < len(starts) else facts["ends_at"]
        found.append({"from": begin, "to": following, "items": [plan, *taken]})
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
    model = rng.choice(MODELS)
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
        for meter in rng.sample((None, None, *METERS), rng.choice((0, 0, 0, 1, 2))):
            off = {"percent": rng.choice(("10", "33.3", "100"))} if rng.random() < 0.5 else {}
            coupons.append({"meter": meter} | (off or {"amount": rng.randrange(10**4)}))
        known = max(known, moment + timedelta(hours=rng.choice((0, 0, 1, 72))))
        run = {
            "at": moment,
            "known": known,
            "rate": rng.choice((None, "21", "21", "25.5", "0")),
            "coupons": coupons,
            "credit": rng.choice((0, 0, rng.randrange(10**4))),
            "wallet": rng.choice((0, 0, rng.randrange(10**5))),
        }
        found += [run] * (2 if rng.random() < 0.1 else 1)
    return found


def law_of(facts: Facts) -> list[dict[str, int]]:
    """What the law bills in each run, as the oracle says it."""
    contract = contract_of(facts)
    billed: list[LineDraft] = []
    found = []
    looked = facts["anchor"]
    for run in facts["runs"]:
        first = _first_open(contract.anchor, looked)
        looked = run["known"]
        window = Contract(contract.anchor, first, contract.segments, contract.ends_at)
        begins = period(contract.anchor, first).starts_at
        periods = tuple(contract_periods(window, run["at"]))
        bill = draft(
            BillFacts(
                currency="EUR",
                periods=periods,
                usage=usage_of(facts, periods, run["known"]),
                items=items_of(facts),
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


def contract_of(facts: Facts) -> Contract:
    """The contract as the law's value."""
    segments = []
    for terms in facts["terms"]:
        plan, *add_ons = map(_plan_terms, terms["items"])
        segments.append(Segment(terms["from"], terms["to"], plan, tuple(add_ons)))
    return Contract(anchor_of(facts), 0, tuple(segments), facts["ends_at"])


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
    by_meter: defaultdict[str, list[tuple[datetime, Decimal]]] = defaultdict(list)
    for at, stored, meter, value in facts["events"]:
        if stored <= known:
            by_meter[meter].append((at, Decimal(value)))
    found = {}
    for of in periods:
        for one in metered(of):
            meter = one.charge.meter_key
            events = tuple(value for at, value in by_meter[meter] if at in one.span)
            peak = meter in facts["peaks"]
            total = max(events, default=Decimal(0)) if peak else sum(events, Decimal(0))
            found[meter, one.span] = MeterUsage(total, events)
    return found


def items_of(facts: Facts) -> tuple[LineDraft, ...]:
    """The one-off items as the law's lines."""
    return tuple(
        LineDraft(
            "Other", None, "item", Decimal(1), None, minor, Period(at, at), UUID(int=100 + number)
        )
        for number, (at, minor) in enumerate(facts["one_off"])
    )


def coupons_of(run: Facts) -> tuple[Coupon, ...]:
    """The coupons as the law's values."""
    return tuple(
        Coupon(
            str(number),
            Decimal(coupon["percent"]) if "percent" in coupon else None,
            coupon.get("amount"),
            frozenset({coupon["meter"]}) if coupon["meter"] else None,
        )
        for number, coupon in enumerate(run["coupons"])
    )
