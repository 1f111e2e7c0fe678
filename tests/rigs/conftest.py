# SPDX-License-Identifier: Apache-2.0
"""Rigs: what only real processes can show, at the worst moments.

Each test starts real gateways on one port (SO_REUSEPORT), a real drain and a real database, lets
many callers call without a pause, kills or breaks something, and then compares as sets: what the
callers were answered, what the upstream saw, the stored events, the counter, the shown number.

    test_quota     the last unit, 64 callers at 4 gateways, also while gateways are killed
    test_kills     full load while gateways are killed: each answered call has one event
    test_spending  the last cent of a limit and of a balance
    test_rates     the worst sliding window over 1, 2 and 4 gateways
    test_changes   revocation and plan change at every gateway, also when the message is lost
    test_failures  the failure table of nimbus/gateway/README.md; failure_table.toml maps its rows
    test_fairness  an abusive key beside well-behaved ones
    test_memory    memory under load
    test_stalls    memory of connections that stall

`make test` runs a seeded sample; `make soak` the full counts. A test prints its seed; TEST_SEED
repeats it. Nothing here is judged by how fast the machine is.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Server
from tests.support.rig import Market, Rig, make_market, make_rig
from tests.support.valkeys import valkey_server


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
async def market(server: Server) -> AsyncIterator[Market]:
    """The product and its plans, made once a run."""
    async with make_market(server) as made:
        yield made


@pytest.fixture
async def rig(server: Server, market: Market) -> AsyncIterator[Rig]:
    """A rig of the test's own."""
    async with make_rig(server, market) as made:
        yield made


@pytest.fixture
def store(rig: Rig) -> Iterator[None]:
    """The Valkey that several gateways share, as the supervisor gives them one."""
    with valkey_server() as valkey:
        rig.settings = replace(rig.settings, valkey_url=valkey.url)
        yield
