# SPDX-License-Identifier: Apache-2.0
"""The worked billing examples of other products as requests to the estimate, with its answers.

`asks(case_id)` gives what to send and what must come back; a key of an answer that is not named is
not looked at. Amounts of `lines` are those of the lines in order.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

CASES_DIRECTORY = Path(__file__).parents[1] / "cases"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((CASES_DIRECTORY / "billing_examples.json").read_text("utf-8"))
}
NOT_OFFERED: dict[str, dict[str, Any]] = json.loads(
    (CASES_DIRECTORY / "not_offered.json").read_text("utf-8")
)
MODELS = {"standard": "unit", "stairstep": "stair_step"}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, what the answer says, and where the seller is; `refused` names a field."""

    body: dict[str, Any]
    answer: dict[str, Any] = field(default_factory=dict)
    seller: str = "NL"
    refused: str | None = None


Asks = Iterator[Ask]
_ASKS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Asks]] = {}


def asked_ids() -> list[str]:
    """The examples that the estimate can be asked about."""
    return sorted(_ASKS)


def asks(case_id: str) -> list[Ask]:
    """What to ask about an example."""
    case = CASES[case_id]
    return list(_ASKS[case_id](case["input"], case["expected"]))


def asks_of(*ids: str) -> Callable[[Any], Any]:
    """Register what is asked about these examples."""

    def register(made: Any) -> Any:
        _ASKS.update(dict.fromkeys(ids, made))
        return made

    return register


def minor(text: str, digits: int = 2) -> int:
    """A printed amount in minor units: "24.47" → 2447."""
    whole, _, rest = text.lstrip("-").partition(".")
    value = int(whole + rest.ljust(digits, "0"))
    return -value if text.startswith("-") else value


def charge(given: dict[str, Any], case: dict[str, Any] | None = None) -> dict[str, Any]:
    """A charge as other products write it, for the estimate."""
    of = {**given, **(case or {})}
    tiers = given["variants"][of["variant"]] if "variants" in given else of.get("tiers", [])
    made: dict[str, Any] = {
        "meter": "units",
        "model": MODELS.get(of.get("model", "unit"), of.get("model", "unit")),
        "tiers": [
            {
                "up_to": tier["up_to"],
                "unit_price": tier.get("unit_amount", "0"),
                "flat_fee": tier.get("flat_amount", tier.get("amount", "0")),
                "rate": tier.get("rate_percent", "0"),
            }
            for tier in of.get("bands", tiers)
        ],
    }
    for ours, theirs in (
        ("unit_price", "unit_amount"),
        ("package_size", "package_size"),
        ("package_price", "package_amount"),
        ("rate", "rate_percent"),
        ("fixed_per_event", "fixed_amount_per_event"),
        ("free_events", "free_events"),
        ("free_amount", "free_amount"),
        ("included", "free_units"),
        ("minimum", "minimum_spend"),
        ("maximum", "maximum_spend"),
    ):
        if theirs in of:
            made[ours] = of[theirs]
    return made


def of_usage(given: dict[str, Any], used: Any, **more: Any) -> dict[str, Any]:
    """A request about one charge and what was used of its meter."""
    body = {
        "currency": given.get("currency", "EUR"),
        "charges": more.pop("charges", None) or [charge(given)],
        "usage": {"units": used},
        **more,
    }
    if "tax_rate" in given:
        body["tax"] = {"rate": given["tax_rate"]}
    return body


