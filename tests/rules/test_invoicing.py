# SPDX-License-Identifier: Apache-2.0
"""The invoice: the reference to the cent, invoicing by difference, totals, safety bounds."""

from datetime import UTC, date, datetime
from decimal import Decimal

from nimbus.rules.invoicing import Contract, MeterUsage, PlanTerms, propose, totals
from nimbus.rules.periods import Anchor
from nimbus.rules.pricing import Charge
from nimbus.rules.tax import Party, decide

STARTER = PlanTerms(
    currency="EUR",
    base_fee_minor=4_900,
    timing="arrears",
    proration="second",
    charges=(
        Charge("api_calls", "unit", unit_price=Decimal("0.002"), included=Decimal(10_000)),
        Charge("assets", "unit", unit_price=Decimal("1.50"), included=Decimal(10)),
        Charge("reports", "unit", unit_price=Decimal("2.50")),
    ),
)
MAY = Anchor(datetime(2026, 5, 1, tzinfo=UTC), "UTC", "month", 1, calendar=False)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
CONTRACT = Contract(STARTER, MAY, 0, None)
MAY_USAGE = {
    ("api_calls", 0): MeterUsage(Decimal(22_500)),
    ("assets", 0): MeterUsage(Decimal(25)),
    ("reports", 0): MeterUsage(Decimal(8)),
}


def test_the_reference_invoice_comes_out_to_the_cent():
    lines = propose(CONTRACT, MAY_USAGE, JUNE)
    treatment = decide(Party("NL", True), Party("NL", True), date(2026, 6, 1))
    result = totals(lines, treatment)

    assert [line.amount_minor for line in lines] == [4_900, 2_500, 2_250, 2_000]
    assert [line.quantity for line in lines] == [1, 12_500, 15, 8]
    assert [line.kind for line in lines] == ["Subscription", "ApiUsage", "Asset", "Report"]
    assert (result.subtotal_minor, result.tax_minor, result.total_minor) == (11_650, 2_447, 14_097)
