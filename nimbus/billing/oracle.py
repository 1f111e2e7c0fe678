# SPDX-License-Identifier: Apache-2.0
"""A second, independent reading of the law, by brute force and from raw facts alone.

It imports nothing of Nimbus, so what is wrong in `nimbus.rules` is not wrong here in the same way
(spec 09, I-06). Rules: spec 02, spec 04, decision 0023. Instants are aware, decimals texts, fees
and amounts minor units; a charge has the fields of spec 11 §10 that are not empty:
{"zone", "anchor", "interval", "count", "calendar", "ends_at", "digits" (of the currency), "peaks"
 (meters that count a peak), "terms": [{"from", "to", "items": [the plan's, add-ons']}],
 "events": [(at, stored at, meter, value)], "one_off": [(at, amount)], "runs": [{"at", "known" (what
 was stored by then), "rate", "credit", "wallet", "coupons": [{"meter", "percent" or "amount"}]}]}
item: {"source", "fee", "quantity", "timing", "proration", "commitment", "charges"}
"""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

Lines = dict[Any, Any]
MONTHS = {"month": 1, "quarter": 3, "year": 12}
TICK = timedelta.resolution
CLOSED = datetime.max.replace(tzinfo=UTC)


def bills(facts: dict[str, Any]) -> list[dict[str, int]]:
    """Net, tax, total, credit, wallet and due of each run, each after the ones before it."""
    billed, seen, found = {}, {}, []  # type: Lines, Lines, list[dict[str, int]]
    for run in facts["runs"]:
        now = owed(facts, run["at"], run["known"], seen)
        found.append(_due({key: now.get(key, 0) - billed.get(key, 0) for key in now | billed}, run))
        billed = now
    return found


def owed(facts: dict[str, Any], at: datetime, known: datetime, seen: Lines) -> Lines:
    """All that is owed at an instant, by (what, source, meter, start); `seen` saves repetition."""
    lines: Lines = {("item", n): m for n, (day, m) in enumerate(facts["one_off"]) if day <= at}
    number = 0
    while _edge(facts, number) <= at:
        whole = _edge(facts, number), _edge(facts, number + 1)
        begin, end = max(whole[0], facts["anchor"]), min(whole[1], facts["ends_at"] or whole[1])
        events = [one for one in facts["events"] if begin <= one[0] < end and one[1] <= known]
        same = number, len(events), at if at < end else CLOSED
        if same not in seen:
            held = ((one["from"], one["to"] or end, one["items"]) for one in facts["terms"])
            cut = ((max(begin, a), min(end, b), items) for a, b, items in held)
            parts = [part for part in cut if part[0] < part[1]]
            seen[same] = _period(facts, whole, parts, events, same[2]) if parts else {}
        lines |= seen[same]
        number += 1
    return lines


