# SPDX-License-Identifier: Apache-2.0
"""VAT: by place, date and status of the buyer; net and tax are always gross."""

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import Refusal
from nimbus.rules.tax import SOURCES, Party, decide, standard_rate, supply, vat_on
from nimbus.rules.vat_rates import FIRST_DAY, STANDARD_RATES

TODAY = date(2026, 6, 1)
STATES = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
EU = STATES.split()


@pytest.mark.parametrize(
    ("seller", "buyer", "has_number", "expected"),
    [
        ("NL", "NL", True, ("S", "21", "NL", None)),
        ("NL", "NL", False, ("S", "21", "NL", None)),
        ("FR", "IT", False, ("S", "22", "IT", None)),
        ("FR", "IT", True, ("AE", "0", "IT", "reverse_charge")),
        ("FR", "FR", True, ("S", "20", "FR", None)),
        ("FR", "US", False, ("O", "0", None, "outside_scope")),
        ("NL", "GB", True, ("O", "0", None, "outside_scope")),
        ("DE", "FI", False, ("S", "25.5", "FI", None)),
    ],
)
def test_vat_follows_from_who_sells_to_whom(seller, buyer, has_number, expected):
    category, rate, country, text = expected
    treatment = decide(Party(seller, True), Party(buyer, has_number), TODAY)

    assert treatment.category == category
    assert treatment.rate == Decimal(rate)
    assert treatment.country == country
    assert treatment.legal_text_key == text


@pytest.mark.parametrize("seller", EU)
def test_every_supply_of_every_state_has_its_kind_and_source(seller):
    for buyer in (*EU, "GB", "CH", "US"):
        for has_number in (False, True):
            kind = supply(Party(seller, True), Party(buyer, has_number))
            treatment = decide(Party(seller, True), Party(buyer, has_number), TODAY)
            assert SOURCES[kind]
            assert (kind == "domestic") is (buyer == seller)
            assert (kind == "outside_scope") is (buyer not in EU)
            assert (kind == "reverse_charge") is (treatment.category == "AE")
            assert (treatment.rate > 0) is (kind in {"domestic", "one_stop_shop"})


@pytest.mark.parametrize(
    ("country", "day", "rate"),
    [
        ("DE", date(2020, 6, 30), "19"),
        ("DE", date(2020, 7, 1), "16"),
        ("DE", date(2020, 12, 31), "16"),
        ("DE", date(2021, 1, 1), "19"),
        ("EE", date(2025, 6, 30), "22"),
        ("EE", date(2025, 7, 1), "24"),
        ("SK", date(2025, 1, 1), "23"),
        ("RO", date(2025, 7, 31), "19"),
        ("RO", date(2025, 8, 1), "21"),
        ("LU", date(2023, 6, 1), "16"),
        ("IE", date(2021, 2, 28), "21"),
    ],
)
def test_a_rate_holds_from_its_first_day_to_the_eve_of_the_next(country, day, rate):
    assert standard_rate(country, day) == Decimal(rate)


def test_every_state_of_the_union_has_a_plausible_rate_on_every_day():
    assert sorted(STANDARD_RATES) == EU
    for country, rows in STANDARD_RATES.items():
        days = [first_day for first_day, _ in rows]
        assert days[0] == FIRST_DAY, country
        assert days == sorted(set(days)), country
        assert all(15 <= rate <= 27 for _, rate in rows), country


def test_a_day_before_the_table_is_a_fault_and_never_a_guess():
    with pytest.raises(ValueError, match="no VAT rate"):
        standard_rate("NL", FIRST_DAY - timedelta(days=1))


def test_a_seller_outside_the_union_is_refused():
    with pytest.raises(Refusal) as refused:
        decide(Party("US", False), Party("NL", False), TODAY)
    assert refused.value.fields[0].field == "seller.country"
    with pytest.raises(Refusal):
        standard_rate("US", TODAY)


@given(st.sampled_from(EU), st.sampled_from([*EU, "US", "GB", "CH", "JP"]), st.booleans())
def test_every_pair_has_one_treatment_and_only_charged_vat_has_a_rate(seller, buyer, has_number):
    treatment = decide(Party(seller, True), Party(buyer, has_number), TODAY)

    assert (treatment.rate > 0) == (treatment.category == "S")
    assert (treatment.legal_text_key is None) == (treatment.category == "S")


def test_the_reference_vat_rounds_half_up():
    assert vat_on(11_650, Decimal(21)) == 2_447
    assert vat_on(-11_650, Decimal(21)) == -2_447


@given(st.integers(-(10**15), 10**15), st.decimals(0, 30, places=2))
def test_vat_is_within_half_a_minor_unit_and_mirrors_its_sign(base, rate):
    tax = vat_on(base, rate)

    assert abs(tax - Fraction(rate) * base / 100) <= Fraction(1, 2)
    assert vat_on(-base, rate) == -tax
