# SPDX-License-Identifier: Apache-2.0
"""The portal's everyday commands, with the Node from PyPI: `python tools/web.py COMMAND`.

build   bring nimbus/portal/static/ up to date with web/
check   types, lint and format; the API's types match `nimbus openapi`
fix     format and repair what can be repaired without a decision
api     make web/src/api/schema.d.ts anew from `nimbus openapi`
dev     Vite's server with reload, in front of a Nimbus on port 8000
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools.hatch_web import (  # noqa: E402 - started as a file, it must first find its folder
    build_portal,
    exclusive,
    install,
    run_npm,
)

WEB = ROOT / "web"
SCHEMA = WEB / "src" / "api" / "schema.d.ts"


def main(command: str) -> int:
    """Run one command; its exit status."""
    with exclusive(ROOT / "build" / "web"):
        install(ROOT, WEB)
    try:
        if command == "build":
            print("built" if build_portal(ROOT) else "up to date")
        elif command == "api":
            make_api()
        elif command == "check":
            run_npm(ROOT, ["run", "--silent", "check"], cwd=WEB)
            return check_api()
        elif command in {"fix", "dev"}:
            run_npm(ROOT, ["run", "--silent", command], cwd=WEB)
        else:
            print(__doc__)
            return 2
    except subprocess.CalledProcessError as failure:
        return failure.returncode
    return 0


def make_api() -> None:
    """Write the types of the API's document as it is now."""
    document = ROOT / "build" / "openapi.json"
    document.parent.mkdir(exist_ok=True)
    nimbus = [sys.executable, "-m", "nimbus", "openapi"]
    document.write_bytes(subprocess.run(nimbus, cwd=ROOT, check=True, stdout=-1).stdout)
    run_npm(ROOT, ["run", "--silent", "api"], cwd=WEB)


def check_api() -> int:
    """1 if the committed types are not those of `nimbus openapi`."""
    before = SCHEMA.read_bytes()
    make_api()
    if SCHEMA.read_bytes() == before:
        return 0
    SCHEMA.write_bytes(before)
    print("web/src/api/schema.d.ts is out of date: run `.venv/bin/python tools/web.py api`")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else ""))
