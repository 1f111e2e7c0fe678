# SPDX-License-Identifier: Apache-2.0
"""The law and the oracle agree to the cent on tenants that nobody thought of (spec 09, I-06)."""

import ast
import random
import sys
from pathlib import Path

from nimbus.billing import oracle
from tests.support.tenants import law_of, tenant

SOURCE = Path(oracle.__file__).read_text("utf-8")


def test_law_and_oracle_agree_to_the_cent_on_every_run_of_every_tenant(soak):
    for number in range(soak.count(1_000, 100_000)):
        seed = soak.seed + number
        facts = tenant(random.Random(seed))
        assert law_of(facts) == oracle.bills(facts), f"TEST_SEED={seed}"
        if not (number + 1) % 10_000:
            soak.say(f"{number + 1} tenants agree")


def test_the_oracle_knows_nothing_of_the_law():
    modules = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add((node.module or "").split(".")[0])
    assert modules <= sys.stdlib_module_names


def test_the_oracle_can_be_read_in_one_sitting():
    assert len(SOURCE.splitlines()) <= 200
