# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire. Strict: an unknown field, a number sent as text or NaN is refused."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)


class FarmInput(_Strict):
    """A site with turbines; coordinates in degrees (WGS 84)."""

    name: Name
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2")]
    latitude: Annotated[float, Field(ge=-90, le=90, strict=True)]
    longitude: Annotated[float, Field(ge=-180, le=180, strict=True)]


class Farm(FarmInput):
    id: UUID


class TurbineInput(_Strict):
    farm_id: UUID
    name: Name
    model: Name | None = None
    rated_power_kw: Annotated[float, Field(gt=0, le=30_000, strict=True)]


class Turbine(TurbineInput):
    id: UUID


class Measurement(_Strict):
    """What a turbine gave at one instant: power in kilowatts, wind in metres a second."""

    at: AwareDatetime
    power_kw: Annotated[float, Field(ge=-1_000, le=40_000, strict=True)]
    wind_speed_ms: Annotated[float, Field(ge=0, le=120, strict=True)]


class MeasurementBatch(_Strict):
    measurements: Annotated[list[Measurement], Field(min_length=1, max_length=500)]


class Alert(_Strict):
    """Raised by a measurement that is out of bounds; open until someone acknowledges it."""

    id: UUID
    turbine_id: UUID
    kind: Literal["storm", "over_power"]
    at: AwareDatetime
    message: str
    acknowledged: bool


class ReportInput(_Strict):
    """A farm's production over the days `first_day` to `last_day`, both included (UTC).

    Without days: over everything that is kept.
    """

    farm_id: UUID
    title: Name = "Production report"
    first_day: date | None = None
    last_day: date | None = None

    @model_validator(mode="after")
    def _days_in_order(self) -> "ReportInput":
        if (self.first_day is None) != (self.last_day is None):
            raise ValueError("give both days, or neither")
        if self.first_day and self.last_day and self.last_day < self.first_day:
            raise ValueError("last_day is on or after first_day")
        return self


class Report(ReportInput):
    id: UUID


class Farms(_Strict):
    data: list[Farm]


class Turbines(_Strict):
    data: list[Turbine]


class Measurements(_Strict):
    data: list[Measurement]


class Alerts(_Strict):
    data: list[Alert]


class Reports(_Strict):
    data: list[Report]


class Stored(_Strict):
    stored: int
    alerts: list[Alert]


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
