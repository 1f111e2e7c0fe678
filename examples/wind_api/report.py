# SPDX-License-Identifier: Apache-2.0
"""The PDF report of a farm, typeset by typst; data goes in as JSON, never into the template."""

import json
from collections.abc import Sequence
from datetime import UTC, date
from pathlib import Path
from statistics import fmean

import typst

from examples.wind_api.schemas import Farm, Measurement, ReportInput, Turbine

TEMPLATE = Path(__file__).with_name("report.typ").read_bytes()


def render(
    asked: ReportInput,
    farm: Farm,
    turbines: Sequence[Turbine],
    measured: Sequence[Sequence[Measurement]],
) -> bytes:
    """The PDF of `asked`; `measured[i]` are the measurements of `turbines[i]`."""
    first, last = asked.first_day or date.min, asked.last_day or date.max
    inside = [
        [m for m in rows if first <= m.at.astimezone(UTC).date() <= last] for rows in measured
    ]
    days = "all measurements" if asked.first_day is None else f"{first} to {last} (UTC)"
    everything = [m for rows in inside for m in rows]
    data = {
        "farm": farm.name,
        "subtitle": f"{asked.title}, {days}",
        "figures": [
            {"label": "Turbines", "value": str(len(turbines))},
            {"label": "Measurements", "value": str(len(everything))},
            {"label": "Mean power", "value": _mean([m.power_kw for m in everything], " kW")},
            {"label": "Mean wind", "value": _mean([m.wind_speed_ms for m in everything], " m/s")},
        ],
        "turbines": [
            {
                "name": turbine.name,
                "count": str(len(rows)),
                "mean_kw": _mean([m.power_kw for m in rows]),
                "peak_kw": f"{max(m.power_kw for m in rows):.1f}" if rows else "–",
                "mean_wind": _mean([m.wind_speed_ms for m in rows]),
            }
            for turbine, rows in zip(turbines, inside, strict=True)
        ],
    }
    pdf: bytes = typst.compile(
        TEMPLATE, sys_inputs={"data": json.dumps(data)}, ignore_system_fonts=True
    )
    return pdf


def _mean(values: Sequence[float], unit: str = "") -> str:
    return f"{fmean(values):.1f}{unit}" if values else "–"
