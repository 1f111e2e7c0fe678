# SPDX-License-Identifier: Apache-2.0
"""`nimbus bill`: what is shown first is what is then made, once, and the books hold."""

import json
import os
import subprocess
import sys

import pytest

from nimbus.base.config import Settings
from tests.support.bills import Sale, counts, sale, settings, sold, use_as_in_the_reference
from tests.support.roles import as_role

__all__ = ["sale", "settings", "sold"]

pytestmark = pytest.mark.anyio


@pytest.fixture
def simulated(settings: Settings, sale: Sale) -> dict[str, str]:
    """The environment of a command on this database, on 1 June 2026."""
    with as_role(settings, "superuser") as owner:
        owner.execute("INSERT INTO test_clock (instant) VALUES ('2026-06-01T00:00:00Z')")
    return {
        **os.environ,
        "NIMBUS_DATA_DIR": str(settings.data_dir),
        "NIMBUS_DATABASE_URL": str(settings.database_url),
        "NIMBUS_DATABASE_OWNER_URL": str(settings.database_owner_url),
        "NIMBUS_TEST_CLOCK": "true",
    }


def nimbus(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nimbus", *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


async def test_a_preview_then_the_run_then_nothing(sale: Sale, simulated: dict[str, str]) -> None:
    await use_as_in_the_reference(sale.contract)
    by_now = ("bill", "--as-of", "2026-06-01T00:00:00Z")

    shown = nimbus(simulated, *by_now, "--preview")
    assert await counts(["invoices"]) == {"invoices": 0}
    made = nimbus(simulated, *by_now)
    again = nimbus(simulated, *by_now)
    proof = nimbus(simulated, "ledger", "check", "--json")

    assert shown.stdout.splitlines() == [
        f"{sale.subscription_id}  Preview  140.97 EUR",
        "1 to bill, 0 failed",
    ], shown.stderr
    assert made.stdout.splitlines() == [
        f"{sale.subscription_id}  INV-2026-000001  140.97 EUR",
        "1 billed, 0 failed",
    ], made.stderr
    assert again.stdout.splitlines() == ["0 billed, 0 failed"]
    assert (shown.returncode, made.returncode, again.returncode) == (0, 0, 0)
    assert proof.returncode == 0, proof.stdout
    assert json.loads(proof.stdout) == {"ok": True, "checked": 2, "differences": []}


async def test_the_future_can_be_shown_but_not_billed(
    sale: Sale, simulated: dict[str, str]
) -> None:
    later = ("bill", "--as-of", "2026-07-01T00:00:00Z")

    refused = nimbus(simulated, *later)
    malformed = nimbus(simulated, "bill", "--as-of", "tomorrow")

    assert (refused.returncode, malformed.returncode) == (1, 1)
    assert "has not come yet" in refused.stderr
    assert "takes an instant" in malformed.stderr
    assert await counts(["invoices"]) == {"invoices": 0}
