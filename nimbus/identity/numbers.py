# SPDX-License-Identifier: Apache-2.0
"""VAT and company numbers, checked by format and checksum (python-stdnum)."""

import re
from functools import lru_cache
from typing import Any

import stdnum.exceptions
from babel.core import get_global
from stdnum import get_cc_module
from stdnum.eu import vat as eu_vat

from nimbus.errors import field_error

# The register's number where it is not the VAT number's own form; others by the general form.
COMPANY_MODULES = {
    "AT": ("at", "businessid"),
    "DE": ("de", "handelsregisternummer"),
    "DK": ("dk", "cvr"),
    "EE": ("ee", "registrikood"),
    "FI": ("fi", "ytunnus"),
    "FR": ("fr", "siren"),
    "NO": ("no", "orgnr"),
    "SE": ("se", "orgnr"),
}
KVK = re.compile(r"[0-9]{8}")
GENERAL_COMPANY_NUMBER = re.compile(r"[0-9A-Za-z][0-9A-Za-z .\-/]{1,31}")
VAT_PREFIXES = {"GR": "EL"}


def check_vat_number(country: str, number: str, field: str = "vat_number") -> str:
    """The number in its compact form, with its country prefix.

    Example: ("NL", "nl 123456782.B90") → "NL123456782B90". Raises a 422 naming `field` when the
    prefix is another country's, or format or checksum is wrong.
    """
    prefix = VAT_PREFIXES.get(country, country)
    compact = re.sub(r"[\s.\-]", "", number).upper()
    if not compact.startswith(prefix):
        raise field_error(field, "wrong_country", f"A VAT number of {country} begins with {prefix}")
    module: Any = eu_vat if country.lower() in _eu_members() else _vat_module(country)
    if module is None:
        if not re.fullmatch(r"[0-9A-Z]{4,20}", compact):
            raise field_error(field, "invalid", "This is not a VAT number")
        return compact
    try:
        checked = str(module.validate(compact))
    except stdnum.exceptions.ValidationError:
        raise field_error(field, "invalid", "This VAT number does not exist") from None
    return checked if checked.startswith(prefix) else prefix + checked


def check_company_number(country: str, number: str, field: str = "company_number") -> str:
    """The chamber-of-commerce number in its compact form.

    Example: ("NL", "1234 5678") → "12345678". Raises a 422 naming `field` when it is malformed.
    """
    text = number.strip()
    if country == "NL":
        text = text.replace(" ", "")
        if not KVK.fullmatch(text):
            raise field_error(field, "invalid", "A Dutch company number has 8 digits")
        return text
    if country in COMPANY_MODULES:
        module: Any = get_cc_module(*COMPANY_MODULES[country])
        try:
            return str(module.validate(text))
        except stdnum.exceptions.ValidationError:
            raise field_error(field, "invalid", "This company number does not exist") from None
    if not GENERAL_COMPANY_NUMBER.fullmatch(text):
        raise field_error(field, "invalid", "2 to 32 letters and digits")
    return text


def only_time_zone(country: str) -> str:
    """The time zone of a country that has one, else UTC."""
    zones = [
        zone for zone, territory in get_global("zone_territories").items() if territory == country
    ]
    return zones[0] if len(zones) == 1 else "UTC"


@lru_cache(maxsize=1)
def _eu_members() -> frozenset[str]:
    return frozenset(code.replace("el", "gr") for code in eu_vat.MEMBER_STATES)


def _vat_module(country: str) -> Any:
    return get_cc_module(country.lower(), "vat")
