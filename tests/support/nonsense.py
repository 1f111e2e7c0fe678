# SPDX-License-Identifier: Apache-2.0
"""A whole request to the estimate, and what spoils one."""

import random
from typing import Any

WHOLE = {"from": "2026-05-01", "to": "2026-06-01"}
NONSENSE: list[Any] = [
    None, True, 0, -1, 1.5, "", " ", "x", "-1", "NaN", "Infinity", "1e400", "٣", "1_0", "\u0000",
    "9" * 62, "0." + "9" * 30, "9" * 500, [], {}, [[]], [None], ["1"] * 3, {"a": 1}, "2026-05-01",
    "9999-12-31", "0000-00-00", "2026-05-01T24:00:00Z", "2026-05-01T00:00:00+99:99", "graduated",
    {"from": "2026-05-01", "to": "2026-05-02"}, {"calls": "1"}, [{"meter": "calls"}], "EUR",
]  # fmt: skip
FULL: dict[str, Any] = {
    "plan": None,
    "currency": "EUR",
    "base_fee": "49.00",
    "charges": [
        {
            "meter": "calls",
            "model": "graduated",
            "tiers": [{"up_to": "10", "unit_price": "1", "flat_fee": "2", "rate": "3"}, {}],
            "included": "5",
            "minimum": "1",
            "maximum": "100",
        },
        {"meter": "b", "model": "package", "package_size": "10", "package_price": "1"},
        {
            "meter": "c",
            "model": "percentage",
            "rate": "1",
            "fixed_per_event": "0.1",
            "free_events": 2,
            "free_amount": "5",
        },
    ],
    "usage": {"calls": "22", "b": ["1", "2"], "c": ["10", "20"]},
    "already_billed": {"calls": {"quantity": "2", "amount": "3"}},
    "minimum_commitment": "60",
    "period": WHOLE | {"service_from": "2026-05-02", "service_to": "2026-05-30"},
    "proration": "day",
    "coupons": [{"percent": "10", "meters": ["b"]}, {"amount": "1"}],
    "credit_notes": "5",
    "wallet": "5",
    "tax": {"buyer": {"country": "DE", "vat_number": "DE136695976"}},
}


def spoiled(rng: random.Random, value: Any) -> Any:
    """The value with one thing in it, however deep, made into something else."""
    if rng.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return rng.choice(NONSENSE)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return [*value, rng.choice(NONSENSE)]
        return [spoiled(rng, one) if at == place else one for at, one in enumerate(value)]
    key = rng.choice(list(value))
    if rng.random() < 0.1:
        return {name: one for name, one in value.items() if name != key}
    return {**value, key: spoiled(rng, value[key])}