@asks_of(
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
    "pricing.seats.polar",
)
def _by_quantity(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        body = of_usage(given, case["quantity"], charges=[charge(given, case)])
        answer: dict[str, Any] = {"subtotal_minor": minor(result["amount"])}
        if "tax" in result:
            answer |= {"tax_minor": minor(result["tax"]), "total_minor": minor(result["total"])}
        if "minimum_spend" in case or "maximum_spend" in case:
            answer["lines"] = [minor(line[1]) for line in result["lines"]]
        yield Ask(body, answer)


@asks_of("pricing.stairstep.apigee")
def _stairs(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    open_ended = [*given["bands"][:-1], {**given["bands"][-1], "up_to": None}]
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        if result.get("allowed") is False:
            # A table that ends somewhere has no price above it: it is not accepted at all.
            body = of_usage(given, case["quantity"])
            yield Ask(body, refused="charges.0.tiers.1.up_to")
            continue
        priced = charge({**given, "bands": open_ended})
        body = of_usage(given, case["quantity"], charges=[priced])
        yield Ask(body, {"subtotal_minor": minor(result["amount"])})


@asks_of("pricing.graduated.openmeter.progressive")
def _progressive(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        used = str(int(case["prior"]) + int(case["line"])) if "prior" in case else case["line"]
        billed = {"quantity": case.get("prior", "0")}
        if "prior_amount" in case:
            billed["amount"] = case["prior_amount"]
        body = of_usage(given, used, charges=[charge(given, case)])
        if case.get("prior", "0") != "0":
            body["already_billed"] = {"units": billed}
        yield Ask(body, {"subtotal_minor": minor(result["amount"])})


@asks_of("pricing.unit.openmeter.maximum")
def _capped(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    used = str(int(given["prior"]) + int(given["line"]))
    billed = {"units": {"quantity": given["prior"], "amount": "70.00"}}
    answer = {
        "subtotal_minor": minor(expected["amount"]),
        "lines": [minor(expected["gross"]), -minor(expected["discount"])],
    }
    yield Ask(of_usage(given, used, already_billed=billed), answer)


@asks_of("pricing.minimum_commitment.openmeter.last_line")
def _last_line(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    priced = {"model": "standard", "unit_amount": "1", "minimum_spend": given["minimum_spend"]}
    billed = {"units": {"amount": given["already_billed"]}}
    answer = {"lines": [minor(expected["lines"][0][1])]}
    yield Ask(of_usage(priced, given["last_line_usage"], already_billed=billed), answer)
    # The same where the earlier lines' usage is told as well.
    told = {"units": {"amount": given["already_billed"], "quantity": "100"}}
    yield Ask(of_usage(priced, "100", already_billed=told), answer)


@asks_of("pricing.graduated_percentage.lago.marginal", "metering.pay_in_advance.graduated.lago")
def _each_event(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    tiers = [*given["tiers"][:-1], {**given["tiers"][-1], "up_to": None}]
    of = {"model": "graduated", **given, "tiers": tiers}
    values = [event if isinstance(event, str) else "1" for event in given["events"]]
    reached, billed = 0, 0
    for value, fee in zip(values, expected["fees"], strict=True):
        reached += int(value)
        paid = {"units": {"quantity": str(reached - int(value)), "amount": f"{billed / 100:.2f}"}}
        body = of_usage(of, str(reached), already_billed=paid)
        yield Ask(body, {"subtotal_minor": minor(fee)})
        billed += minor(fee)


@asks_of("pricing.percentage.lago.doc")
def _fourth_event(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    events = ["1", "1", "1", given["fourth_event_amount"]]
    yield Ask(of_usage(given, events), {"subtotal_minor": minor(expected["fourth_event_fee"])})


@asks_of(
    "pricing.percentage.lago.free_events",
    "pricing.percentage.lago.free_amount",
    "pricing.percentage.lago.free_both",
)
def _percentages(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    if "amount" in expected:
        answer = {
            "subtotal_minor": minor(expected["amount"]),
            "total_minor": minor(expected["total_including_tax"]),
        }
        yield Ask(of_usage(given, given["events"]), answer)
        return
    for count, net in enumerate(expected["cumulative"], start=1):
        answer = {"subtotal_minor": minor(net)}
        if given["events"][count:] == []:
            answer["total_minor"] = minor(expected["cumulative_including_tax"][count - 1])
        yield Ask(of_usage(given, given["events"][:count]), answer)


@asks_of("pricing.all_vs_top_tier.killbill")
def _blocks(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    for name, model in (("all_tier", "graduated"), ("top_tier", "volume")):
        charges, usage, lines = [], {}, []
        for meter, of in given["units"].items():
            tiers = [{"up_to": t["blocks"], "unit_amount": t["amount"]} for t in of["tiers"]]
            charges.append(charge({"model": model, "tiers": tiers}) | {"meter": meter})
            usage[meter] = str(-(-int(given["usage"][meter]) // of["block"]))
            lines.append(minor(expected[name][meter]))
        body = {"currency": given["currency"], "charges": charges, "usage": usage}
        yield Ask(body, {"lines": lines, "subtotal_minor": minor(expected[name]["amount"])})


@asks_of("pricing.base_plus_overage.zuplo", "pricing.consumable.killbill.tutorial")
def _fee_and_usage(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    of = given
    if "tiers" not in given:
        names = {"free_units": "included_units", "unit_amount": "overage_unit_amount"}
        of = {"model": "unit"} | {ours: given[theirs] for ours, theirs in names.items()}
    body = of_usage(of, given["quantity"], base_fee=given["recurring_amount"])
    yield Ask(body, {"lines": [minor(line[-1]) for line in expected["lines"]]})


def span(first: str, last: str, start: str | None = None, end: str | None = None) -> dict[str, Any]:
    """A period whose last day is included, and what of it was served."""
    period = {"from": first, "to": after(last)}
    if start:
        period["service_from"] = start
    if end:
        period["service_to"] = after(end)
    return period


def after(day: str) -> str:
    """The day after."""
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def fee(amount: str, period: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A request about a fee for part of a period, by the day."""
    return {"base_fee": amount, "period": period, "proration": "day", **more}


@asks_of("proration.start.lago.doc")
def _start(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = fee(given["amount"], span(*given["period"], given["start"]), currency="USD")
    yield Ask(body, {"lines": [minor(expected["amount"])]})


@asks_of("proration.upgrade_arrears.lago.doc")
def _upgrade_in_arrears(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    january = {"from": "2026-01-01", "to": "2026-02-01"}
    change = f"2026-{given['upgrade_on']}"
    old = fee(given["old_amount"], {**january, "service_to": change})
    new = fee(given["new_amount"], {**january, "service_from": change})
    yield Ask(old, {"subtotal_minor": minor(expected["old_plan_amount"])})
    yield Ask(new, {"subtotal_minor": minor(expected["new_plan_amount"])})


@asks_of("proration.start_and_tax.lago")
def _start_and_tax(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    period = span("2025-02-01", "2025-02-28", given["start"])
    answer = {
        "subtotal_minor": minor(expected["net"]),
        "tax_minor": minor(expected["tax"]),
        "total_minor": minor(expected["total"]),
    }
    yield Ask(fee(given["amount"], period, tax={"rate": given["tax_rate"]}), answer)


@asks_of("termination.same_day.lago")
def _ended_at_once(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    note, final = expected["credit_note"], expected["final_invoice"]
    unused = span("2025-02-01", "2025-02-28", "2025-02-09")
    tax = {"rate": given["tax_rate"]}
    answer = {
        "subtotal_minor": minor(note["net"]),
        "tax_minor": minor(note["tax"]),
        "total_minor": minor(note["total"]),
    }
    yield Ask(fee(given["amount"], unused, tax=tax), answer)
    usage = of_usage({"unit_amount": "1"}, given["usage"], tax=tax, credit_notes=note["total"])
    yield Ask(usage, {"total_minor": minor(final["gross"]), "due_minor": minor(final["total_due"])})


@asks_of("termination.arrears.lago")
def _ended_in_arrears(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    body = fee(
        given["amount"],
        span("2025-02-01", "2025-02-28", given["start"], given["end"]),
        charges=[charge({"unit_amount": "1"})],
        usage={"units": given["usage"]},
        tax={"rate": given["tax_rate"]},
    )
    answer = {
        "lines": [minor(expected["subscription"]), minor(expected["usage"])],
        "tax_minor": minor(expected["tax"]),
        "total_minor": minor(expected["total"]),
    }
    yield Ask(body, answer)


@asks_of("trial.end_proration.lago")
def _after_a_trial(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        first = date.fromisoformat(result["billed_on"])
        month = first.replace(day=1)
        following = (month + timedelta(days=31)).replace(day=1)
        period = {
            "from": month.isoformat(),
            "to": following.isoformat(),
            "service_from": first.isoformat(),
        }
        price = case.get("amount", case.get("upgrade_to_amount"))
        yield Ask(fee(price, period), {"lines": [minor(result["amount"])]})


@asks_of("minimum_spend.prorated_termination.lago")
def _minimum_of_a_part(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    tax = {"rate": given["tax_rate"]}
    first = fee(given["amount"], span("2023-01-01", "2023-01-31", given["start"]), tax=tax)
    yield Ask(first, {"total_minor": minor(expected["first_invoice_total"])})
    note, final = expected["credit_note"], expected["final_invoice"]
    unused = span("2023-02-01", "2023-02-28", after(given["end"]))
    answer = {"subtotal_minor": minor(note["net"]), "total_minor": minor(note["total"])}
    yield Ask(fee(given["amount"], unused, tax=tax), answer)
    body = {
        "charges": [charge({"unit_amount": "1", "minimum_spend": given["charge_minimum"]})],
        "usage": {"units": given["usage"]},
        "period": span("2023-02-01", "2023-02-28", None, given["end"]),
        "proration": "day",
        "tax": tax,
        "credit_notes": final["credit_note"].lstrip("-"),
    }
    answer = {
        "lines": [minor(final["usage"]), minor(final["true_up"])],
        "subtotal_minor": minor(final["net"]),
        "tax_minor": minor(final["tax"]),
        "total_minor": minor(final["gross"]),
        "due_minor": minor(final["total_due"]),
    }
    yield Ask(body, answer)


@asks_of("commitment.minimum.lago")
def _commitment(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    periods = {
        "week": ("2023-01-30", "2023-02-05"),
        "month": ("2023-02-01", "2023-02-28"),
        "quarter": ("2023-01-01", "2023-03-31"),
        "year": ("2022-01-01", "2022-12-31"),
        "any": ("2023-02-04", "2023-03-03"),
    }
    for case, result in zip(given["cases"], expected["cases"], strict=True):
        period = span(*periods[case["interval"]], case.get("start"))
        body = fee(given["fee"], period, minimum_commitment=given["commitment"])
        yield Ask(body, {"lines": [..., minor(result["true_up"])]})


@asks_of("upgrade.mid_period.killbill")
def _upgrade_in_advance(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    first, last = given["period"]
    period = {"from": first, "to": last, "service_from": given["change_on"]}
    for price, line in zip(("new_amount", "old_amount"), expected["lines"], strict=True):
        yield Ask(fee(given[price], period), {"lines": [abs(minor(line[3]))]})


@asks_of("cancel.mid_period.openmeter")
def _cancelled(given: dict[str, Any], expected: dict[str, Any]) -> Asks:
    first, last = given["period"]
    period = {"from": first, "to": last, "service_to": "2024-02-16T00:00:00Z"}
    body = {"base_fee": given["amount"], "period": period, "proration": "second"}
    yield Ask(body, {"lines": [minor(expected["amount"])]})
