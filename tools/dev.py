# SPDX-License-Identifier: Apache-2.0
"""`python tools/dev.py [ARGS]`: `nimbus serve --demo all`, started anew when a file changes.

A change in `web/` builds the portal first. Ctrl-C stops both.
"""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("nimbus/**/*.py", "examples/**/*.py", "nimbus/**/*.typ", "web/src/**/*", "web/*.json")
POLL_SECONDS = 0.5
COMMAND = [sys.executable, "-m", "nimbus", "serve", "--demo", "all"]


def main() -> None:
    """Serve until interrupted; a start that fails waits for the next change."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        while True:
            _serve_until_a_change()
            print("Something changed: starting anew", flush=True)


def _serve_until_a_change() -> None:
    before = _state()
    subprocess.run([sys.executable, str(ROOT / "tools" / "web.py"), "build"], check=False)
    with subprocess.Popen([*COMMAND, *sys.argv[1:]], cwd=ROOT) as system:
        try:
            while _state() == before:
                time.sleep(POLL_SECONDS)
        finally:
            system.terminate()


def _state() -> dict[Path, int]:
    """When each source was last changed, in nanoseconds."""
    files = (path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


if __name__ == "__main__":
    main()
