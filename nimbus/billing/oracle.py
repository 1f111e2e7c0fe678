# SPDX-License-Identifier: Apache-2.0
"""A second reading of the law, by brute force from raw facts alone; it imports nothing of Nimbus.

What the facts look like: `billing.service.proving`. Why: spec 09, I-06; decisions 0023 and 0029.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

Lines = dict[Any, Any]
TICK = timedelta.resolution
MONTHLY = {"interval": "month", "count": 1, "folds": (0, 1)}
EVER, CLOSED = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
ASKS = {"start": {"base_fee"}, "change": {"base_fee", "item"}, "progress": {"usage", "maximum"}}


def bills(facts: dict[str, Any]) -> list[dict[str, int]]:
    """Net, tax, total, credit, wallet and due of each run: what is owed less what others billed."""
    billed, seen, found = {}, {}, []  # type: Lines, Lines, list[dict[str, int]]
    for run in facts["runs"]:
        now, was, change = owed(facts, run, seen), {}, {}  # type: Lines, Lines, Lines
        for lines in (lines for invoice, lines in billed.items() if invoice != run["invoice"]):
            was |= {line: was.get(line, 0) + minor for line, minor in lines.items()}
        for line in dict.fromkeys([*now, *was]):
            other = line[3] < run["since"] or line[3] > run["at"] - TICK * (line[0] != "base_fee")
            if other or line[0] not in ASKS.get(run["kind"], {line[0]}):
                continue  # a bill in between is of fees and items, or of the running usage
            more, gift = now.get(line, 0) - was.get(line, 0), run["gifts"].get(line, 0)
            change[line] = min(0, max(more, gift - was[line])) if gift and more < 0 else more
        billed[run["invoice"]] = {line: minor for line, minor in change.items() if minor}
        found.append(_due(dict(billed[run["invoice"]]), run))
    return found


def owed(facts: dict[str, Any], run: dict[str, Any], seen: Lines) -> Lines:
    """All that is owed at an instant, by (what, source, meter, start); `seen` saves repetition."""
    lines, number, at = {}, 0, run["at"]  # type: Lines, int, datetime
    while (begins := _edge(facts, number)) <= at:
        whole = begins, _edge(facts, number := number + 1)
        begin, end = max(begins, facts["anchor"]), min(whole[1], run["ends_at"] or CLOSED)
        events = [one for one in facts["events"] if one[0] < end and one[1] <= run["stored"]]
        cut = ((max(begin, a), min(end, b or end), items) for a, b, items in run["terms"])
        parts = [part for part in cut if part[0] < part[1] and part[2]]
        same = number, len(events), min(at, end), *((a, b, id(items)) for a, b, items in parts)
        if same not in seen:
            known = CLOSED if at >= end else at
            seen[same] = _period(facts, whole, parts, events, known) if parts else {}
        lines |= seen[same]
    return lines | {("item", source, None, EVER): minor for source, minor in run["one_off"]}


def _period(facts: Any, whole: Any, parts: Any, events: Any, at: datetime) -> Lines:
    def share(a: datetime, b: datetime) -> Fraction:
        if basis != "day":
            return Fraction((b - a) // TICK, (whole[1] - whole[0]) // TICK)
        days = [m.astimezone(ZoneInfo(facts["zone"])).toordinal() for m in (a, b, *whole)]
        return Fraction(days[1] - days[0], days[3] - days[2])

    plan, basis = parts[0][2][0], parts[0][2][0]["proration"]
    lines = _fees(parts, basis, share, at)
    if at == CLOSED:
        lines |= _usage(facts, parts, basis, share, events)
        least = _round(sum(share(a, b) * items[0]["commitment"] for a, b, items in parts))
        rest = (plan["commitment"] if basis == "none" else least) - sum(lines.values())
        lines["minimum_commitment", plan["source"], None, parts[0][0]] = max(0, rest)
    return lines


def _fees(parts: Any, basis: str, share: Any, at: datetime) -> Lines:
    """Each fee for each unbroken time it holds; the times of one fee add up to its rounded sum."""
    lines, held = {}, {}  # type: Lines, Lines
    for a, b, items in parts:
        for place, item in enumerate(items):
            fee = not place, item["source"], item["fee"], item["quantity"], item["timing"]
            since, until, before, paid = held.get(fee, (a, a, Fraction(0), Fraction(0)))
            since, before = (since, before) if until == a else (a, paid)
            pays = item["source"] not in {one[1] for one in held} if place else a == parts[0][0]
            paid += share(a, b) if basis != "none" else Fraction(pays)
            held[fee] = since, b, before, paid
            if at == CLOSED or (item["timing"] == "advance" and since <= at):
                each, key = item["fee"] * item["quantity"], (item["source"], None, since)
                lines["base_fee", *key] = _round(paid * each) - _round(before * each)
    return lines


def _usage(facts: Any, parts: Any, basis: str, share: Any, events: Any) -> Lines:
    lines: Lines = {}
    served = sum((b - a) // TICK for a, b, _ in parts)
    sold = [[(one["source"], c) for one in items for c in one["charges"]] for _, _, items in parts]
    for n, (a, _, _) in enumerate(parts):
        for source, charge in (one for one in sold[n] if not n or one not in sold[n - 1]):
            run = parts[n:][: [(source, charge) in one for one in [*sold[n:], []]].index(False)]
            gives = Fraction(sum((y - x) // TICK for x, y, _ in run), served)
            asks = gives if basis == "none" else sum(share(x, y) for x, y, _ in run)
            meter, unit = charge["meter"], 10 ** facts["digits"]
            used, values = _measured(facts, meter, events, a, run[-1][1])
            cost = _round(price(charge, used, values, gives) * unit)
            least = max(cost, _round(Fraction(charge.get("minimum", 0)) * asks * unit))
            most = _round(Fraction(charge.get("maximum", 10**30)) * gives * unit)
            lines["usage", source, meter, a] = cost
            lines["minimum", source, meter, a] = least - cost
            lines["maximum", source, meter, a] = min(0, most - least)
    return lines


def _measured(facts: Any, meter: str, events: Any, a: datetime, until: datetime) -> Any:
    """What a meter comes to, and its single values; a level stands until the next one."""
    kind = facts["kinds"].get(meter, "sum")
    known = [(at, value) for at, _, of, value in events if of == meter and at < until]
    values = [value for at, value in known if at >= a]
    exact = [] if kind == "unique" else [Fraction(value) for value in values]
    if kind != "time_weighted":
        none = exact or [Fraction(0)]
        other = {"unique": Fraction(len(set(values))), "max": max(none), "last": none[-1]}
        return other.get(kind, sum(exact, Fraction(0))), exact
    months, total, number = facts | MONTHLY, Fraction(0), 0
    while (begin := _edge(months, number)) < until:
        end, weight = _edge(months, number := number + 1), Fraction(0)
        for (at, level), (then, _) in zip(known, [*known[1:], (until, "")], strict=False):
            weight += Fraction(level) * max(0, (min(then, end) - max(at, a, begin)) // TICK)
        total += _round(weight / ((end - begin) // TICK), 12)
    return total, exact


def price(charge: Any, used: Fraction, events: list[Fraction], gives: Fraction) -> Any:
    """The cost in whole currency units where the period gives this share of what it would whole."""
    text, model = charge.get("included", "0"), charge["model"]
    free = _round(Fraction(text) * gives, len(text.partition(".")[2].rstrip("0")))
    over, below, total = max(Fraction(0), used - free), Fraction(0), Fraction(0)
    if model == "percentage":
        given = _round(charge.get("free_events", 10**20 * ("free_amount" in charge)) * gives)
        money = _round(Fraction(charge.get("free_amount", 10**40)) * gives, 12)
        for number, value in enumerate(events):
            rest = max(Fraction(0), value - free)
            gift = min(rest, money) if number < given else Fraction(0)
            asks = rest > gift or not (value or (number < given and money > 0))
            free, money, rest = free - value + rest, money - gift, rest - gift
            total += asks * (rest * Fraction(charge["rate"]) / 100)
            total += asks * Fraction(charge.get("fixed_per_event", 0))
        return total
    if free and not over:
        return total
    if model == "package":
        return -(-over // Fraction(charge["package_size"])) * Fraction(charge["package_price"])
    for tier in charge.get("tiers", [{"up_to": None, **charge}]):
        top = over if tier["up_to"] is None else _round(Fraction(tier["up_to"]) * gives, 12)
        flat = _round(Fraction(tier.get("flat_fee", 0)) * gives, 12)
        each = Fraction(tier.get("unit_price", 0)) + Fraction(tier.get("rate", 0)) / 100
        total += (min(over, top) - below) * each + flat
        if over <= top:
            break
        below = top
    other = {"volume": over * each + flat, "cost_plus": over + total}
    return (other | dict.fromkeys(("stair_step", "capacity"), flat)).get(model, total)


def _due(left: Lines, run: dict[str, Any]) -> dict[str, int]:
    """Coupons of meters, of plans, of all, each spread over its lines; VAT; credit; wallet."""
    for coupon in sorted(run["coupons"], key=lambda one: (not one["meter"], not one["source"])):
        meter, source = coupon["meter"], coupon["source"]
        lines = [one for one in left if meter in {None, one[2]} and source in {None, one[1]}]
        base, above = (sum(max(least, left[one]) for one in lines) for least in (-(10**40), 0))
        part = _round(Fraction(coupon.get("percent", 0)) * base / 100)
        off = max(0, min(coupon.get("amount", part), base))
        due = {one: Fraction(off * max(0, left[one]), above or 1) for one in lines}
        rest = off - sum(map(int, due.values()))
        for n, line in enumerate(sorted(lines, key=lambda k: (int(due[k]) - due[k], -left[k]))):
            left[line] -= int(due[line]) + (n < rest)
    net = sum(left.values())
    tax = _round(net * Fraction(run["rate"] or 0) / 100)
    owes = {"net": net, "tax": tax, "total": net + tax, "due": max(0, net + tax)}
    for purse in ("credit", "wallet"):
        owes[purse] = min(run[purse], owes["due"])
        owes["due"] -= owes[purse]
    return owes


def _edge(facts: dict[str, Any], number: int) -> datetime:
    """Where period `number` begins by the calendar of the anchor's zone."""
    local, interval = facts["anchor"].astimezone(ZoneInfo(facts["zone"])), facts["interval"]
    day, clock, steps = local.date(), local.timetz(), number * facts["count"]
    months = {"month": 1, "quarter": 3, "year": 12}.get(interval, 0)
    if facts["calendar"]:
        clock = datetime.min.time().replace(tzinfo=clock.tzinfo)
        day -= timedelta(days={"week": day.weekday(), "day": 0}.get(interval, day.day - 1))
        day = day.replace(month=day.month - (day.month - 1) % (months or 1))
    day += timedelta(days=steps * {"day": 1, "week": 7}.get(interval, 0))
    year, month = divmod(day.year * 12 + day.month - 1 + steps * months, 12)
    day = date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
    folds = [clock.replace(fold=fold) for fold in facts.get("folds", [clock.fold])]
    return max(datetime.combine(day, one).astimezone(UTC) for one in folds)


def _round(amount: Fraction | int, places: int = 0) -> Any:
    above, below = (abs(amount) * 10**places).as_integer_ratio()
    whole = (2 * above + below) // (2 * below) * (1 if amount >= 0 else -1)
    return Fraction(whole, 10**places) if places else whole
