# SPDX-License-Identifier: Apache-2.0
"""The outcome of a proof: of the books, the trail, the counters."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """How many rows were looked at, and each thing that is wrong."""

    checked: int
    differences: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.differences
