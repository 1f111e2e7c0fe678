# SPDX-License-Identifier: Apache-2.0
"""Standard VAT rates of the EU states, in percent, each from its first day.

Facts from public law and the Commission's published tables; a state's list starts with the rate
in force on 1 January 2015, when electronic services to consumers began to be taxed where the
consumer lives. A new rate is a new line; lines are never changed.
"""

from datetime import date
from decimal import Decimal

FIRST_DAY = date(2015, 1, 1)

_RATES = """
AT 2015-01-01 20
BE 2015-01-01 21
BG 2015-01-01 20
CY 2015-01-01 19
CZ 2015-01-01 21
DE 2015-01-01 19
DE 2020-07-01 16
DE 2021-01-01 19
DK 2015-01-01 25
EE 2015-01-01 20
EE 2024-01-01 22
EE 2025-07-01 24
ES 2015-01-01 21
FI 2015-01-01 24
FI 2024-09-01 25.5
FR 2015-01-01 20
GR 2015-01-01 23
GR 2016-06-01 24
HR 2015-01-01 25
HU 2015-01-01 27
IE 2015-01-01 23
IE 2020-09-01 21
IE 2021-03-01 23
IT 2015-01-01 22
LT 2015-01-01 21
LU 2015-01-01 17
LU 2023-01-01 16
LU 2024-01-01 17
LV 2015-01-01 21
MT 2015-01-01 18
NL 2015-01-01 21
PL 2015-01-01 23
PT 2015-01-01 23
RO 2015-01-01 24
RO 2016-01-01 20
RO 2017-01-01 19
RO 2025-08-01 21
SE 2015-01-01 25
SI 2015-01-01 22
SK 2015-01-01 20
SK 2025-01-01 23
"""


def _table() -> dict[str, tuple[tuple[date, Decimal], ...]]:
    table: dict[str, tuple[tuple[date, Decimal], ...]] = {}
    for line in _RATES.split("\n"):
        if line:
            country, first_day, rate = line.split()
            row = (date.fromisoformat(first_day), Decimal(rate))
            table[country] = (*table.get(country, ()), row)
    return table


STANDARD_RATES = _table()
"""Country code (ISO 3166; Greece is GR) → (first day, percent), oldest first."""
