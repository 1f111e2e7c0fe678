# SPDX-License-Identifier: Apache-2.0
"""A drain that ends as hard as `kill -9` at a named point: `python -m tests.support.killed POINT`.

The product knows nothing of these points: the functions that they name are wrapped here.
"""

import inspect
import os
import shutil
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from nimbus import drain, usage
from nimbus.base import config
from nimbus.usage.service import batches, gauges, spending

# Point → where the function is, its name, and whether its work is done when the process ends.
POINTS: dict[str, tuple[ModuleType, str, bool]] = {
    "block read": (drain, "read_block", True),
    "corrupt slots in quarantine": (drain, "_quarantine", True),
    "producer locked": (batches, "_lock", True),
    "months opened": (spending, "standings_of", True),
    "gauges kept": (gauges, "keep", True),
    "rated": (batches, "rate", True),
    "before the rows": (batches, "write", False),
    "rows written": (batches, "write", True),
    "cells appended": (batches, "append_cells", True),
    "quota counted": (batches, "_count", True),
    "spend counted": (spending, "count", True),
    "before the commit": (usage, "store_batch", True),
    "after the commit": (drain, "_store", True),
    "before segments are deleted": (drain, "_delete_stored", False),
    "segments deleted": (drain, "_delete_stored", True),
    "before leases return": (usage, "end_producer", False),
    "leases returned, not committed": (usage, "end_producer", True),
    "before the journal goes": (shutil, "rmtree", False),
    "the journal gone": (shutil, "rmtree", True),
}


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wrapped(function: Callable[..., Any], *, done: bool) -> Callable[..., Any]:
    async def awaited(*args: Any, **options: Any) -> Any:
        if done:
            await function(*args, **options)
        _end()

    def called(*args: Any, **options: Any) -> Any:
        if done:
            function(*args, **options)
        _end()

    return awaited if inspect.iscoroutinefunction(function) else called


def main(point: str) -> None:
    """Drain until the point is reached."""
    module, name, done = POINTS[point]
    setattr(module, name, _wrapped(getattr(module, name), done=done))
    drain.run(config.load(dict(os.environ)))


if __name__ == "__main__":
    main(sys.argv[1])
