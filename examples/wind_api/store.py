# SPDX-License-Identifier: Apache-2.0
"""What each organization keeps. In memory: an example forgets when it stops, a product must not.

Every look-up goes through `Account`, which holds one organization's rows only, so another
organization's id is simply not there. Every collection is bounded.
"""

from bisect import insort
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from examples.wind_api.schemas import (
    Alert,
    Farm,
    FarmInput,
    Measurement,
    Report,
    ReportInput,
    Turbine,
    TurbineInput,
)

FARMS_MAX = 200
TURBINES_MAX = 2_000
MEASUREMENTS_MAX = 2_000  # of one turbine; the oldest go first
ALERTS_MAX = 1_000  # the oldest go first
REPORTS_MAX = 500  # the oldest go first

STORM_MS = 25.0  # a turbine cuts out above this wind speed
OVER_POWER = 1.05  # of the rated power


class Full(Exception):  # noqa: N818 - it states a fact
    """The organization keeps as many of these as the example allows."""


@dataclass(slots=True)
class Account:
    """One organization's farms, turbines, measurements, alerts and reports."""

    farms: dict[UUID, Farm] = field(default_factory=dict)
    turbines: dict[UUID, Turbine] = field(default_factory=dict)
    measurements: dict[UUID, list[Measurement]] = field(default_factory=dict)
    alerts: dict[UUID, Alert] = field(default_factory=dict)
    reports: dict[UUID, tuple[Report, bytes]] = field(default_factory=dict)

    def add_farm(self, given: FarmInput) -> Farm:
        if len(self.farms) >= FARMS_MAX:
            raise Full(f"At most {FARMS_MAX} farms.")
        farm = Farm(id=uuid4(), **given.model_dump())
        self.farms[farm.id] = farm
        return farm

    def add_turbine(self, given: TurbineInput) -> Turbine:
        """Raises KeyError when the farm is not this organization's."""
        if given.farm_id not in self.farms:
            raise KeyError(given.farm_id)
        if len(self.turbines) >= TURBINES_MAX:
            raise Full(f"At most {TURBINES_MAX} turbines.")
        turbine = Turbine(id=uuid4(), **given.model_dump())
        self.turbines[turbine.id] = turbine
        self.measurements[turbine.id] = []
        return turbine

    def remove_turbine(self, turbine_id: UUID) -> None:
        """Take the turbine, its measurements and its alerts away; KeyError when not there."""
        del self.turbines[turbine_id]
        del self.measurements[turbine_id]
        self.alerts = {i: a for i, a in self.alerts.items() if a.turbine_id != turbine_id}

    def measure(self, turbine_id: UUID, batch: list[Measurement]) -> list[Alert]:
        """Keep the measurements in order of time; return the alerts they raised."""
        turbine, kept = self.turbines[turbine_id], self.measurements[turbine_id]
        for measurement in batch:
            insort(kept, measurement, key=lambda m: m.at)
        del kept[:-MEASUREMENTS_MAX]
        raised = [alert for m in batch if (alert := _alert(turbine, m))]
        self.alerts.update((alert.id, alert) for alert in raised)
        _drop_oldest(self.alerts, ALERTS_MAX)
        return raised

    def add_report(self, given: ReportInput, pdf: bytes) -> Report:
        report = Report(id=uuid4(), **given.model_dump())
        self.reports[report.id] = (report, pdf)
        _drop_oldest(self.reports, REPORTS_MAX)
        return report


def _alert(turbine: Turbine, measured: Measurement) -> Alert | None:
    if measured.wind_speed_ms > STORM_MS:
        text = f"Wind of {measured.wind_speed_ms:g} m/s at {turbine.name}: above {STORM_MS:g} m/s."
        return Alert(
            id=uuid4(),
            turbine_id=turbine.id,
            kind="storm",
            at=measured.at,
            message=text,
            acknowledged=False,
        )
    if measured.power_kw > turbine.rated_power_kw * OVER_POWER:
        text = f"{turbine.name} gave {measured.power_kw:g} of {turbine.rated_power_kw:g} kW."
        return Alert(
            id=uuid4(),
            turbine_id=turbine.id,
            kind="over_power",
            at=measured.at,
            message=text,
            acknowledged=False,
        )
    return None


def _drop_oldest(rows: dict[UUID, Any], at_most: int) -> None:
    while len(rows) > at_most:
        del rows[next(iter(rows))]
