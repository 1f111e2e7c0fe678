# SPDX-License-Identifier: Apache-2.0
"""Puts a Chromium for the browser tests in `build/chromium/`, unless the machine has one.

The order is that of the tests: `$CHROMIUM`, `/usr/bin/chromium`, then the npm package
`@sparticuz/chromium`. The package was made for Lambda: its own launcher switches web security off
and unpacks to /tmp, so we unpack the binary, its libraries and its fonts ourselves and start it
with arguments of our own (tests/support/browser.py).
"""

import os
import shutil
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools.hatch_web import exclusive, install, read_stamp, run_node  # noqa: E402 - as in web.py

SOURCE = ROOT / "tests" / "support" / "chromium"
TARGET = ROOT / "build" / "chromium"
ARCHIVES = ("al2023", "fonts")


def main() -> None:
    """Say where the browser is; fetch it first if there is none."""
    for known in (os.environ.get("CHROMIUM", ""), "/usr/bin/chromium"):
        if known and os.access(known, os.X_OK):
            print(f"Chromium: {known}")
            return
    with exclusive(TARGET):
        unpack()
    print(f"Chromium: {(TARGET / 'chromium').relative_to(ROOT)}")


def unpack() -> None:
    """Install the package and unpack it, once per lock file."""
    wanted = (SOURCE / "package-lock.json").read_text()
    stamp = TARGET / "stamp"
    if (TARGET / "chromium").is_file() and read_stamp(stamp) == wanted:
        return
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(SOURCE / name, TARGET / name)
    install(ROOT, TARGET)
    packed = TARGET / "node_modules" / "@sparticuz" / "chromium" / "bin"
    script = str(SOURCE / "unpack.mjs")
    for name in ARCHIVES:
        archive = TARGET / f"{name}.tar"
        run_node(ROOT, [script, str(packed / f"{name}.tar.br"), str(archive)], cwd=TARGET)
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 knows no filters; the archive's hash is in the lock file.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(TARGET / name)  # noqa: S202 - as above
        archive.unlink()
    run_node(ROOT, [script, str(packed / "chromium.br"), str(TARGET / "chromium")], cwd=TARGET)
    (TARGET / "chromium").chmod(0o755)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
