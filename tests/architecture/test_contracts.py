# SPDX-License-Identifier: Apache-2.0
"""The four import contracts of pyproject.toml and the door, and that each of them bites.

A planted fault is one change to a copy of the package; the intended contract must break. The
faults also show what the graph sees: imports inside functions, imports for typing, and what is
reached through another module.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import grimp
import pytest
from importlinter.application import use_cases
from importlinter.configuration import configure

from tests.architecture.tree import COMPOSERS, PACKAGE, ROOMS, ROOT

CONFIGURATION = str(ROOT / "pyproject.toml")

configure()


def kept(contract: str) -> bool:
    """Check one contract of pyproject.toml on the `nimbus` that the import path finds first."""
    return use_cases.lint_imports(
        CONFIGURATION,
        limit_to_contracts=(contract,),
        cache_dir=None,
        is_debug_mode=True,
        no_logo=True,
    )


def trespasses() -> list[tuple[str, str]]:
    """Imports of a room's inside from another room; only its package and its events are open."""
    graph = grimp.build_graph("nimbus", cache_dir=None)
    found = []
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            guest, host = room_of(importer), room_of(imported)
            stranger = host in ROOMS and guest != host and guest not in COMPOSERS
            if stranger and imported not in {f"nimbus.{host}", f"nimbus.{host}.events"}:
                found.append((importer, imported))
    return sorted(found)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@dataclass(frozen=True, slots=True)
class Fault:
    """`line` goes to the end of `file`, or into the package of that name; `contract` breaks."""

    contract: str
    why: str
    file: str
    line: str


FAULTS = (
    Fault("floors", "a call upward", "catalog/service.py", "import nimbus.notices"),
    Fault("floors", "a sibling", "catalog/service.py", "import nimbus.ledger"),
    Fault("floors", "a room without a floor", "shop/__init__.py", ""),
    Fault(
        "floors",
        "an upward import hidden inside a function",
        "ledger/service.py",
        "def hidden():\n    import nimbus.notices",
    ),
    Fault(
        "floors",
        "an upward import for typing only",
        "identity/service.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nimbus.notices",
    ),
    Fault("floors", "the house knows the gate", "catalog/service.py", "import nimbus.gateway"),
    Fault("law", "asyncio in the law", "rules/money.py", "import asyncio"),
    Fault("law", "a database in the law", "rules/pricing.py", "import sqlalchemy"),
    Fault("law", "the ground under the errors", "errors.py", "from nimbus.base import clock"),
    Fault("gate", "the database layer", "gateway/head.py", "from nimbus.base import db"),
    Fault("gate", "a library through the ground", "base/clock.py", "import sqlalchemy"),
    Fault("gate", "a library through the law", "rules/grants.py", "import pydantic"),
    Fault("gate", "a room", "gateway/head.py", "import nimbus.catalog"),
    Fault("inside", "HTTP below it", "catalog/service.py", "import nimbus.catalog.endpoints"),
    Fault("inside", "a use case below it", "catalog/queries.py", "import nimbus.catalog.service"),
)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that stands first on the import path."""
    shutil.copytree(
        PACKAGE, tmp_path / "nimbus", ignore=shutil.ignore_patterns("__pycache__", "static")
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nimbus", raising=False)
    return tmp_path / "nimbus"


def plant(copy: Path, file: str, line: str) -> None:
    target = copy / file
    if target.with_suffix("").is_dir():
        target = target.with_suffix("") / "planted.py"
    target.parent.mkdir(exist_ok=True)
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    target.write_text(f"{before}\n{line}\n", encoding="utf-8")


@pytest.mark.parametrize("contract", ["floors", "law", "gate", "inside"])
def test_the_contract_is_kept(contract: str) -> None:
    assert kept(contract)


def test_rooms_enter_each_other_by_the_door() -> None:
    assert trespasses() == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.contract}: {fault.why}")
def test_a_planted_import_breaks_its_contract(fault: Fault, copy: Path) -> None:
    plant(copy, fault.file, fault.line)

    assert not kept(fault.contract)


def test_a_planted_import_of_foreign_tables_is_a_trespass(copy: Path) -> None:
    plant(copy, "notices/queries.py", "from nimbus.catalog import models")

    assert ("nimbus.notices.queries", "nimbus.catalog.models") in trespasses()


def test_every_room_of_the_house_is_in_the_lists() -> None:
    options = use_cases.read_user_options(CONFIGURATION).contracts_options
    contracts = {option["id"]: option for option in options}
    rooms = {f"nimbus.{room}" for room in ROOMS}

    assert set(contracts["inside"]["containers"]) == rooms
    assert rooms <= set(contracts["gate"]["forbidden_modules"])
