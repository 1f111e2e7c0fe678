# SPDX-License-Identifier: Apache-2.0
"""What a connection that stalls costs a gateway's memory, in either direction.

Judged by the process's own pages (RssAnon), so that the mapped journal does not blur it.
"""

import asyncio
import socket
from collections.abc import Callable

import pytest

from tests.support.rig import Rig
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

SAMPLE, ALL = 40, 100  # connections
KERNEL_BYTES = 65_536  # small buffers of the system, so that a stall shows in the process soon
STALLED_KIB_MAX = 256  # for each connection
STILL = 30  # looks in a row at which nothing moved


@pytest.mark.parametrize("direction", ["the caller reads nothing", "the upstream reads nothing"])
async def test_a_stalled_connection_costs_a_bounded_amount(
    rig: Rig, soak: Soak, direction: str
) -> None:
    count = soak.count(SAMPLE, ALL)
    customer = await rig.customer()
    await rig.start_gateways(1)
    await asyncio.gather(*(caller.call() for caller in rig.callers(4, customer.key, "f")))
    [process] = rig.gateways
    before = process.status("RssAnon")
    downwards = direction == "the caller reads nothing"
    connections = [connected(rig, customer.key, n, downwards) for n in range(count)]
    try:
        if downwards:
            await still(lambda: rig.upstream.streamed, lambda: rig.upstream.stalled == count)
        else:
            pushed = [0] * count
            await still(lambda: push(connections, pushed), lambda: min(pushed) > 0)
        each = (process.status("RssAnon") - before) / count
        soak.say(f"{count} connections, {each:.0f} KiB each: {direction}")
        assert each <= STALLED_KIB_MAX
        [caller] = rig.callers(1, customer.key, "n")
        assert (await caller.call()).status == 200, "the others go on"
    finally:
        for connection in connections:
            connection.close()


def connected(rig: Rig, key: str, number: int, downwards: bool) -> socket.socket:
    """A connection with a call that will stall."""
    line = (
        f"GET /api/v1/rig/stream/s{number}" if downwards else f"POST /api/v1/rig/upload/s{number}"
    )
    length = "" if downwards else "Content-Length: 10485760\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    connection.connect(("127.0.0.1", rig.settings.port))
    connection.sendall(
        f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}X-API-Key: {key}\r\n\r\n".encode()
    )
    connection.setblocking(False)
    return connection


def push(connections: list[socket.socket], pushed: list[int]) -> int:
    """Send what each connection takes; all that was ever sent."""
    for number, connection in enumerate(connections):
        try:
            while True:
                pushed[number] += connection.send(bytes(65_536))
        except BlockingIOError:
            pass
    return sum(pushed)


async def still(amount: Callable[[], int], begun: Callable[[], bool]) -> None:
    """Wait until an amount stands still."""
    seen, since = -1, 0
    async with asyncio.timeout(60):
        while since < STILL or not begun():
            now = amount()
            seen, since = now, since + 1 if now == seen else 0
            await asyncio.sleep(0.01)
