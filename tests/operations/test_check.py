# SPDX-License-Identifier: Apache-2.0
"""`nimbus check` and what the command refuses before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from nimbus.base import config
from tests.operations.conftest import Install
from tests.operations.processes import ROOT, environment, nimbus, processes_of


@pytest.fixture(scope="module")
def data(install: Install, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of an installation that is not running."""
    return install(tmp_path_factory.mktemp("check") / "data")


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What check found: `ok` or what is wrong, by name."""
    found = {}
    for line in done.stdout.splitlines():
        verdict, _, rest = line.partition(" ")
        name, _, problem = rest.strip().partition(": ")
        found[name] = problem if verdict == "wrong" else verdict
    return found


def test_it_says_what_is_right_and_that_no_invoice_is_final_before_the_seller_is_set(
    data: Path,
) -> None:
    done = nimbus("check", f"--data-dir={data}")

    found = lines(done)
    assert done.returncode == 1
    assert "no invoice is finalized until" in found.pop("seller")
    assert found == dict.fromkeys(["configuration", "secrets", "database", "schema", "clock"], "ok")
    assert processes_of(data) == []


def test_a_secret_that_others_can_read_is_wrong(data: Path) -> None:
    secret = data / "secrets" / "pepper_1"
    secret.chmod(0o644)

    done = nimbus("check", f"--data-dir={data}")

    secret.chmod(0o600)
    assert "can be read by others" in lines(done)["secrets"]


def test_a_folder_without_data_is_wrong_and_stays_empty(tmp_path: Path) -> None:
    done = nimbus("check", f"--data-dir={tmp_path / 'new'}")

    assert done.returncode == 1
    assert "nimbus serve makes it" in lines(done)["data folder"]
    assert not (tmp_path / "new").exists()


def test_every_setting_is_explained_with_its_default() -> None:
    text = nimbus("check", "--explain").stdout

    for option in config.OPTIONS:
        assert f"NIMBUS_{option.name} " in text
        assert option.meaning in text
    assert "(default 8000)" in text


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NIMBUS_PROT": "8000"}, "NIMBUS_PROT is not a setting"),
        ({"NIMBUS_PORT": "many"}, "NIMBUS_PORT"),
        ({"NIMBUS_DATABASE_URL": "postgresql:///x"}, "NIMBUS_DATABASE_OWNER_URL"),
        ({"NIMBUS_MODE": "production"}, "needs NIMBUS_DATABASE_URL"),
        (
            {
                "NIMBUS_MODE": "production",
                "NIMBUS_HOST": "192.0.2.1",
                "NIMBUS_DATABASE_URL": "postgresql:///x",
                "NIMBUS_DATABASE_OWNER_URL": "postgresql:///x",
            },
            "refuses plain HTTP from other machines",
        ),
    ],
)
def test_an_unsafe_or_unknown_configuration_does_not_serve(
    variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nimbus", "serve", f"--data-dir={tmp_path / 'data'}"],
        cwd=ROOT,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_production_without_its_secrets_is_refused(tmp_path: Path) -> None:
    variables = {
        "NIMBUS_MODE": "production",
        "NIMBUS_DATABASE_URL": "postgresql:///x",
        "NIMBUS_DATABASE_OWNER_URL": "postgresql:///x",
    }
    done = subprocess.run(
        [sys.executable, "-m", "nimbus", "check", f"--data-dir={tmp_path}"],
        cwd=ROOT,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 1
    assert "is missing" in lines(done)["secrets"]
    assert list(tmp_path.iterdir()) == []


def test_the_command_itself_brings_no_framework_into_the_gateway() -> None:
    script = (
        "import sys, nimbus.cli, nimbus.gateway\n"
        "heavy = ('sqlalchemy', 'fastapi', 'starlette', 'pydantic', 'procrastinate', 'httpx2',"
        " 'alembic', 'granian')\n"
        "print([name for name in heavy if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
