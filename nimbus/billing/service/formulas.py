# SPDX-License-Identifier: Apache-2.0
"""How an amount came about, in numbers: the law's values in, a formula and its steps out."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from nimbus.billing.models import InvoiceLine
from nimbus.billing.texts import plain
from nimbus.rules.contracts import ContractPeriod, Fee, Metered
from nimbus.rules.invoicing import MeterUsage
from nimbus.rules.money import Money, format_money, round_minor
from nimbus.rules.periods import Period, zone
from nimbus.rules.pricing import Charge, Tier, amount, billable
from nimbus.rules.proration import fraction

TICK = timedelta.resolution
Steps = list[tuple[str, str]]
"""(name, value) in order of calculation."""


def money(amount_minor: int, currency: str) -> str:
    """1250, "EUR" → "12.50 EUR"."""
    return f"{format_money(Money(amount_minor, currency))} {currency}"


def flat(line: InvoiceLine, currency: str) -> tuple[str, Steps]:
    """A line that is one amount: "1 × 49 = 49.00 EUR"."""
    total = money(line.amount_minor, currency)
    text = total
    if line.unit_price is not None:
        text = f"{plain(line.quantity)} × {plain(line.unit_price)} = {total}"
    return text, [("amount", total)]


def fee(
    line: InvoiceLine, of: ContractPeriod, held: Fee | None, before_minor: int, currency: str
) -> tuple[str, Steps]:
    """A fee, for the share of the period that it held, less what was asked of it before.

    62.00 from the 12th of a May → "62.00 EUR × 20/31 = 40.00 EUR"; 31.00 paid ahead for a May that
    ended on the 11th → "31.00 EUR × 11/31 = 11.00 EUR; less 31.00 EUR asked before → -20.00 EUR".
    `held` None: nothing of it is owed any more.
    """
    owed, text, steps = 0, "0", Steps()
    if held is not None:
        owed, full = held.amount_minor, held.terms.base_fee_minor * held.terms.quantity
        if owed == full == line.amount_minor:
            return flat(line, currency)
        whole = money(full, currency)
        share, said = _share(of, [held.served])
        steps = [("fee", whole), *said]
        text = whole if share == 1 else f"{whole} × {share} = {money(owed, currency)}"
    return _less(line, (text, steps), owed, before_minor, currency)


def least_or_most(
    line: InvoiceLine, of: ContractPeriod, by: Metered, charge: Charge, currency: str
) -> tuple[str, Steps]:
    """What a charge's minimum adds and its maximum takes off: "10 × 25/28 − …"."""
    lower = line.text == "minimum"
    bound, asked = (
        (charge.minimum, by.minimum) if lower else (charge.maximum, by.maximum or Fraction(0))
    )
    whole, exact = plain(bound or Decimal(0)), Fraction(asked)
    part = exact / Fraction(bound) if bound else Fraction(1)
    total = money(line.amount_minor, currency)
    scaled = money(_minor(exact, currency), currency)
    steps = [(str(line.text), whole), ("share", str(part)), ("bound", scaled), ("amount", total)]
    share = "" if part == 1 else f" × {part} = {scaled}"
    rest = "less what usage costs" if lower else "at most; usage costs more"
    return f"{whole}{share}, {rest} → {total}", [*steps[:1], *_times(of, by.span), *steps[1:]]


def commitment(
    line: InvoiceLine, asked: int, others_minor: int, before_minor: int, currency: str
) -> tuple[str, Steps]:
    """What is missing to the minimum commitment: "200.00 EUR − 116.50 EUR = 83.50 EUR"."""
    owed = max(0, asked - others_minor)
    least, others = money(asked, currency), money(others_minor, currency)
    steps = [("minimum_commitment", least), ("other_lines", others)]
    text = f"{least} − {others} = {money(owed, currency)}"
    return _less(line, (text, steps), owed, before_minor, currency)


