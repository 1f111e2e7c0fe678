# SPDX-License-Identifier: Apache-2.0
"""The gate's own loop, a recording upstream, and a gate between it and a caller."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from nimbus.base import clock
from tests.gateway.house import OpenGate, Upstream, open_gate, open_upstream


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _machine_time() -> Iterator[None]:
    yield
    clock.set_instant(None)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with open_upstream() as opened:
        yield opened


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream) -> AsyncIterator[OpenGate]:
    async with open_gate(tmp_path, upstream.port) as opened:
        yield opened
