# SPDX-License-Identifier: Apache-2.0
"""The test clock at its door: who may move time, and in which direction only."""

from dataclasses import replace

import httpx2
import psycopg
import pytest

from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

CLOCK = "/api/admin/clock"
INSTANT = "2026-05-01T00:00:00Z"


async def test_real_time_can_not_be_moved(api: httpx2.AsyncClient) -> None:
    admin = await make_owner(platform_role="admin")

    assert (await api.get(CLOCK, headers=admin.headers)).json()["test"] is False
    answer = await api.post(CLOCK, json={"advance_to": INSTANT}, headers=admin.headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_test_clock")


async def test_time_moves_for_the_operator_only(api: httpx2.AsyncClient) -> None:
    owner = await make_owner()

    for answer in (
        await api.get(CLOCK, headers=owner.headers),
        await api.post(CLOCK, json={"advance_to": INSTANT}, headers=owner.headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


class TestSimulated:
    """With business time standing still."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        with psycopg.connect(**database_login(settings, "system")) as connection:
            connection.execute("INSERT INTO test_clock (instant) VALUES (%s)", (INSTANT,))
        return replace(settings, test_clock=True)

    async def test_time_goes_forward_only(self, api: httpx2.AsyncClient) -> None:
        admin = await make_owner(platform_role="admin")
        earlier = "2026-04-30T23:59:59.999999Z"

        answer = await api.post(CLOCK, json={"advance_to": earlier}, headers=admin.headers)

        assert (answer.status_code, answer.json()["code"]) == (422, "clock_backwards")
        assert (await api.get(CLOCK, headers=admin.headers)).json() == {
            "now": INSTANT,
            "test": True,
        }

    @pytest.mark.parametrize(
        "instant",
        [
            "tomorrow",
            "2026-06-01",
            "2026-06-01T00:00:00",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "2126-05-01T00:00:00Z",
        ],
    )
    async def test_what_is_no_instant_is_named(self, api: httpx2.AsyncClient, instant: str) -> None:
        admin = await make_owner(platform_role="admin")

        answer = await api.post(CLOCK, json={"advance_to": instant}, headers=admin.headers)

        assert answer.status_code == 422
        assert [item["field"] for item in answer.json()["errors"]] == ["advance_to"]
