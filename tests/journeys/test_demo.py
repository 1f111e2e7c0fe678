# SPDX-License-Identifier: Apache-2.0
"""The demo sets on a running system: who can sign in, what they find, and that it all agrees."""

import json
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import httpx2
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from nimbus.base import config
from nimbus.base.secrets import database_login
from nimbus.demo.history import begins_at
from nimbus.demo.traffic import Call, Program, Traffic
from nimbus.identity.permissions import ROLES
from nimbus.rules.periods import Anchor, Period, period
from tests.operations.processes import Nimbus, nimbus, processes_of, run_file, serving, wait_for

FRANCHISE = {f"{role}@franchise.example": role for role in ROLES}
PEOPLE = {
    "admin@nimbus.example": "platform_admin",
    "owner@empty.example": "owner",
    "owner@tapas.example": "owner",
    **FRANCHISE,
}
PROOFS = (("ledger", "check"), ("audit", "verify"), ("usage", "reconcile"))
# Heartbeats, waiting jobs and the marks of rates: they change while nothing happens.
RESTLESS = ("gateway_instances", "throttles", "procrastinate_%", "grant_feed")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nimbus]:
    """A system with every demo set."""
    with serving(tmp_path_factory.mktemp("demo") / "data", "--demo", "all") as started:
        yield started