def _period(facts: Any, whole: Any, parts: Any, events: Any, at: datetime) -> Lines:
    basis = parts[0][2][0]["proration"]

    def share(a: datetime, b: datetime) -> Fraction:
        if basis == "day":
            days = [one.astimezone(ZoneInfo(facts["zone"])).date() for one in (a, b, *whole)]
            return Fraction((days[1] - days[0]).days, (days[3] - days[2]).days)
        return Fraction((b - a) // TICK, (whole[1] - whole[0]) // TICK)

    lines = _fees(parts, basis, share, at)
    if at == CLOSED:
        lines |= _usage(facts, parts, basis, share, events)
        least = sum(share(a, b) * items[0]["commitment"] for a, b, items in parts)
        asked = parts[0][2][0]["commitment"] if basis == "none" else _round(least)
        if asked and asked > sum(lines.values()):
            lines["commitment", None, None, parts[0][0]] = asked - sum(lines.values())
    return lines


def _fees(parts: Any, basis: str, share: Any, at: datetime) -> Lines:
    """Each fee for each unbroken time it holds; the times of one fee add up to its rounded sum."""
    lines, paid, open_since = {}, {}, {}  # type: Lines, Lines, Lines
    known = set()
    for a, b, items in parts:
        for place, item in enumerate(items):
            who = "plan" if place == 0 else item["source"]
            fee = (who == "plan", item["source"], item["fee"], item["quantity"], item["timing"])
            since, until = open_since.get(fee, (a, a))
            since = since if until == a else a
            open_since[fee] = since, b
            before = paid.get(fee, Fraction(0))
            paid[fee] = before + (share(a, b) if basis != "none" else Fraction(who not in known))
            known.add(who)
            if at == CLOSED or (item["timing"] == "advance" and since <= at):
                each = item["fee"] * item["quantity"]
                more = _round(paid[fee] * each) - _round(before * each)
                key = ("fee", item["source"], None, since)
                lines[key] = lines.get(key, 0) + more
    return lines


def _usage(facts: Any, parts: Any, basis: str, share: Any, events: Any) -> Lines:
    lines: Lines = {}
    served = sum((b - a) // TICK for a, b, _ in parts)
    sold = [[(one["source"], c) for one in items for c in one["charges"]] for _, _, items in parts]
    for number, (a, _, _) in enumerate(parts):
        for source, charge in sold[number]:
            holds = [(source, charge) in one for one in sold]
            if number and holds[number - 1]:
                continue  # it has begun before
            run = parts[number:][: [*holds[number:], False].index(False)]
            gives = Fraction(sum((y - x) // TICK for x, y, _ in run), served)
            asks = gives if basis == "none" else sum(share(x, y) for x, y, _ in run)
            meter, until, unit = charge["meter"], run[-1][1], 10 ** facts["digits"]
            values = [Fraction(v) for at, _, m, v in events if m == meter and a <= at < until]
            used = max(values, default=0) if meter in facts["peaks"] else sum(values)
            cost = _round(price(charge, Fraction(used), values, gives) * unit)
            cost = max(cost, _round(Fraction(charge.get("minimum", 0)) * asks * unit))
            most = _round(Fraction(charge.get("maximum", 10**30)) * gives * unit)
            lines["usage", source, meter, a] = min(cost, most)
    return lines


def price(charge: Any, used: Fraction, events: list[Fraction], gives: Fraction) -> Any:
    """The cost in whole currency units where the period gives this share of what it would whole."""
    text, model = charge.get("included", "0"), charge["model"]
    free = _round(Fraction(text) * gives, len(text.partition(".")[2].rstrip("0")))
    over, below, total = max(Fraction(0), used - free), Fraction(0), Fraction(0)
    if model == "percentage":
        return _by_event(charge, events, free, gives)
    if free and not over:
        return Fraction(0)
    if model == "package":
        return -(-over // Fraction(charge["package_size"])) * Fraction(charge["package_price"])
    if model == "cost_plus":
        return over + over * Fraction(charge["rate"]) / 100
    for tier in charge.get("tiers", [{"up_to": None, **charge}]):
        top = over if tier["up_to"] is None else _round(Fraction(tier["up_to"]) * gives, 12)
        flat = _round(Fraction(tier.get("flat_fee", 0)) * gives, 12)
        each = Fraction(tier.get("unit_price", 0)) + Fraction(tier.get("rate", 0)) / 100
        total += (min(over, top) - below) * each + flat
        if over <= top:
            break
        below = top
    return {"volume": over * each + flat, "stair_step": flat, "capacity": flat}.get(model, total)


def _by_event(charge: Any, events: list[Fraction], free: Fraction, gives: Fraction) -> Any:
    limited = "free_events" in charge or "free_amount" in charge
    count = _round(charge["free_events"] * gives) if "free_events" in charge else len(events)
    money = _round(Fraction(charge.get("free_amount", 10**40)) * gives, 12)
    total = Fraction(0)
    for number, value in enumerate(events):
        rest = max(Fraction(0), value - free)
        free -= value - rest
        if limited and number < count and money > 0:
            gift = min(rest, money)
            money, rest = money - gift, rest - gift
            if not rest:
                continue
        if rest or not value:
            total += rest * Fraction(charge["rate"]) / 100
            total += Fraction(charge.get("fixed_per_event", 0))
    return total


def _due(change: Lines, run: dict[str, Any]) -> dict[str, int]:
    """Coupons of meters, then those of the whole; VAT on the sum; credit; wallet."""
    off: Lines = {}
    for coupon in sorted(run["coupons"], key=lambda one: one["meter"] is None):
        meter = coupon["meter"]
        base = sum(m for key, m in change.items() if meter is None or key[2:3] == (meter,))
        base -= sum(off.values()) if meter is None else off.get(meter, 0)
        part = _round(Fraction(coupon.get("percent", 0)) * base / 100)
        off[meter] = off.get(meter, 0) + max(0, min(coupon.get("amount", part), base))
    net = sum(change.values()) - sum(off.values())
    tax = _round(net * Fraction(run["rate"] or 0) / 100)
    total = net + tax
    credit = min(run["credit"], max(0, total))
    wallet = min(run["wallet"], max(0, total) - credit)
    due = max(0, total) - credit - wallet
    return {"net": net, "tax": tax, "total": total, "credit": credit, "wallet": wallet, "due": due}


def _edge(facts: dict[str, Any], number: int) -> datetime:
    """Where period `number` begins by the calendar of the anchor's zone."""
    local, steps = facts["anchor"].astimezone(ZoneInfo(facts["zone"])), number * facts["count"]
    day, clock, interval = local.date(), local.timetz(), facts["interval"]
    if facts["calendar"]:
        clock = datetime.min.time().replace(tzinfo=clock.tzinfo)
        back = {"week": day.weekday(), "day": 0}.get(interval, day.day - 1)
        day -= timedelta(days=back)
        day = day.replace(month=day.month - (day.month - 1) % MONTHS.get(interval, 1))
    if interval not in MONTHS:
        day += timedelta(days=steps * (7 if interval == "week" else 1))
        return datetime.combine(day, clock).astimezone(UTC)
    year, month = divmod(day.year * 12 + day.month - 1 + steps * MONTHS[interval], 12)
    day = date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
    return datetime.combine(day, clock).astimezone(UTC)


def _round(amount: Fraction | int, places: int = 0) -> Any:
    exact = abs(amount) * 10**places
    whole = (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
    whole = whole if amount >= 0 else -whole
    return Fraction(whole, 10**places) if places else whole
