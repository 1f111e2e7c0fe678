# SPDX-License-Identifier: Apache-2.0
"""The estimate: what is asked becomes the facts of a bill, and the law drafts it.

Nothing of it is stored. What cannot be billed is a 422 on the field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, localcontext

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, identity
from nimbus.billing import queries
from nimbus.billing.estimate_schemas import (
    BuyerAsked,
    EstimateBody,
    EstimateLine,
    EstimateTax,
    EstimateView,
    PeriodAsked,
)
from nimbus.billing.texts import LineName, line_text, plain
from nimbus.errors import Refusal, field_error
from nimbus.rules.bill import Bill, BillFacts, draft
from nimbus.rules.contracts import ContractPeriod, Metered, Part, PlanTerms, metered
from nimbus.rules.coupons import Coupon, validate
from nimbus.rules.invoicing import LineDraft, MeterUsage, kind_of, usage_lines
from nimbus.rules.money import EXACT, decimal_from, major, minor_digits, parse
from nimbus.rules.money import Money as Amount
from nimbus.rules.periods import Period
from nimbus.rules.pricing import Charge, billable
from nimbus.rules.tax import Party, TaxTreatment, decide
from nimbus.rules.vat_rates import FIRST_DAY, STANDARD_RATES

AMOUNT_MAX = 10**17
"""Minor units that a single amount may have: a quadrillion, more than any invoice."""
QUANTITY_MAX = Decimal(10) ** 18
QUANTITY_PLACES = 12
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
LONGEST = timedelta(days=3_660)
SELLER_COUNTRY = "NL"
"""Where the seller is while the operator has not said so (spec 04)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The plan that an estimate starts from; without one nothing costs anything."""

    name: str
    terms: PlanTerms | None
    meters: Mapping[str, str]  # the product's, with how each aggregates


async def estimate(session: AsyncSession, asked: EstimateBody, as_of: datetime) -> EstimateView:
    """The bill of what is asked; without a period that of the calendar month (UTC) of `as_of`."""
    offer = await _offer(session, asked)
    seller = await queries.current_seller(session)
    return estimated(asked, offer, SELLER_COUNTRY if seller is None else seller.country, as_of)


def estimated(
    asked: EstimateBody, offer: Offer, seller_country: str, as_of: datetime
) -> EstimateView:
    """The same of an offer that is known; a 422 on the field of what cannot be billed."""
    of = _period(asked, _terms(asked, offer), as_of)
    priced = {one.charge.meter_key: one for one in metered(of)}
    usage = _usage(asked, priced, offer.meters)
    facts = BillFacts(
        currency=asked.currency,
        periods=(of,),
        usage={(key, of.served): used for key, used in usage.items()},
        billed=_billed(asked, priced, usage),
        coupons=_coupons(asked, priced, offer.meters),
        treatment=_treatment(asked, seller_country, of.served),
        credit_minor=_credit(asked),
        wallet_minor=_minor(asked.wallet, asked.currency, "wallet"),
    )
    bill = draft(facts, of.closes_at)
    return _view(bill, facts, offer.name, {key: one.charge for key, one in priced.items()})


async def _offer(session: AsyncSession, asked: EstimateBody) -> Offer:
    if asked.plan is None:
        return Offer("Base fee", None, {})
    try:
        product = await catalog.product_or_operators(session, None)
        plan = await catalog.published_plan(session, product.slug, asked.plan)
    except Refusal:
        raise field_error("plan", "unknown_plan", "There is no such plan.") from None
    terms = await catalog.plan_terms(session, plan.plan_version_id, asked.currency)
    meters = await catalog.meter_facts(session, product.id)
    return Offer(
        plan.name,
        replace(terms, source=None),
        {key: meter.aggregation for key, meter in meters.items()},
    )


def _terms(asked: EstimateBody, offer: Offer) -> PlanTerms:
    minor_digits(asked.currency)
    own = offer.terms or PlanTerms(asked.currency, 0, "arrears", "second", ())
    given: dict[str, Charge] = {}
    for number, shape in enumerate(asked.charges):
        path = f"charges.{number}"
        if shape.meter in given:
            raise field_error(f"{path}.meter", "double", "The meter has a charge already.")
        given[shape.meter] = catalog.charge_of(shape, path)
    charges = {charge.meter_key: charge for charge in own.charges} | given
    fee = own.base_fee_minor
    if asked.base_fee is not None:
        fee = _minor(asked.base_fee, asked.currency, "base_fee")
    commitment = _minor(asked.minimum_commitment, asked.currency, "minimum_commitment")
    return replace(
        own,
        base_fee_minor=fee,
        charges=tuple(charges.values()),
        timing="arrears",
        proration=asked.proration or own.proration,
        minimum_commitment_minor=commitment or own.minimum_commitment_minor,
    )


def _period(asked: EstimateBody, terms: PlanTerms, as_of: datetime) -> ContractPeriod:
    if asked.period is None:
        first = as_of.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = (first + timedelta(days=31)).replace(day=1)
        whole = served = Period(first, following)
    else:
        whole, served = _spans(asked.period)
    return ContractPeriod(whole, served.ends_at, "UTC", (Part(served, (terms,)),))


def _spans(asked: PeriodAsked) -> tuple[Period, Period]:
    starts_at = _instant(asked.from_, "period.from")
    ends_at = _instant(asked.to, "period.to")
    if not timedelta(0) < ends_at - starts_at <= LONGEST:
        text = "A period ends after it begins, within ten years."
        raise field_error("period.to", "out_of_range", text)
    served_from, served_to = starts_at, ends_at
    if asked.service_from is not None:
        served_from = _instant(asked.service_from, "period.service_from")
    if asked.service_to is not None:
        served_to = _instant(asked.service_to, "period.service_to")
    if not starts_at <= served_from < ends_at:
        text = "Service begins within the period."
        raise field_error("period.service_from", "out_of_range", text)
    if not served_from < served_to <= ends_at:
        text = "Service ends after it begins, within the period."
        raise field_error("period.service_to", "out_of_range", text)
    return Period(starts_at, ends_at), Period(served_from, served_to)


def _instant(text: str, field: str) -> datetime:
    try:
        instant = (
            datetime.combine(date.fromisoformat(text), time(), UTC)
            if len(text) == 10
            else datetime.fromisoformat(text)
        )
    except ValueError:
        raise field_error(field, "invalid_date", "A day or an instant is expected.") from None
    if instant.tzinfo is None:
        raise field_error(field, "invalid_date", "An instant names its time zone (Z).")
    if not EARLIEST <= instant <= LATEST:
        raise field_error(field, "out_of_range", "Between 1970 and 2200.")
    return instant.astimezone(UTC)


def _usage(
    asked: EstimateBody, priced: dict[str, Metered], meters: Mapping[str, str]
) -> dict[str, MeterUsage]:
    found = {}
    for key, given in asked.usage.items():
        field = f"usage.{key}"
        _known_meter(key, field, priced, meters)
        if isinstance(given, str):
            found[key] = MeterUsage(_quantity(given, field))
            continue
        events = tuple(_quantity(text, f"{field}.{at}") for at, text in enumerate(given))
        peak = key in priced and priced[key].charge.model == "capacity"
        how = "max" if peak else meters.get(key, "sum")
        found[key] = MeterUsage(_aggregate(events, how), events)
    return found


def _aggregate(events: Sequence[Decimal], how: str) -> Decimal:
    """What events come to: the highest, the last, their number or their sum."""
    if how == "max":
        return max(events, default=Decimal(0))
    if how == "last":
        return events[-1] if events else Decimal(0)
    if how == "count":
        return Decimal(len(events))
    with localcontext(EXACT):
        return sum(events, Decimal(0))


def _billed(
    asked: EstimateBody, priced: dict[str, Metered], usage: dict[str, MeterUsage]
) -> tuple[LineDraft, ...]:
    """What was billed, put against the lines that the usage has now.

    An amount is put against the usage first, then against what a minimum adds; what it is more
    than both comes back on the usage.
    """
    lines: list[LineDraft] = []
    for key, given in asked.already_billed.items():
        path = f"already_billed.{key}"
        _known_meter(key, path, priced, {})
        one = priced[key]
        quantity = _quantity(given.quantity, f"{path}.quantity")
        if given.amount is None:
            lines += usage_lines(replace(one, minimum=one.minimum * 0), MeterUsage(quantity))
            continue
        left = _minor(given.amount, asked.currency, f"{path}.amount")
        bounds = {
            line.text: line for line in usage_lines(one, usage.get(key, MeterUsage(Decimal(0))))
        }
        if "minimum" in bounds:
            room = bounds["usage"].amount_minor if "usage" in bounds else 0
            taken = min(max(0, left - room), bounds["minimum"].amount_minor)
            lines.append(replace(bounds["minimum"], amount_minor=taken))
            left -= taken
        over = billable(one.charge, quantity)
        lines.append(LineDraft(kind_of(key), key, "usage", over, None, left, one.span))
    return tuple(lines)


def _coupons(
    asked: EstimateBody, priced: dict[str, Metered], meters: Mapping[str, str]
) -> tuple[Coupon, ...]:
    found = []
    for number, given in enumerate(asked.coupons):
        path = f"coupons.{number}"
        for key in given.meters:
            _known_meter(key, f"{path}.meters", priced, meters)
        coupon = Coupon(
            key=str(number),
            percent=None
            if given.percent is None
            else decimal_from(given.percent, f"{path}.percent"),
            amount_minor=None
            if given.amount is None
            else _minor(given.amount, asked.currency, f"{path}.amount"),
            meters=frozenset(given.meters) or None,
        )
        validate(coupon, path)
        found.append(coupon)
    return tuple(found)


def _treatment(asked: EstimateBody, seller_country: str, served: Period) -> TaxTreatment | None:
    """The VAT of the last day of supply, or the rate that was asked for."""
    if asked.tax is None:
        return None
    if (asked.tax.rate is None) == (asked.tax.buyer is None):
        raise field_error("tax", "one_of", "Either a rate or a buyer is expected.")
    if asked.tax.rate is not None:
        rate = decimal_from(asked.tax.rate, "tax.rate")
        if not 0 <= rate <= 100:
            raise field_error("tax.rate", "out_of_range", "Between 0 and 100 percent.")
        return TaxTreatment("S", rate, None, None)
    assert asked.tax.buyer is not None
    day = (served.ends_at - timedelta(microseconds=1)).date()
    if day < FIRST_DAY:
        raise field_error("period.to", "out_of_range", "VAT rates are known from 2015 on.")
    buyer = asked.tax.buyer
    return decide(
        Party(seller_country, has_vat_number=True), Party(buyer.country, _is_valid(buyer)), day
    )


def _is_valid(buyer: BuyerAsked) -> bool:
    if buyer.vat_number is None or buyer.country not in STANDARD_RATES:
        return False
    try:
        identity.check_vat_number(buyer.country, buyer.vat_number)
    except Refusal:
        return False
    return True


def _credit(asked: EstimateBody) -> int:
    given = asked.credit_notes
    if isinstance(given, str):
        return _minor(given, asked.currency, "credit_notes")
    return sum(
        _minor(text, asked.currency, f"credit_notes.{number}") for number, text in enumerate(given)
    )


def _known_meter(
    key: str, field: str, priced: dict[str, Metered], meters: Mapping[str, str]
) -> None:
    if key not in priced and key not in meters:
        raise field_error(field, "unknown_meter", "No charge is for this meter.")


def _quantity(text: str, field: str) -> Decimal:
    quantity = decimal_from(text, field)
    if quantity < 0:
        raise field_error(field, "negative", "Usage is never negative.")
    if quantity >= QUANTITY_MAX:
        raise field_error(field, "too_large", "Usage stays below 10^18.")
    if quantity.normalize(EXACT).as_tuple().exponent < -QUANTITY_PLACES:  # type: ignore[operator]
        raise field_error(field, "too_many_places", "Usage has at most 12 decimal places.")
    return quantity


def _minor(text: str, currency: str, field: str) -> int:
    amount_minor = parse(text, currency, field).amount_minor
    if amount_minor < 0:
        raise field_error(field, "negative", "This amount is never negative.")
    if amount_minor > AMOUNT_MAX:
        raise field_error(field, "too_large", "An amount has at most 10^17 minor units.")
    return amount_minor


def _view(bill: Bill, facts: BillFacts, name: str, charges: dict[str, Charge]) -> EstimateView:
    lines = [
        EstimateLine(
            kind=line.kind,
            meter=line.meter_key,
            description=line_text(
                line,
                "en",
                LineName(name, charges.get(line.meter_key or "")),
                "UTC",
            ),
            quantity=plain(line.quantity),
            unit_price=None if line.unit_price is None else plain(line.unit_price),
            amount_minor=line.amount_minor,
        )
        for line in bill.lines
    ]
    for coupon in facts.coupons:
        off = sum(one.amount_minor for one in bill.discounts if one.coupon == coupon.key)
        if off:
            lines.append(_coupon_line(coupon, off, facts.currency))
    return EstimateView(
        currency=facts.currency,
        lines=lines,
        subtotal_minor=bill.totals.subtotal_minor,
        taxes=[
            EstimateTax(
                category=tax.treatment.category,
                rate=plain(tax.treatment.rate),
                base_minor=tax.base_minor,
                tax_minor=tax.tax_minor,
            )
            for tax in bill.totals.taxes
        ],
        tax_minor=bill.totals.tax_minor,
        total_minor=bill.totals.total_minor,
        due_minor=bill.due_minor,
    )


def _coupon_line(coupon: Coupon, off: int, currency: str) -> EstimateLine:
    meters = coupon.meters or frozenset()
    share = "" if coupon.percent is None else f" of {plain(coupon.percent)} %"
    return EstimateLine(
        kind="Coupon",
        meter=next(iter(meters)) if len(meters) == 1 else None,
        description=f"Coupon{share}" + (f" on {', '.join(sorted(meters))}" if meters else ""),
        quantity="-1",
        unit_price=plain(major(Amount(off, currency))),
        amount_minor=-off,
    )
