# SPDX-License-Identifier: Apache-2.0
"""The Wind API as its provider describes it to the catalogue: what the demo sells."""

from typing import Any

SLUG = "wind"


def product(live_url: str, test_url: str | None = None) -> dict[str, Any]:
    """The product. Test keys reach the server at `test_url` and never the other (K-06)."""
    upstreams = {"Live": {"base_url": live_url}}
    if test_url is not None:
        upstreams["Test"] = {"base_url": test_url}
    return {
        "slug": SLUG,
        "name": "Wind API",
        "category": "Energy",
        "short_description": "Wind farms, turbines, measurements, alerts and reports.",
        "description": "Everything a wind farm measures, as an API.",
        "version_label": "v1",
        "upstreams": upstreams,
    }


METERS = (
    {"key": "assets", "unit": "asset", "aggregation": "max"},
    {"key": "reports", "unit": "report", "aggregation": "sum"},
)


def _route(method: str, path: str, scope: str, title: str) -> dict[str, Any]:
    return {"method": method, "path": path, "scope": scope, "title": title}


ROUTES = (
    _route("GET", "/farms", "assets.read", "List wind farms"),
    _route("POST", "/farms", "assets.write", "Add a wind farm"),
    _route("GET", "/farms/{farm_id}", "assets.read", "Read a wind farm"),
    _route("GET", "/turbines", "assets.read", "List turbines"),
    _route("POST", "/turbines", "assets.write", "Add a turbine"),
    _route("GET", "/turbines/{turbine_id}", "assets.read", "Read a turbine"),
    _route("DELETE", "/turbines/{turbine_id}", "assets.write", "Remove a turbine"),
    _route("GET", "/turbines/{turbine_id}/measurements", "measurements.read", "Measurements"),
    _route("POST", "/turbines/{turbine_id}/measurements", "measurements.write", "Add measurements"),
    _route("GET", "/alerts", "alerts.read", "List alerts"),
    _route("POST", "/alerts/{alert_id}/acknowledge", "alerts.write", "Acknowledge an alert"),
    _route("GET", "/reports", "reports.read", "List reports"),
    _route("POST", "/reports", "reports.create", "Make a PDF report"),
    _route("GET", "/reports/{report_id}", "reports.read", "Read a report"),
)

SCOPES = sorted({route["scope"] for route in ROUTES})


def _plan(
    slug: str, rank: int, *, fee_minor: int, included: tuple[int, int], prices: tuple[str, str]
) -> dict[str, Any]:
    (calls, assets), (call_price, asset_price) = included, prices
    charges = [
        _charge("api_calls", str(calls), call_price, "API calls", "API-aanroepen"),
        _charge("assets", str(assets), asset_price, "Assets", "Assets"),
        _charge("reports", "0", "2.50", "PDF reports", "PDF-rapporten"),
    ]
    return {
        "slug": slug,
        "name": slug.capitalize(),
        "rank": rank,
        "base_fee_timing": "arrears",
        "over_quota_policy": "overage",
        "payment_on_invoice": True,
        "payment_term_days": 14,
        "prices": [
            {"base_fee": {"amount_minor": fee_minor, "currency": "EUR"}, "charges": charges}
        ],
        "quotas": [
            {"meter": "api_calls", "amount": calls, "period": "cycle"},
            {"meter": "assets", "amount": assets, "period": "cycle"},
        ],
    }


def _charge(meter: str, included: str, price: str, english: str, dutch: str) -> dict[str, Any]:
    return {
        "meter": meter,
        "model": "unit",
        "included": included,
        "unit_price": price,
        "description": {"en": english, "nl": dutch},
    }


def _per_second(amount: int) -> dict[str, Any]:
    return {"rate_limit": {"amount": amount, "period": "second", "burst": amount}}


STARTER = _per_second(600) | _plan(
    "starter", 1, fee_minor=49_00, included=(10_000, 10), prices=("0.002", "1.50")
)
PROFESSIONAL = (
    _per_second(2_000)
    | _plan("professional", 2, fee_minor=199_00, included=(250_000, 250), prices=("0.001", "1.00"))
    | {"trial_days": 30}
)
ENTERPRISE = (
    _per_second(10_000)
    | _plan(
        "enterprise", 3, fee_minor=1_500_00, included=(5_000_000, 5_000), prices=("0.0005", "0.50")
    )
    | {"visibility": "unlisted"}
)
PLANS = (STARTER, PROFESSIONAL)
