# SPDX-License-Identifier: Apache-2.0
"""`python -m nimbus.bench.profiled FILE`: a gateway under Python's profiler from SIGUSR1 on.

The clock is the thread's processor time, so that waiting is nobody's.
"""

import cProfile
import signal
import sys
import time
from pathlib import Path

from nimbus import gateway
from nimbus.base import config, log


def main() -> None:
    """Run the gateway of the environment's settings; when it stops, the profile is in FILE and
    the processor time that it is about, in seconds, in FILE.seconds.
    """
    profiler = cProfile.Profile(time.thread_time)
    began = 0.0

    def begin(*_: object) -> None:
        nonlocal began
        began = time.thread_time()
        profiler.enable()

    signal.signal(signal.SIGUSR1, begin)
    settings = config.load()
    log.configure(settings.log_level, "gateway")
    gateway.run(settings)
    profiler.disable()
    file = Path(sys.argv[1])
    profiler.dump_stats(file)
    file.with_suffix(".seconds").write_text(str(time.thread_time() - began), encoding="ascii")


if __name__ == "__main__":
    main()
