# SPDX-License-Identifier: Apache-2.0
"""Signs of abuse at the gate, and whom the operator blocks."""

from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from nimbus.base import clock
from nimbus.rules.abuse import REFUSED_KEYS, UNKNOWN_PATHS
from tests.gateway.house import KEY, open_gate, open_upstream, secret

pytestmark = pytest.mark.anyio

BLOCK = UUID(int=88)


async def test_who_guesses_keys_is_reported_and_not_looked_up_any_more(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        for number in range(REFUSED_KEYS):
            assert (await gate.ask(b"GET", b"/echo", key=secret(100 + number))).status == 401
        [sign] = gate.house.signs
        assert (sign.kind, str(sign.network)) == ("refused_keys", "127.0.0.1/32")
        looked_up = len(gate.house.looked_up)
        refused = await gate.ask(b"GET", b"/echo", key=secret(999))
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert int(refused["retry-after"]) > 0
        assert len(gate.house.looked_up) == looked_up
        assert (await gate.ask(b"GET", b"/echo")).status == 200, "a key that works, works"


async def test_who_looks_for_holes_is_reported(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        for number in range(UNKNOWN_PATHS + 5):
            assert (await gate.ask(b"GET", b"/wp-%d.php" % number)).status == 404
        assert [sign.kind for sign in gate.house.signs] == ["path_scan"]
        assert (await gate.ask(b"GET", b"/echo")).status == 200


@pytest.mark.parametrize("what", ["address", "key"])
async def test_whom_the_operator_blocks_is_refused_until_let_in_again(
    tmp_path: Path, what: str
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        assert (await gate.ask(b"GET", b"/echo")).status == 200
        key_id = UUID(int=int.from_bytes(KEY[-8:], "big"))
        record = {
            "id": str(BLOCK),
            "network": "127.0.0.0/8" if what == "address" else None,
            "key_id": str(key_id) if what == "key" else None,
            "ends_at": clock.to_wire(clock.now() + timedelta(hours=1)),
        }
        gate.feed("block", record)
        refused = await gate.ask(b"GET", b"/echo")
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert "blocked" in refused.json["detail"]
        gate.feed("block", None, BLOCK)
        assert (await gate.ask(b"GET", b"/echo")).status == 200
        assert len(upstream.seen) == 2
