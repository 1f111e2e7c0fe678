# SPDX-License-Identifier: Apache-2.0
"""Rules about code that no linter of ours knows: each takes a syntax tree, gives its offences.

An offence is a line number and what is wrong there.
"""

import ast
import re
from collections.abc import Iterator

from tests.architecture.tree import dotted

Offence = tuple[int, str]

CLOCK_CALLS = {
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "func.now",
    "func.current_timestamp",
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
}
CLOCK_NAMES = {name.partition(".")[2] for name in CLOCK_CALLS if name.startswith("time.")}
SQL_CALLS = {"execute", "executemany", "exec_driver_sql", "text", "scalar", "scalars", "stream"}
SECRET_NAME = re.compile(r"(?:^|_)(?:signature|token|digest|hash|hmac|mac|secret|password)$")
SYSTEM_CALLS = {"system_session", "open_system"}
UNSAFE_READERS = {"pickle", "marshal", "shelve", "dill", "jsonpickle"}


def floats(tree: ast.AST) -> Iterator[Offence]:
    """Money is integers and decimals: no float literal, no `float(…)`.

    The share that `percentile_disc` takes says which of the amounts, not how much.
    """
    shares = {
        argument
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) == "func.percentile_disc"
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and node not in shares:
            yield node.lineno, f"float literal {node.value}"
        if isinstance(node, ast.Call) and dotted(node.func) == "float":
            yield node.lineno, "float(…)"


def clock_reads(tree: ast.AST) -> Iterator[Offence]:
    """Time is an argument or comes from `base.clock`, never from the system or the database."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if any(name == call or name.endswith(f".{call}") for call in CLOCK_CALLS):
                yield node.lineno, f"{name}()"
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            for alias in node.names:
                if alias.name in CLOCK_NAMES:
                    yield node.lineno, f"from time import {alias.name}"


def built_sql(tree: ast.AST) -> Iterator[Offence]:
    """SQL takes parameters: none is put together from text where it is executed.

    Pieces of text that the module itself names as constants are as fixed as the rest.
    """
    fixed = _text_constants(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if dotted(node.func).rpartition(".")[2] in SQL_CALLS and _is_built(node.args[0], fixed):
            yield node.lineno, f"{dotted(node.func)}() of text put together"


def _text_constants(tree: ast.AST) -> set[str]:
    return {
        target.id
        for node in getattr(tree, "body", [])
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _is_built(node: ast.expr, fixed: set[str]) -> bool:
    if isinstance(node, ast.JoinedStr):
        parts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return any(not isinstance(part, ast.Name) or part.id not in fixed for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return _has_text(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in {"format", "join", "replace"} and _has_text(node.func.value)
    return False


def _has_text(node: ast.expr) -> bool:
    """Whether text takes part; psycopg's `SQL("…").format(Identifier(x))` quotes and is no text."""
    if isinstance(node, ast.BinOp):
        return _has_text(node.left) or _has_text(node.right)
    if isinstance(node, ast.JoinedStr):
        return True
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def leaky_comparisons(tree: ast.AST) -> Iterator[Offence]:
    """Secrets are compared in constant time (`hmac.compare_digest`), never by `==`.

    A comparison with a constant gives nothing away, and `Model.key_hash == x` is a look-up that
    the database does.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) or _is_column(side) for side in sides):
            continue
        equality = any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        named = [name for side in sides if SECRET_NAME.search(name := _last(side))]
        if equality and named:
            yield node.lineno, f"{named[0]} compared by =="


def _last(node: ast.expr) -> str:
    return dotted(node).rpartition(".")[2].lower()


def _is_column(node: ast.expr) -> bool:
    owner = dotted(node).rpartition(".")[0].rpartition(".")[2]
    return owner == "c" or owner[:1].isupper()


def unsafe_readers(tree: ast.AST) -> Iterator[Offence]:
    """Nothing is read by what can run code: pickle and its kin, `yaml.load`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for name in [module] if module else [alias.name for alias in node.names]:
                if name.partition(".")[0] in UNSAFE_READERS:
                    yield node.lineno, f"import {name}"
        if isinstance(node, ast.Call) and dotted(node.func) in {"yaml.load", "yaml.unsafe_load"}:
            yield node.lineno, f"{dotted(node.func)}()"


def prints(tree: ast.AST) -> Iterator[Offence]:
    """Only what talks to a person prints."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "print":
            yield node.lineno, "print()"


def system_sessions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each call that passes row-level security: its line and reason.

    The reason is a literal or a constant of the module; "?" for what can't be read here.
    """
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in SYSTEM_CALLS:
            reason = node.args[0] if node.args else None
            if isinstance(reason, ast.Name):
                reason = constants.get(reason.id)
            yield node.lineno, str(reason.value) if isinstance(reason, ast.Constant) else "?"
