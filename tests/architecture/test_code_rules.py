# SPDX-License-Identifier: Apache-2.0
"""House rules about code, on the whole package, and that each rule bites."""

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.architecture import code_rules
from tests.architecture.code_rules import Offence
from tests.architecture.tree import ROOMS, Function, assert_none, functions, parsed, python_files

Rule = Callable[[ast.AST], Iterator[Offence]]

CLOCK = Path("nimbus/base/clock.py")
MIGRATIONS = Path("nimbus/migrations")
# A gateway that Nimbus is compared with: it runs by itself, without anything of Nimbus.
COMPARED = Path("nimbus/bench/configs/asgi_gateway.py")
TALKS_TO_A_PERSON = {"cli", "demo", "bench", "supervisor"}
MONEY_ROOMS = {"rules", "ledger", "billing", "payments"}
# Rates of calls and their windows are seconds, not money.
NOT_MONEY = {Path("nimbus/rules/limits.py")}


def broken(rule: Rule, files: Iterable[Path]) -> list[str]:
    return [f"{path}:{line}: {what}" for path in files for line, what in rule(parsed(path))]


def package() -> list[Path]:
    return python_files("nimbus")


def test_no_float_touches_money() -> None:
    money = [path for path in package() if path.parts[1] in MONEY_ROOMS and path not in NOT_MONEY]

    assert_none(broken(code_rules.floats, money))


def test_only_the_clock_asks_what_time_it_is() -> None:
    others = [path for path in package() if path not in {CLOCK, COMPARED}]

    assert_none(broken(code_rules.clock_reads, others))


def test_sql_is_never_put_together_from_text() -> None:
    files = [path for path in package() if not path.is_relative_to(MIGRATIONS)]

    assert_none(broken(code_rules.built_sql, files))


def test_secrets_are_compared_in_constant_time() -> None:
    assert_none(broken(code_rules.leaky_comparisons, package()))


def test_nothing_is_read_by_what_can_run_code() -> None:
    assert_none(broken(code_rules.unsafe_readers, python_files("nimbus", "tools", "examples")))


def test_only_what_talks_to_a_person_prints() -> None:
    quiet = [path for path in package() if path.with_suffix("").parts[1] not in TALKS_TO_A_PERSON]

    assert_none(broken(code_rules.prints, quiet))


@pytest.mark.parametrize(
    ("rule", "planted"),
    [
        (code_rules.floats, "price = 0.2"),
        (code_rules.floats, "price = float(text)"),
        (code_rules.clock_reads, "datetime.now(UTC)"),
        (code_rules.clock_reads, "datetime.datetime.utcnow()"),
        (code_rules.clock_reads, "date.today()"),
        (code_rules.clock_reads, "time.time()"),
        (code_rules.clock_reads, "from time import monotonic"),
        (code_rules.clock_reads, "select(func.now())"),
        (code_rules.built_sql, "session.execute(f'select {x}')"),
        (code_rules.built_sql, "MINE = given()\ntext(f'select {MINE}')"),
        (code_rules.built_sql, "session.execute(text('select ' + x))"),
        (code_rules.built_sql, "cursor.execute('select %s' % x)"),
        (code_rules.built_sql, "cursor.execute('select {}'.format(x))"),
        (code_rules.leaky_comparisons, "if row.key_hash == given: pass"),
        (code_rules.leaky_comparisons, "ok = signature != expected"),
        (code_rules.unsafe_readers, "import pickle"),
        (code_rules.unsafe_readers, "yaml.load(text)"),
        (code_rules.prints, "print('here')"),
    ],
)
def test_a_planted_offence_is_found(rule: Rule, planted: str) -> None:
    assert list(rule(ast.parse(planted)))


@pytest.mark.parametrize(
    ("rule", "fine"),
    [
        (code_rules.floats, "price = Decimal('0.2')"),
        (code_rules.floats, "func.percentile_disc(0.5).within_group(total_minor)"),
        (code_rules.clock_reads, "clock.now()"),
        (code_rules.built_sql, "session.execute(text('select :x'), {'x': x})"),
        (code_rules.built_sql, "MINE = 'a = :a'\ntext(f'select b where {MINE}')"),
        (code_rules.built_sql, "cursor.execute(SQL('drop role {}').format(Identifier(x)))"),
        (code_rules.leaky_comparisons, "select(Key).where(Key.key_hash == given)"),
        (code_rules.leaky_comparisons, "kind = 'x' if token == b'chunked' else ''"),
    ],
)
def test_what_is_meant_to_be_allowed_is(rule: Rule, fine: str) -> None:
    assert not list(rule(ast.parse(fine)))


def undocumented(tree: ast.Module) -> list[str]:
    return [
        node.name
        for node in tree.body
        if isinstance(node, Function)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


def test_every_public_function_of_the_law_says_what_goes_in_and_out() -> None:
    law = [path for path in package() if path.parts[1] == "rules"]

    assert_none([f"{path}: {name}" for path in law for name in undocumented(parsed(path))])


def behind_the_door(room: str) -> set[str]:
    """The names a room's package hands out."""
    door = parsed(Path(f"nimbus/{room}/__init__.py"))
    return {
        alias.asname or alias.name
        for node in door.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("room", ROOMS)
def test_every_function_at_a_room_s_door_says_what_goes_in_and_out(room: str) -> None:
    offered = behind_the_door(room)
    silent = [
        f"{path}: {function.name}"
        for path in package()
        if path.parts[1] == room
        for function in functions(parsed(path))
        if function.name in offered and not ast.get_docstring(function)
    ]

    assert_none(silent)
