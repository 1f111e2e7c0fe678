# SPDX-License-Identifier: Apache-2.0
"""Money: nothing is lost in splitting, rounding has no preferred sign, currencies never mix."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.errors import Refusal
from nimbus.rules import money
from nimbus.rules.money import Money, format_money, minor_digits, parse, round_half_up, round_minor

AMOUNTS = st.integers(-(10**21), 10**21)
CURRENCIES = st.sampled_from(["EUR", "USD", "JPY", "KWD", "CLF"])
WEIGHTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=12).filter(any)


@pytest.mark.parametrize(
    ("amount", "rounded"),
    [("24.465", 2_447), ("-24.465", -2_447), ("0.005", 1), ("0.00499", 0), ("2.5", 250)],
)
def test_a_half_goes_away_from_zero(amount, rounded):
    assert round_minor(Decimal(amount), "EUR") == Money(rounded, "EUR")


@pytest.mark.parametrize(("currency", "digits"), [("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)])
def test_the_minor_unit_is_that_of_the_currency(currency, digits):
    assert minor_digits(currency) == digits
    assert round_minor(Decimal(1), currency).amount_minor == 10**digits


def test_what_is_no_currency_is_refused():
    with pytest.raises(Refusal) as refused:
        Money(1, "EURO")
    assert refused.value.fields[0].code == "unknown_currency"


@given(st.fractions())
def test_rounding_the_negated_amount_negates_the_result(amount: Fraction):
    assert round_half_up(-amount) == -round_half_up(amount)
    assert abs(round_half_up(amount) - amount) <= Fraction(1, 2)


@given(st.integers(0, 10**27), st.integers(0, 10**18))
def test_quantity_times_price_stays_exact_at_any_size(quantity, price):
    # 10^15 units with 12 places at a price of 10^6 with 12 places
    exact = money.EXACT.multiply(Decimal(quantity).scaleb(-12), Decimal(price).scaleb(-12))
    assert Fraction(exact) == Fraction(quantity * price, 10**24)


@given(AMOUNTS, CURRENCIES)
def test_printed_money_reads_back_as_the_same_money(amount, currency):
    assert parse(format_money(Money(amount, currency)), currency) == Money(amount, currency)


@pytest.mark.parametrize("text", ["", "1,5", "1e3", " 1", "1.", ".5", "NaN", "+1", "١", "1\n"])
def test_what_is_no_decimal_is_refused_by_field(text):
    with pytest.raises(Refusal) as refused:
        parse(text, "EUR", "base_fee")
    assert refused.value.fields[0].field == "base_fee"
    assert refused.value.fields[0].code == "invalid_decimal"


def test_more_places_than_the_currency_has_are_refused_not_rounded():
    for text, currency in (("1.005", "EUR"), ("1.5", "JPY")):
        with pytest.raises(Refusal) as refused:
            parse(text, currency)
        assert refused.value.fields[0].code == "too_many_places"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("-0.01", "negative"),
        ("0.0000000000001", "too_many_places"),
        ("1000000000000000000", "too_large"),
        ("cheap", "invalid_decimal"),
    ],
)
def test_an_impossible_unit_price_is_refused(text, code):
    with pytest.raises(Refusal) as refused:
        money.unit_price(text)
    assert refused.value.fields[0].code == code


def test_a_unit_price_may_be_a_fraction_of_a_cent():
    assert money.unit_price("0.002") == Decimal("0.002")
    assert money.unit_price("0.000000000001") == Decimal("1E-12")
    assert money.unit_price("0.0020000000000000") == Decimal("0.002")


@given(AMOUNTS, WEIGHTS)
def test_the_parts_of_a_split_add_up_and_none_is_a_minor_unit_off(amount, weights):
    parts = money.split(Money(amount, "EUR"), weights)

    assert sum(part.amount_minor for part in parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part.amount_minor - Fraction(amount * weight, sum(weights))) < 1


@given(AMOUNTS, WEIGHTS, st.randoms(use_true_random=False))
def test_a_split_depends_neither_on_the_order_nor_on_the_sign(amount, weights, random):
    shuffled = random.sample(weights, len(weights))

    def parts(amount, weights):
        split = money.split(Money(amount, "EUR"), weights)
        pairs = zip(weights, (part.amount_minor for part in split), strict=True)
        return sorted(pairs)

    assert parts(amount, shuffled) == parts(amount, weights)
    assert sorted((w, -p) for w, p in parts(-amount, weights)) == parts(amount, weights)


def test_left_over_cents_go_to_the_largest_remainders():
    third = money.split(Money(100, "EUR"), (1, 1, 1))
    assert [part.amount_minor for part in third] == [34, 33, 33]
    uneven = money.split(Money(15, "EUR"), (80, 8, 12))
    assert [part.amount_minor for part in uneven] == [12, 1, 2]


@pytest.mark.parametrize("weights", [(), (0, 0), (1, -1)])
def test_weights_that_divide_nothing_are_a_fault(weights):
    with pytest.raises(ValueError, match="weights"):
        money.split(Money(100, "EUR"), weights)


def test_currencies_never_mix():
    euro, dollar = Money(1, "EUR"), Money(1, "USD")
    for mix in (
        lambda: euro + dollar,
        lambda: euro - dollar,
        lambda: euro < dollar,
        lambda: euro <= dollar,
    ):
        with pytest.raises(ValueError, match="do not mix"):
            mix()
    assert euro != dollar
    assert euro + euro - euro == euro
    assert -euro == Money(-1, "EUR")


def test_an_amount_is_never_a_float_nor_a_decimal():
    for amount in (1.0, Decimal(1), True):
        with pytest.raises(TypeError):
            Money(amount, "EUR")