class Visitor:
    """Calls the system by its address, as its `run.json` says."""

    def __init__(self, data_dir: Path) -> None:
        self.known: dict[str, Any] = run_file(data_dir)
        self._client = httpx2.Client(base_url=self.known["url"], timeout=60, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def account(self, email: str) -> dict[str, Any]:
        (found,) = [one for one in self.known["accounts"] if one["email"] == email]
        return found

    def sign_in(self, email: str) -> dict[str, str]:
        """The header of somebody's session; the password is the one of `run.json`."""
        body = {"email": email, "password": self.account(email)["password"]}
        answer = self._client.post("/api/user/auth/login", json=body)
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def get(self, path: str, headers: dict[str, str]) -> Any:
        answer = self._client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
        answer = self._client.request(method, path, headers=headers, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def key(self, organization: str, environment: str) -> dict[str, str]:
        (found,) = [
            one["secret"]
            for one in self.known["api_keys"]
            if (one["organization"], one["environment"]) == (organization, environment)
        ]
        return {"X-API-Key": found}


@pytest.fixture
def visitor(system: Nimbus) -> Iterator[Visitor]:
    with closing(Visitor(system.data_dir)) as started:
        yield started


def test_a_start_with_the_demo_prints_how_to_sign_in_before_it_says_ready(system: Nimbus) -> None:
    printed = system.output.read_text()

    assert printed.splitlines()[-1] == f"Nimbus is ready: http://127.0.0.1:{system.port}"
    assert all(email in printed for email in PEOPLE)
    assert re.search(rf"curl http://127.0.0.1:{system.port}/\S+ -H .* nimbus_live_\w+", printed)
    assert str(system.data_dir / "run.json") in printed


def test_the_run_file_says_who_there_is_to_its_owner_alone(
    system: Nimbus, visitor: Visitor
) -> None:
    known = visitor.known

    assert stat.S_IMODE((system.data_dir / "run.json").stat().st_mode) == 0o600
    assert {one["email"]: one["role"] for one in known["accounts"]} == PEOPLE
    assert visitor.account("admin@nimbus.example")["organization"] is None
    assert {(one["organization"], one["environment"]) for one in known["api_keys"]} == {
        ("Empty B.V.", "Test"),
        ("Tapas B.V.", "Live"),
        ("Tapas B.V.", "Test"),
        ("Cafesserie Franchise B.V.", "Live"),
        ("Cafesserie Franchise B.V.", "Test"),
    }


@pytest.mark.parametrize("email", PEOPLE)
def test_everybody_signs_in_and_finds_a_start_page(visitor: Visitor, email: str) -> None:
    account = visitor.account(email)
    page = visitor.get("/api/organizations/dashboard", visitor.sign_in(email))

    role = "owner" if account["role"] == "platform_admin" else account["role"]
    assert page["organization"]["role"] == role
    assert page["organization"]["status"] == "Active"
    assert account["organization"] in {page["organization"]["name"], None}


def test_empty_has_an_open_trial_and_a_test_key_and_no_history(visitor: Visitor) -> None:
    owner = visitor.sign_in("owner@empty.example")

    subscription = visitor.get("/api/billing/subscription", owner)
    assert subscription["status"] == "Trial"
    assert datetime.fromisoformat(subscription["trial_ends_at"]) > datetime.now(UTC)
    keys = visitor.get("/api/developer/api-keys", owner)["data"]
    assert [key["environment"] for key in keys] == ["Test"]
    assert visitor.get("/api/billing/invoices", owner)["data"] == []
    assert {row["used"] for row in visitor.get("/api/billing/quota", owner)["data"]} == {"0"}


def test_tapas_has_two_paid_invoices_and_an_open_one_of_what_it_used(visitor: Visitor) -> None:
    owner = visitor.sign_in("owner@tapas.example")

    subscription = visitor.get("/api/billing/subscription", owner)
    assert (subscription["plan"]["slug"], subscription["status"]) == ("starter", "Active")
    invoices = visitor.get("/api/billing/invoices", owner)["data"]
    assert [one["status"] for one in invoices] == ["Sent", "Paid", "Paid"]
    assert invoices[0]["period_ends_at"] == subscription["period"]["starts_at"]
    lines = visitor.get(f"/api/billing/invoices/{invoices[0]['id']}", owner)["lines"]
    # The fee; 1,300 calls over at 0.002; 2 assets over at 1.50; 5 reports at 2.50.
    assert sorted(line["amount"]["amount_minor"] for line in lines) == [2_60, 3_00, 12_50, 49_00]
    assert invoices[0]["total"]["amount_minor"] == 81_19


def test_franchise_has_months_of_paid_invoices_under_its_contract(visitor: Visitor) -> None:
    owner = visitor.sign_in("owner@franchise.example")

    subscription = visitor.get("/api/billing/subscription", owner)
    assert (subscription["plan"]["slug"], subscription["status"]) == ("enterprise", "Active")
    invoices = visitor.get("/api/billing/invoices", owner)["data"]
    assert [one["status"] for one in invoices] == ["Paid"] * 14
    ends = [one["period_ends_at"] for one in invoices]
    assert [one["period_starts_at"] for one in invoices[:-1]] == ends[1:]
    members = visitor.get("/api/organizations/users", owner)["data"]
    assert {one["email"]: one["role"] for one in members} == FRANCHISE
    # The contract's fee, not the plan's; the last month went over what it includes.
    lines = visitor.get(f"/api/billing/invoices/{invoices[0]['id']}", owner)["lines"]
    amounts = [line["amount"]["amount_minor"] for line in lines]
    assert 480_00 in amounts
    assert len(amounts) == 4


def test_franchise_called_by_several_programs_with_errors_and_refusals(visitor: Visitor) -> None:
    owner = visitor.sign_in("owner@franchise.example")

    keys = visitor.get("/api/developer/api-keys", owner)["data"]
    assert {"Shop screens", "Mobile app", "Nightly report"} <= {key["name"] for key in keys}
    assert {key["status"] for key in keys} == {"Active", "Revoked"}
    log = visitor.get("/api/developer/usage/logs?limit=200", owner)["data"]
    assert len({call["status"] for call in log}) > 1


def test_invoice_numbers_follow_the_calendar_over_all_customers(visitor: Visitor) -> None:
    admin = visitor.sign_in("admin@nimbus.example")

    invoices = visitor.get("/api/admin/billing/invoices", admin)["data"]
    numbered = sorted((one["number"], one["issued_on"]) for one in invoices)
    assert len(numbered) == 17
    assert [day for _, day in numbered] == sorted(day for _, day in numbered)


def test_the_documents_of_the_past_are_made(visitor: Visitor) -> None:
    owner = visitor.sign_in("owner@tapas.example")
    client = visitor._client
    for invoice in visitor.get("/api/billing/invoices", owner)["data"]:
        path = f"/api/billing/invoices/{invoice['id']}/pdf"
        pdf = wait_for(
            lambda path=path: (a := client.get(path, headers=owner)).status_code == 200 and a,
            path,
        )
        assert pdf.content.startswith(b"%PDF")


def test_keys_call_the_product_and_test_keys_have_an_upstream_of_their_own(
    visitor: Visitor,
) -> None:
    farm = {"name": "Vlieland", "country": "NL", "latitude": 53.2, "longitude": 4.9}
    name = "Cafesserie Franchise B.V."
    live, test = visitor.key(name, "Live"), visitor.key(name, "Test")

    visitor.send("POST", "/api/v1/wind/farms", live, farm)
    assert [one["name"] for one in visitor.get("/api/v1/wind/farms", live)["data"]] == ["Vlieland"]
    assert visitor.get("/api/v1/wind/farms", test)["data"] == []
    assert visitor.get("/api/v1/wind/farms", visitor.key("Empty B.V.", "Test"))["data"] == []


@pytest.mark.parametrize("proof", PROOFS, ids=" ".join)
def test_the_proofs_hold_over_the_past(system: Nimbus, proof: tuple[str, str]) -> None:
    outcome = nimbus(*proof, "--json", f"--data-dir={system.data_dir}")

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert json.loads(outcome.stdout)["checked"] > 0


def test_loading_again_changes_nothing(system: Nimbus) -> None:
    before, known = rows(system.data_dir), run_file(system.data_dir)
    loaded = nimbus("demo", "load", "all", f"--data-dir={system.data_dir}")

    assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    assert rows(system.data_dir) == before
    assert run_file(system.data_dir) == known


def test_loading_again_puts_back_what_was_changed(system: Nimbus, visitor: Visitor) -> None:
    owner = visitor.sign_in("owner@tapas.example")
    passwords = {
        "current_password": visitor.account("owner@tapas.example")["password"],
        "password": "a whole other password, isn't it",
    }
    visitor.send("PUT", "/api/user/account/password", owner, passwords)
    for key in visitor.get("/api/developer/api-keys", owner)["data"]:
        visitor.send("DELETE", f"/api/developer/api-keys/{key['id']}", owner)
    lost = visitor.key("Tapas B.V.", "Live")
    loaded = nimbus("demo", "load", "DEMO_TAPAS", f"--data-dir={system.data_dir}")
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr

    with closing(Visitor(system.data_dir)) as again:
        assert again.account("owner@tapas.example") == visitor.account("owner@tapas.example")
        again.sign_in("owner@tapas.example")
        assert again.key("Tapas B.V.", "Live") != lost
        again.get("/api/v1/wind/farms", again.key("Tapas B.V.", "Live"))


def test_the_next_start_goes_on_with_other_ports_and_another_password(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "--demo", "DEMO_EMPTY"):
        first = run_file(data_dir)
    assert processes_of(data_dir) == []
    taken = urlsplit(str(first["wind_test_url"]))
    password = "seven windmills at dawn"
    with socket.create_server(("127.0.0.1", taken.port or 0)):
        start = serving(data_dir, "--demo", "DEMO_EMPTY", NIMBUS_DEMO_PASSWORD=password)
        with start, closing(Visitor(data_dir)) as visitor:
            assert visitor.known["wind_url"] == first["wind_url"]
            assert visitor.known["wind_test_url"] != first["wind_test_url"]
            assert visitor.known["api_keys"] == first["api_keys"]
            assert visitor.account("owner@empty.example")["password"] == password
            visitor.sign_in("owner@empty.example")
            visitor.get("/api/v1/wind/farms", visitor.key("Empty B.V.", "Test"))


def test_an_unknown_set_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    refused = nimbus("serve", "--demo", "DEMO_PIZZA", f"--data-dir={tmp_path / 'data'}")

    assert refused.returncode == 1
    assert "DEMO_PIZZA" in refused.stderr
    assert "DEMO_TAPAS" in refused.stderr
    assert not (tmp_path / "data" / "pg").exists()


def test_the_same_seed_makes_the_same_calls() -> None:
    month = Period(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
    programs = (
        Program(name="Shop", share=3, reads=("/farms", "/alerts"), rhythm="visitors"),
        Program(name="Night", share=1, reads=("/reports",), rhythm="night", months=(0, 3)),
    )

    def calls(seed: str, number: int = 0) -> list[Call]:
        traffic = Traffic(programs, "Europe/Amsterdam", seed)
        return traffic.of_period(month, number, calls=900, assets=range(1, 4), reports=5)

    made = calls("one")
    assert made == calls("one")
    assert made != calls("two")
    assert sum(call.billable for call in made) == 900
    assert all(call.at in month for call in made)
    assert {call.at.astimezone(ZoneInfo("Europe/Amsterdam")).hour for call in made} >= {2, 12, 20}
    ended = [call for call in calls("one", 3) if call.program == 1]
    assert {call.refusal for call in ended} == {"api_key_revoked"}


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    now=st.integers(1_577_836_800, 2_208_988_800).map(lambda at: datetime.fromtimestamp(at, UTC)),
    months=st.integers(1, 24),
)
def test_a_past_of_some_months_has_just_ended_its_last_one(now: datetime, months: int) -> None:
    zone = ZoneInfo("Europe/Amsterdam")
    anchor = Anchor(begins_at(now, months, zone.key), zone.key, "month", 1, calendar=False)

    ended = period(anchor, months - 1).ends_at
    days = now.astimezone(zone).date() - ended.astimezone(zone).date()
    # Three; a day or more after that where the month before has fewer days.
    assert timedelta(days=3) <= days <= timedelta(days=6)
    assert now < period(anchor, months).ends_at


def rows(data_dir: Path) -> dict[str, int]:
    """How many rows each table has, but for those that never rest, once all jobs are done."""
    login: dict[str, Any] = dict(
        database_login(config.load({"NIMBUS_DATA_DIR": str(data_dir)}), "owner")
    )
    with psycopg.connect(**login, autocommit=True) as connection:

        def counted(statement: sql.Composed | str, *values: Any) -> int:
            return int(connection.execute(statement, values).fetchone()[0])

        jobs = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
        wait_for(lambda: counted(jobs) == 0, "all jobs are done")
        tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace ="
        names = connection.execute(
            f"{tables} 'public'::regnamespace AND NOT relname LIKE ANY (%s)", (list(RESTLESS),)
        )
        count = sql.SQL("SELECT count(*) FROM {}")
        return {name: counted(count.format(sql.Identifier(name))) for (name,) in names.fetchall()}
