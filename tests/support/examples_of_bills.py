# SPDX-License-Identifier: Apache-2.0
"""The worked examples about whole bills: coupons, VAT, credit, wallet, thresholds."""

from datetime import date, timedelta
from typing import Any

from tests.support.examples import Ask, Asks, asks_of, charge, fee, minor, of_usage, span


@asks_of("tax.coupon_larger_than_fees.lago")
def _more_off_than_there_is(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = {
        "base_fee": given["fees"][0][1],
        "coupons": [{"amount": amount} for amount in given["coupons"]],
        "tax": {"rate": given["fees"][0][2]},
    }
    answer = {
        "subtotal_minor": 0,
        "tax_minor": minor(expected["tax"]),
        "total_minor": minor(expected["total"]),
    }
    yield Ask(body, answer)


@asks_of("coupons.order_and_scope.lago")
def _coupons_in_order(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    names = {name: name.replace(".", "_") for name, _, _ in given["fees"]}
    second = [names[name] for name in names if name.startswith("p2")]
    body = {
        "charges": [charge({"unit_amount": "1"}) | {"meter": names[name]} for name in names],
        "usage": {names[name]: amount for name, amount, _ in given["fees"]},
        # Given the other way round: those of single meters go first all the same.
        "coupons": [
            {"amount": "5"},
            {"amount": "20", "meters": ["p1_m1", "p1_m2"]},
            {"amount": "10", "meters": second},
        ],
    }
    yield Ask(body, {"subtotal_minor": minor(expected["subtotal_excl_tax"])})


@asks_of("credit_note.rounding.lago")
def _credit_of_a_part(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        part, whole = map(int, case["unused"].split("/"))
        last = date(2026, 6, 1) + timedelta(days=whole)
        end = date(2026, 6, 1) + timedelta(days=part)
        period = {"from": "2026-06-01", "to": last.isoformat(), "service_to": end.isoformat()}
        answer = {f"{name}_minor": minor(result[key]) for name, key in TAXED}
        yield Ask(fee(case["amount"], period, tax={"rate": case["tax_rate"]}), answer)


TAXED = (("subtotal", "net"), ("tax", "tax"), ("total", "total"))


@asks_of("tax.eu_selection.lago")
def _by_the_buyer(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    meanings = {
        "exempt": ("O", "0"),
        "FR standard": ("S", "20"),
        "IT standard": ("S", "22"),
        "reverse charge (0)": ("AE", "0"),
        "unchanged from before the update": ("S", "22"),
    }
    numbers = {"IT": "IT00743110157", "FR": "FR40303265045"}
    for buyer, meaning in zip(given["customers"], expected["tax"], strict=True):
        asked = {"country": buyer["country"]}
        if "vat_id" in buyer:
            valid = buyer["vat_id"] == "valid"
            asked["vat_number"] = numbers[buyer["country"]] if valid else "IT123"
        body = {"base_fee": "100", "period": span("2026-06-01", "2026-06-30")}
        yield Ask(body | {"tax": {"buyer": asked}}, {"taxes": [meanings[meaning]]}, "FR")


@asks_of("tax.line_vs_document.odoo", "tax.per_line_vs_category")
def _vat_per_rate(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    meters = [f"m{number}" for number in range(len(given["lines"]))]
    body = {
        "charges": [charge({"unit_amount": "1"}) | {"meter": meter} for meter in meters],
        "usage": dict(zip(meters, given["lines"], strict=True)),
        "tax": {"rate": given["tax_rate"]},
    }
    yield Ask(body, {"tax_minor": minor(expected["per_category_rounding"])})


@asks_of("tax.discount_then_tax.invoiceninja")
def _discount_then_tax(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = {
        "base_fee": given["lines"][0],
        "coupons": [{"amount": given["discount"]}],
        "tax": {"rate": given["tax_rate"]},
    }
    yield Ask(body, {"total_minor": minor(expected["total"])})


@asks_of("order.lago.current")
def _order(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = {
        "base_fee": given["subscription"],
        "charges": [charge({"unit_amount": "1"})],
        "usage": {"units": given["usage"]},
        "coupons": [{"amount": given["coupon"]}],
        "tax": {"rate": given["tax_rate"]},
        "credit_notes": given["credit_note"],
        "wallet": given["prepaid_credits"],
    }
    answer = {
        "subtotal_minor": minor(expected["subtotal_excl_tax"]),
        "tax_minor": minor(expected["tax"]),
        "total_minor": minor(expected["subtotal_incl_tax"]),
        "due_minor": minor(expected["total_due"]),
    }
    yield Ask(body, answer)


@asks_of("order.prepaid_tax.zuora")
def _prepaid(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    case, result = given["cases"][0], expected["cases"][0]
    body = {"base_fee": case["service"], "tax": {"rate": "8"}, "wallet": case["credit"]}
    yield Ask(body, {"due_minor": minor(result["total_due"])})


@asks_of("credits.settlement_modes.kong")
def _settlement(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        if "credits_used" in result:
            body = {"base_fee": given["charge"], "wallet": case["balance"]}
            yield Ask(body, {"due_minor": minor(result["invoiced"])})


@asks_of("credits.cost_basis.kong")
def _cost_basis(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = of_usage({"unit_amount": given["unit_cost"]}, given["credits"])
    yield Ask(body, {"due_minor": minor(expected["invoice_amount"])})


@asks_of("credits.wallet_with_tax.lago")
def _wallet_with_tax(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    wallet = given["wallet"]
    for (_, price), step in zip(given["fees"][1:], expected["steps"][1:], strict=True):
        body = {"base_fee": price, "tax": {"rate": given["tax_rate"]}, "wallet": wallet}
        answer = {"total_minor": minor(step["gross"]), "due_minor": minor(step["total_due"])}
        yield Ask(body, answer)
        wallet = step["wallet"]


@asks_of("progressive.single_threshold.lago")
def _thresholds(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    priced = {"unit_amount": given["unit_amount"]}
    first, end = given["events"][0], expected["month_end"]
    yield Ask(of_usage(priced, first), {"due_minor": minor(expected["threshold_invoice"])})
    billed = {"units": {"quantity": first, "amount": expected["threshold_invoice"]}}
    month = of_usage(priced, given["events"], base_fee=given["plan"])
    yield Ask(month, {"total_minor": minor(end["fees"])})
    yield Ask(month | {"already_billed": billed}, {"due_minor": minor(end["total_due"])})
    ended = fee(
        given["plan"],
        span("2026-05-01", "2026-05-31", None, f"2026-05-{given['variant']['end_day']}"),
        charges=[charge(priced)],
        usage={"units": given["variant"]["events"]},
        already_billed=billed,
    )
    yield Ask(ended, {"due_minor": minor(expected["variant"]["total_due"])})


@asks_of("account_credit.killbill")
def _account_credit(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = {"base_fee": given["charge"], "credit_notes": given["credit"]}
    answer = {"total_minor": minor(expected["charged"]), "due_minor": minor(expected["balance"])}
    yield Ask(body, answer)


@asks_of("invoice_credit_on_draft.killbill")
def _credit_on_a_draft(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = {"base_fee": given["draft"], "coupons": [{"amount": given["credit"]}]}
    yield Ask(body, {"due_minor": minor(expected["committed_balance"])})


@asks_of("tax.seed_invoice")
def _reference(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    (_, _, base), *metered = given["lines"]
    body = {
        "base_fee": base,
        "currency": given["currency"],
        "charges": [
            charge({"unit_amount": price}) | {"meter": meter} for meter, _, price in metered
        ],
        "usage": {meter: count for meter, count, _ in metered},
        "tax": {"rate": given["tax_rate"]},
    }
    answer = {f"{name}_minor": minor(expected[key]) for name, key in TAXED}
    yield Ask(body, answer | {"lines": [minor(line) for line in expected["lines"]]})


@asks_of("quota.overage_cap.seed")
def _overage_cap(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    most = expected["cases"][1]["amount"]
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        priced = {"unit_amount": given["overage_unit_amount"], "maximum_spend": most}
        answer = {"subtotal_minor": minor(result["amount"])}
        yield Ask(of_usage(priced, case["extra"]), answer)


@asks_of("marketplace.commission.seed", "marketplace.commission.rapidapi")
def _commission(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    """A commission is a percentage of the price, rounded like a line."""
    priced = {"model": "percentage", "rate_percent": given["commission_percent"]}
    if "price" in given:
        answer = {"subtotal_minor": minor(expected["commission"])}
        yield Ask(of_usage(priced, given["price"]), answer)
        return
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        sold = sum(map(int, case["sales"])) * 100
        answer = {"subtotal_minor": sold - minor(result["net"])}
        yield Ask(of_usage(priced, case["sales"]), answer)


@asks_of("marketplace.fee_stack.polar")
def _fee_stack(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    base = {
        "model": "percentage",
        "rate_percent": given["base"]["percent"],
        "fixed_amount_per_event": given["base"]["fixed"],
    }
    abroad = {"model": "percentage", "rate_percent": given["international_percent"]}
    body = {
        "charges": [charge(base), charge(abroad) | {"meter": "abroad"}],
        "usage": {"units": given["amount"], "abroad": given["amount"]},
    }
    lines = [minor(expected["base_fee"]), minor(expected["international_fee"])]
    yield Ask(body, {"lines": lines, "subtotal_minor": minor(expected["total_fee"])})
