# SPDX-License-Identifier: Apache-2.0
"""Real processes for tests: started, watched through /proc, waited for with a deadline."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
# Root becomes `nobody`; reading is allowed, so that the interpreter may lie in root's home.
AS_NOBODY = (
    "setpriv",
    "--reuid=nobody",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
ORDINARY_USER = AS_NOBODY if IS_ROOT else ()


def wait_for(condition: Callable[[], T], what: str, seconds: float = 60) -> T:
    """The first true answer of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.01)
    return answer
