# SPDX-License-Identifier: Apache-2.0
"""The worked billing examples of other products, as far as these rules reach.

Each case is read into our own terms and must come out to the cent. `LATER` names those that wait
for a rule that does not exist yet; together they are all there are.
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from nimbus.errors import Refusal
from nimbus.rules.contracts import PlanTerms, single
from nimbus.rules.invoicing import MeterUsage, propose, totals_by_treatment
from nimbus.rules.money import Money, format_money, parse, round_half_up, round_minor
from nimbus.rules.periods import Anchor, Period, nominal_period, period, period_containing
from nimbus.rules.pricing import Charge, Tier, amount
from nimbus.rules.proration import fraction, split_price
from nimbus.rules.tax import Party, TaxTreatment, decide, vat_on

FILE = Path(__file__).parents[1] / "cases" / "billing_examples.json"
CASES = {case["id"]: case for case in json.loads(FILE.read_text("utf-8"))}
D = Decimal
MODELS = {"standard": "unit", "stairstep": "stair_step"}

COUPONS = "coupons come with the complete bill"
CREDIT_NOTES = "credit notes come with the complete bill"
CREDITS = "wallets and account credit come with the complete bill"
MINIMUM = "minimum commitment and its proration come with the complete bill"
INCLUSIVE = "prices are net of VAT; inclusive prices come with the complete bill"
MARKETPLACE = "provider shares come with the marketplace"
GATE = "the gateway's, the quota's or the portal's to show, not a rule of billing"
LATER = {
    "pricing.capacity.killbill": "a charge has one meter; this tier looks at two",
    "metering.aggregations.lago": "aggregation belongs to usage",
    "metering.prorated_graduated.lago": "units prorated within a period are not offered",
    "termination.same_day.lago": CREDIT_NOTES,
    "minimum_spend.prorated_termination.lago": MINIMUM,
    "commitment.minimum.lago": MINIMUM,
    "proration.fixed_30_days.killbill": "months of 30 days are not offered",
    "downgrade.after_adjustment.killbill": CREDIT_NOTES,
    "dates.first_bill_cycle_day.killbill": "a billing day apart from the start is not offered",
    "tax.coupon_allocation.lago": COUPONS,
    "tax.coupon_larger_than_fees.lago": COUPONS,
    "coupons.order_and_scope.lago": COUPONS,
    "credit_note.residual_rounding.coupon.lago": COUPONS,
    "credit_note.multi_tax_coupon.lago": COUPONS,
    "credit_note.void_invoice.lago": CREDIT_NOTES,
    "refund.tax_split_inclusive.stripe": INCLUSIVE,
    "tax.inclusive.polar": INCLUSIVE,
    "tax.inclusive_rounding.zuora": INCLUSIVE,
    "order.lago.current": COUPONS,
    "order.lago.history": COUPONS,
    "order.prepaid_tax.zuora": CREDITS,
    "credits.draw_down_priority.kong": CREDITS,
    "credits.settlement_modes.kong": CREDITS,
    "credits.spill_over.kong": CREDITS,
    "credits.cost_basis.kong": CREDITS,
    "credits.pending_usage.kong": CREDITS,
    "credits.wallet_with_tax.lago": CREDITS,
    "account_credit.killbill": CREDITS,
    "invoice_credit_on_draft.killbill": CREDITS,
    "item_adjustment.killbill": CREDITS,
    "progressive.single_threshold.lago": "thresholds within a period come with the complete bill",
    "late_usage.zero_invoice.killbill": "the invoice marks its period as billed, no line of zero",
    "late_usage.grace.lago": "grace before finalization is the bill run's",
    "dunning.schedule.killbill": "dunning comes with payments",
    "dunning.schedule.stripe": "dunning comes with payments",
    "marketplace.commission.rapidapi": MARKETPLACE,
    "marketplace.split_remainder.formance": MARKETPLACE,
    "marketplace.fee_stack.polar": MARKETPLACE,
    "marketplace.refund_keeps_fee.polar": MARKETPLACE,
    "marketplace.refund_fee.stripe_connect": MARKETPLACE,
    "marketplace.commission.seed": MARKETPLACE,
    "quota.refill_replaces.unkey": GATE,
    "quota.usage_display.seed": GATE,
    "quota.payment_overdue_grace.zuplo": GATE,
    "quota.overage_cap.seed": GATE,
    "webhooks.retry_schedule.standard": "webhooks come with events",
    "webhooks.retry_schedule.svix": "webhooks come with events",
}

CHECKS: dict[str, Callable[[dict, dict], None]] = {}


def checks(*ids):
    def register(check):
        CHECKS.update(dict.fromkeys(ids, check))
        return check

    return register


def tier(given):
    """A tier as other products write it."""
    return Tier(
        D(given["up_to"]) if given["up_to"] else None,
        unit_price=D(given.get("unit_amount", 0)),
        flat_fee=D(given.get("flat_amount", given.get("amount", 0))),
        rate=D(given.get("rate_percent", 0)),
    )


def charge(given, case=()):
    """A charge as other products write it; what stands in the single case goes first."""
    of = {**given, **dict(case)}
    tiers = given["variants"][of["variant"]] if "variants" in given else of.get("tiers", ())
    optional = {
        ours: D(of[theirs]) if theirs != "free_events" else of[theirs]
        for ours, theirs in (
            ("free_events", "free_events"),
            ("free_amount", "free_amount"),
            ("minimum", "minimum_spend"),
            ("maximum", "maximum_spend"),
        )
        if theirs in of
    }
    return Charge(
        "meter",
        MODELS.get(of["model"], of["model"]),
        unit_price=D(of.get("unit_amount", 0)),
        tiers=tuple(map(tier, of.get("bands", tiers))),
        package_size=D(of.get("package_size", 0)),
        package_price=D(of.get("package_amount", 0)),
        rate=D(of.get("rate_percent", 0)),
        fixed_per_event=D(of.get("fixed_amount_per_event", 0)),
        included=D(of.get("free_units", 0)),
        **optional,
    )


def cents(exact, currency="EUR"):
    return format_money(round_minor(exact, currency))


def utc(day):
    return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)


def standard(rate):
    return TaxTreatment("S", D(rate), "NL", None)


def minor(text):
    return parse(text, "EUR").amount_minor


def text(amount_minor):
    return format_money(Money(amount_minor, "EUR"))


@checks(
    "pricing.standard.lago.doc",
    "pricing.unit.kong",
    "pricing.graduated.lago.flat",
    "pricing.graduated.lago.zero_usage",
    "pricing.package.lago.doc",
    "pricing.package.kong",
    "pricing.package.zuplo",
    "pricing.volume.lago.doc",
    "pricing.volume.lago.tests",
    "pricing.graduated.stripe",
    "pricing.graduated_vs_volume.kong",
    "pricing.graduated.flat_base_fee.kong",
    "pricing.graduated_vs_volume.zuplo",
    "pricing.graduated.autumn",
    "pricing.volume.openmeter.flat_and_unit",
    "pricing.volume.openmeter.minimum_maximum",
    "pricing.stairstep.apigee",
    "pricing.seats.polar",
)
def amounts_by_quantity(given, expected):
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        if result.get("allowed") is False:
            with pytest.raises(Refusal):
                amount(charge(given, case), D(case["quantity"]))
            continue
        exact = amount(charge(given, case), D(case["quantity"]))
        assert cents(exact) == result["amount"]
        if "tax" in result:
            assert text(vat_on(minor(result["amount"]), D(given["tax_rate"]))) == result["tax"]


@checks("pricing.graduated.openmeter.progressive")
def amounts_after_what_was_billed(given, expected):
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        prior = D(case.get("prior", 0))
        priced = charge(given, case)
        before = D(case["prior_amount"]) if "prior_amount" in case else amount(priced, prior)
        before = before if prior else D(0)
        assert cents(amount(priced, prior + D(case["line"])) - before) == result["amount"]


@checks("pricing.unit.openmeter.maximum")
def a_cap_on_the_sum_of_two_lines(given, expected):
    priced = charge(given)
    prior, line = D(given["prior"]), D(given["line"])
    assert cents(amount(priced, prior + line) - amount(priced, prior)) == expected["amount"]


@checks("pricing.minimum_commitment.openmeter.last_line")
def the_minimum_less_what_was_billed(given, expected):
    priced = charge({"model": "standard", "minimum_spend": given["minimum_spend"]})
    shortfall = amount(priced, D(given["last_line_usage"])) - D(given["already_billed"])
    assert cents(shortfall) == expected["lines"][0][1]


@checks(
    "pricing.graduated_percentage.lago.marginal",
    "metering.pay_in_advance.graduated.lago",
)
def each_event_pays_what_it_adds(given, expected):
    priced = charge({"model": "graduated", **given})
    values = [D(event) if isinstance(event, str) else D(1) for event in given["events"]]
    reached, billed = D(0), D(0)
    for value, fee in zip(values, expected["fees"], strict=True):
        reached += value
        assert cents(amount(priced, reached) - billed) == fee
        billed = amount(priced, reached)


@checks("pricing.percentage.lago.doc")
def the_fourth_event_pays(given, expected):
    events = [D(1), D(1), D(1), D(given["fourth_event_amount"])]
    assert cents(amount(charge(given), sum(events), events)) == expected["fourth_event_fee"]


@checks(
    "pricing.percentage.lago.free_events",
    "pricing.percentage.lago.free_amount",
    "pricing.percentage.lago.free_both",
)
def percentages_by_event(given, expected):
    events = [D(event) for event in given["events"]]
    for count, fee in enumerate(expected.get("cumulative", ()), start=1):
        assert cents(amount(charge(given), sum(events[:count]), events[:count])) == fee
    net = minor(cents(amount(charge(given), sum(events), events)))
    gross = text(net + vat_on(net, D(given["tax_rate"])))
    if "amount" in expected:
        assert (text(net), gross) == (expected["amount"], expected["total_including_tax"])
    else:
        assert gross == expected["cumulative_including_tax"][-1]


@checks("pricing.all_vs_top_tier.killbill")
def tiers_of_blocks(given, expected):
    for name, model in (("all_tier", "graduated"), ("top_tier", "volume")):
        total = D(0)
        for unit, of in given["units"].items():
            tiers = [{"up_to": t["blocks"], "unit_amount": t["amount"]} for t in of["tiers"]]
            blocks = -(-int(given["usage"][unit]) // of["block"])
            exact = amount(charge({"model": model, "tiers": tiers}), D(blocks))
            assert cents(exact) == expected[name][unit]
            total += exact
        assert cents(total) == expected[name]["amount"]


@checks("pricing.base_plus_overage.zuplo", "pricing.consumable.killbill.tutorial")
def a_fee_and_usage(given, expected):
    if "tiers" in given:
        usage = charge(given)
    else:
        price, included = D(given["overage_unit_amount"]), D(given["included_units"])
        usage = Charge("meter", "unit", unit_price=price, included=included)
    terms = PlanTerms("USD", minor(given["recurring_amount"]), "arrears", "second", (usage,))
    contract = single(terms, Anchor(utc("2026-05-01"), "UTC", "month", 1, False))
    may = Period(utc("2026-05-01"), utc("2026-06-01"))
    used = {("meter", may): MeterUsage(D(given["quantity"]))}
    lines = propose(contract, used, utc("2026-06-01"))
    assert [text(line.amount_minor) for line in lines] == [line[-1] for line in expected["lines"]]


@checks("proration.start.lago.doc", "proration.start_and_tax.lago")
def a_start_within_a_calendar_month(given, expected):
    anchor = Anchor(utc(given["start"]), "UTC", "month", 1, calendar=True)
    share = fraction(nominal_period(anchor, 0), period(anchor, 0), "day", "UTC")
    net = round_minor(share * Fraction(given["amount"]), "EUR")
    assert share == Fraction(expected["days"], expected["days_in_period"])
    assert format_money(net) == expected.get("amount", expected.get("net"))
    if "tax" in expected:
        tax = vat_on(net.amount_minor, D(given["tax_rate"]))
        assert text(tax) == expected["tax"]
        assert text(net.amount_minor + tax) == expected["total"]


@checks("proration.upgrade_arrears.lago.doc")
def an_upgrade_in_arrears(given, expected):
    month = Period(utc("2026-01-01"), utc("2026-02-01"))
    cut = (utc(f"2026-{given['upgrade_on']}"),)
    old, _ = split_price(parse(given["old_amount"], "EUR"), month, cut, "day", "UTC")
    _, new = split_price(parse(given["new_amount"], "EUR"), month, cut, "day", "UTC")
    assert format_money(old) == expected["old_plan_amount"]
    assert format_money(new) == expected["new_plan_amount"]


@checks("upgrade.mid_period.killbill")
def an_upgrade_in_advance(given, expected):
    whole = Period(*map(utc, given["period"]))
    cut = (utc(given["change_on"]),)
    _, new = split_price(parse(given["new_amount"], "EUR"), whole, cut, "day", "UTC")
    _, unused = split_price(parse(given["old_amount"], "EUR"), whole, cut, "day", "UTC")
    assert [format_money(new), format_money(-unused)] == [line[3] for line in expected["lines"]]
    assert format_money(new - unused) == expected["net"]


@checks("cancel.mid_period.openmeter")
def a_cancellation_within_a_period(given, expected):
    cut = (datetime.fromisoformat(given["cancel_at"]),)
    whole = Period(*map(utc, given["period"]))
    used, _ = split_price(parse(given["amount"], "EUR"), whole, cut, "second", "UTC")
    assert format_money(used) == expected["amount"]


@checks("termination.arrears.lago")
def a_termination_in_arrears(given, expected):
    terms = PlanTerms(
        "EUR", minor(given["amount"]), "arrears", "day", (Charge("m", "unit", unit_price=D(1)),)
    )
    anchor = Anchor(utc(given["start"]), "UTC", "month", 1, calendar=True)
    end = utc(given["end"]) + timedelta(days=1)  # the last day is served
    used = {("m", Period(anchor.at, end)): MeterUsage(D(given["usage"]))}
    lines = propose(single(terms, anchor, 0, end), used, end)
    sums = totals_by_treatment([(line.amount_minor, standard(given["tax_rate"])) for line in lines])
    assert [text(line.amount_minor) for line in lines] == [
        expected["subscription"],
        expected["usage"],
    ]
    assert text(sums.tax_minor) == expected["tax"]
    assert text(sums.total_minor) == expected["total"]


@checks("trial.end_proration.lago")
def the_first_fee_after_a_trial(given, expected):
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        billed_on = utc(given["start"]) + timedelta(days=case["trial_days"])
        anchor = Anchor(billed_on, "UTC", "month", 1, calendar=True)
        fee = Fraction(case.get("amount", case.get("upgrade_to_amount")))
        share = fraction(nominal_period(anchor, 0), period(anchor, 0), "day", "UTC")
        assert billed_on == utc(result["billed_on"])
        assert share == Fraction(result["days"], result["days_in_period"])
        assert cents(share * fee) == result["amount"]


@checks("dates.anchor_31.lago", "dates.anchor_feb28.lago", "dates.leap_year_yearly.lago")
def billing_dates(given, expected):
    anchor = Anchor(utc(given["anchor"]), "UTC", given["interval"], 1, calendar=False)
    days = [period(anchor, n).starts_at.date() for n in range(15)]
    if "billing_dates" in expected:
        assert [day.isoformat() for day in days] == expected["billing_dates"]
    if "billing_day" in expected:
        assert {day.day for day in days} == {expected["billing_day"]}
    if "billing_date_2023" in expected:
        assert days[3].isoformat() == expected["billing_date_2023"]


@checks("dates.anchor_31.stripe")
def the_31st_in_common_and_leap_years(given, expected):
    for year, february in ((2023, "02-28"), (2024, "02-29")):
        anchor = Anchor(utc(f"{year}-{given['anchor']}"), "UTC", "month", 1, calendar=False)
        days = [f"{period(anchor, n).starts_at:%m-%d}" for n in (1, 2, 3)]
        assert days == [february, *expected["billing_dates"][1:]]


@checks("dates.timezone.lago")
def months_begin_at_local_midnight(given, expected):
    for case, billed in zip(given["cases"], expected["billed"], strict=True):
        at = datetime.fromisoformat(f"2026-{case['at']}")
        anchor = Anchor(utc("2026-02-10"), case["timezone"], "month", 1, calendar=True)
        assert (period_containing(anchor, at)[0] == 1) is billed


@checks("credit_note.rounding.lago")
def tax_follows_from_the_rounded_item(given, expected):
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        net = round_half_up(Fraction(case["unused"]) * minor(case["amount"]))
        tax = vat_on(net, D(case["tax_rate"]))
        assert [text(net), text(tax), text(net + tax)] == list(result.values())


@checks("tax.eu_selection.lago")
def vat_by_the_buyer(given, expected):
    meanings = {
        ("O", None): "exempt",
        ("S", "FR"): "FR standard",
        ("S", "IT"): "IT standard",
        ("AE", "IT"): "reverse charge (0)",
    }
    seller = Party(given["seller_country"], has_vat_number=True)
    for buyer, meaning in zip(given["customers"], expected["tax"], strict=True):
        party = Party(buyer["country"], buyer.get("vat_id") == "valid")
        treatment = decide(seller, party, date(2026, 6, 1))
        # A malformed number is refused where it is entered, so the buyer still has none.
        wanted = meanings["S", "IT"] if buyer.get("vat_id") == "malformed" else meaning
        assert meanings[treatment.category, treatment.country] == wanted


@checks("tax.line_vs_document.odoo", "tax.per_line_vs_category")
def vat_per_category_is_ours_and_per_line_is_not(given, expected):
    rate = given["tax_rate"]
    lines = [minor(line) for line in given["lines"]]
    ours = totals_by_treatment([(line, standard(rate)) for line in lines]).tax_minor
    assert text(ours) == expected["per_category_rounding"]
    assert text(sum(vat_on(line, D(rate)) for line in lines)) == expected["per_line_rounding"]


@checks("tax.discount_then_tax.invoiceninja")
def vat_after_the_discount(given, expected):
    lines = [*map(minor, given["lines"]), -minor(given["discount"])]
    sums = totals_by_treatment([(line, standard(given["tax_rate"])) for line in lines])
    assert text(sums.total_minor) == expected["total"]


@checks("tax.en16931_category_rounding")
def vat_per_category(given, expected):
    sums = totals_by_treatment(
        [(minor(base), standard(rate)) for _, rate, base in given["categories"]]
    )
    assert [text(tax.tax_minor) for tax in sums.taxes] == expected["category_tax"]
    assert text(sums.tax_minor) == expected["tax_total"]
    assert text(sums.subtotal_minor) == expected["net"]
    assert text(sums.total_minor) == expected["payable"]


@checks("tax.seed_invoice")
def the_reference_invoice(given, expected):
    lines = [round_minor(D(count) * D(price), "EUR") for _, count, price in given["lines"]]
    sums = totals_by_treatment([(line.amount_minor, standard(given["tax_rate"])) for line in lines])
    assert list(map(format_money, lines)) == expected["lines"]
    assert text(sums.subtotal_minor) == expected["net"]
    assert text(sums.tax_minor) == expected["tax"]
    assert text(sums.total_minor) == expected["total"]


@pytest.mark.parametrize("case_id", sorted(CHECKS))
def test_a_worked_example_comes_out_to_the_cent(case_id):
    CHECKS[case_id](CASES[case_id]["input"], CASES[case_id]["expected"])


def test_every_example_is_checked_or_listed_for_later():
    assert not CHECKS.keys() & LATER.keys()
    assert CHECKS.keys() | LATER.keys() == CASES.keys()