def usage(
    line: InvoiceLine, of: ContractPeriod, by: Metered, used: MeterUsage, currency: str
) -> tuple[str, Steps]:
    """Usage at its price, as it is stored now. Where terms followed one another in the period, the
    charge gives its share of what is included.
    """
    served = sum((_length(part.served) for part in of.parts), timedelta(0))
    inside = [one.served for one in of.parts if _within(one.served, by.span)]
    gives = Fraction(sum(map(_length, inside), timedelta(0)) // TICK, served // TICK)
    text, steps = _usage_steps(line, by.charge, used.quantity, used.events, currency)
    if gives != 1:
        steps = [("share", str(gives)), *_times(of, by.span), *steps]
    return text, steps


def _share(of: ContractPeriod, spans: list[Period]) -> tuple[Fraction, Steps]:
    """The share of the whole period that spans stand for, by the plan's proration."""
    if of.basis == "none":
        return Fraction(1), [("proration", "none")]
    share = sum((fraction(of.whole, one, of.basis, of.time_zone) for one in spans), Fraction(0))
    steps = [("proration", of.basis), ("share", str(share))]
    return share, [*steps, *_times(of, Period(spans[0].starts_at, spans[-1].ends_at))]


def _times(of: ContractPeriod, span: Period) -> Steps:
    """How long a span is, and the whole period: in seconds and in days of its calendar."""
    return [
        ("seconds", f"{_seconds(span)} of {_seconds(of.whole)}"),
        ("days", f"{_days(span, of.time_zone)} of {_days(of.whole, of.time_zone)}"),
    ]


def _less(
    line: InvoiceLine, said: tuple[str, Steps], owed: int, before_minor: int, currency: str
) -> tuple[str, Steps]:
    (text, steps), total = said, money(line.amount_minor, currency)
    if before_minor:
        before = money(before_minor, currency)
        steps = [*steps, ("owed", money(owed, currency)), ("asked_before", before)]
        text += f"; less {before} asked before → {total}"
    return text, [*steps, ("amount", total)]


def _minor(exact: Fraction, currency: str) -> int:
    rounded: int = round_minor(exact, currency).amount_minor
    return rounded


def _within(one: Period, span: Period) -> bool:
    return span.starts_at <= one.starts_at and one.ends_at <= span.ends_at


def _length(span: Period) -> timedelta:
    return span.ends_at - span.starts_at


def _seconds(span: Period) -> str:
    return plain(Decimal(_length(span) // TICK).scaleb(-6))


def _days(span: Period, time_zone: str) -> int:
    local = zone(time_zone)
    first, last = (at.astimezone(local).date() for at in (span.starts_at, span.ends_at))
    return (last - first).days


def _usage_steps(
    line: InvoiceLine, charge: Charge, used: Decimal, single: tuple[Decimal, ...], currency: str
) -> tuple[str, list[tuple[str, str]]]:
    """The formula in numbers, and its steps, at the usage that is stored now."""
    over = billable(charge, used)
    bare = amount(charge, used, single if charge.model == "percentage" else ())
    total = money(line.amount_minor, currency)
    steps = [("used", plain(used)), ("included", plain(charge.included)), ("billable", plain(over))]
    if charge.model == "unit":
        text_ = f"({plain(used)} − {plain(charge.included)}) × {plain(charge.unit_price)}"
        if not charge.included:
            text_ = f"{plain(used)} × {plain(charge.unit_price)}"
        steps.append(("unit_price", plain(charge.unit_price)))
    elif charge.tiers:
        text_ = " + ".join(_tier_parts(charge, over)) or "0"
        steps += [(f"tier_{place}", _tier(tier)) for place, tier in enumerate(charge.tiers, 1)]
    elif charge.model == "package":
        packages = -(-over // charge.package_size) if over else Decimal(0)
        text_ = f"⌈{plain(over)} ÷ {plain(charge.package_size)}⌉ × {plain(charge.package_price)}"
        steps.append(("packages", plain(packages)))
    else:
        text_ = f"{charge.model}({plain(over)}; {plain(charge.rate)} %)"
        steps.append(("rate", plain(charge.rate)))
    steps.append(("exact", plain(bare)))
    formula = f"{text_} = {plain(bare)}"
    if over != line.quantity:
        before = over - line.quantity
        steps.append(("billed_before", plain(before)))
        formula += f"; {plain(line.quantity)} of {plain(over)} on this line"
    steps.append(("amount", total))
    return f"{formula} → {total}", steps


def _tier_parts(charge: Charge, over: Decimal) -> list[str]:
    """What each tier asks; of volume and stair-step the one that the quantity reaches."""
    parts: list[str] = []
    below = Decimal(0)
    for tier in charge.tiers:
        top = over if tier.up_to is None else min(over, tier.up_to)
        reached = tier.up_to is None or over <= tier.up_to
        if charge.model in {"volume", "stair_step", "capacity"}:
            if reached:
                return [_tier_formula(tier, over)]
        elif top > below or not parts:
            parts.append(_tier_formula(tier, top - below))
        if reached:
            break
        below = top
    return parts


def _tier_formula(tier: Tier, quantity: Decimal) -> str:
    each = f"{plain(quantity)} × {plain(tier.unit_price)}"
    if tier.rate:
        each = f"{plain(quantity)} × {plain(tier.rate)} %"
    return each if not tier.flat_fee else f"{each} + {plain(tier.flat_fee)}"


def _tier(tier: Tier) -> str:
    end = "∞" if tier.up_to is None else plain(tier.up_to)
    price = plain(tier.unit_price) if not tier.rate else f"{plain(tier.rate)} %"
    return f"≤ {end}: {price}" + (f" + {plain(tier.flat_fee)}" if tier.flat_fee else "")
