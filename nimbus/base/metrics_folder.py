# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a machine keep what they count; known before anything is counted.

prometheus_client reads the environment when it is imported, and the supervisor imports neither.
"""

import os
import shutil

from nimbus.base.config import Settings

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def use(settings: Settings) -> None:
    """Let this process, and those that it starts, keep their counts with the others'."""
    settings.metrics_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[FOLDER] = str(settings.metrics_dir)


def begin_anew(settings: Settings) -> None:
    """Forget the counts of processes that are gone: counters begin at zero with the system."""
    shutil.rmtree(settings.metrics_dir, ignore_errors=True)
    use(settings)
