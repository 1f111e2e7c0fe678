# SPDX-License-Identifier: Apache-2.0
"""The gateway under test, a process of its own: `python -m tools.corpus.gateway SETUP`.

The parts are the product's own; around them stand a house in memory (feed, leases, key look-ups:
tests/gateway/house.py), and what no product has: a socket by which the runner asks how the
process fares, changes what the house says, and breaks things. Here, not in the product, all
timers may be divided (`scale`), names resolve as the runner wishes, the disk can be full, and
the process can be killed in the middle of a call.
"""

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import uvloop

from nimbus.base import log
from nimbus.base.ids import new_id
from nimbus.gateway import __name__ as gateway_package
from nimbus.gateway.door import SWEEP_SECONDS
from nimbus.gateway.meter import Journal
from nimbus.gateway.upstream import vetted_addresses
from nimbus.rules.metering import SLOTS_PER_SEGMENT
from tests.gateway import house

# The one address that upstreams may have; its neighbours are private networks to the gateway.
ALLOWED: Final = (ip_network("127.0.0.1/32"),)
OUR_NAME: Final = b"nimbus.test"  # the installation's; the products have host names of their own
REBIND_NAME: Final = "rebind.test"
PUBLIC: Final = "8.8.8.8"
FORBIDDEN: Final = "127.0.0.2"
SMALL_SEGMENT: Final = 32  # slots: a journal that soon asks the disk for more


def divide_timers(scale: float) -> None:
    """Make every timer of the gateway's modules shorter."""
    for name, module in list(sys.modules.items()):
        if name.startswith(gateway_package):
            for constant, value in list(vars(module).items()):
                timer = constant.endswith("_SECONDS") and isinstance(value, int | float)
                if timer or constant == "STREAM_IDLE":
                    setattr(module, constant, value / scale)


def be_killed_after_append() -> None:
    """Die as by kill -9 right after the next call's record is in the journal."""
    for name in ("complete", "complete_payload"):
        write: Callable[..., None] | None = getattr(Journal, name, None)
        if write is not None:

            def complete(*args: Any, write: Callable[..., None] = write) -> None:
                write(*args)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(Journal, name, complete)


def rebind(answers: list[str]) -> None:
    """Let the name REBIND_NAME resolve to these addresses in turn, the last one for ever."""
    left = list(answers)
    resolve = socket.getaddrinfo

    def answer(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host == REBIND_NAME:
            host = left.pop(0) if len(left) > 1 else left[0]
        return resolve(host, port, *args, **options)

    socket.getaddrinfo = answer


class Control:
    """Answers the runner's questions, one JSON object a line."""

    def __init__(self, opened: house.OpenGate) -> None:
        self._opened = opened
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the runner."""
        self._connections += 1
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while line := await reader.readline():
                asked = json.loads(line)
                answer = getattr(self, f"do_{asked.pop('do')}")(**asked)
                if asyncio.iscoroutine(answer):
                    answer = await answer
                writer.write(json.dumps(answer or {}).encode() + b"\n")

    def do_ping(self) -> dict[str, Any]:
        """One turn of the loop, and what is under way."""
        own = 1 + self._connections
        return {
            "tasks": len(asyncio.all_tasks()) - own,
            "connections": len(self._opened.door.connections),
        }

    def do_fare(self) -> dict[str, Any]:
        """How the process fares: CPU seconds used, look-ups made."""
        return {"cpu": time.process_time(), "lookups": len(self._opened.house.looked_up)}

    def do_collect(self) -> None:
        """Collect what is not used any more."""
        gc.collect()

    def do_feed(self, kind: str, record: dict[str, Any]) -> None:
        """The house changes something."""
        self._opened.feed(kind, record)

    def do_units(self, left: int) -> None:
        """The house has this many units to lend from now on, and has lent none."""
        self._opened.house.left[house.STANDING] = left
        self._opened.house.lent[house.STANDING] = 0

    async def do_rebind(self) -> dict[str, Any]:
        """From now on the name of an upstream changes its mind after it was checked once."""
        rebind([PUBLIC, FORBIDDEN])
        return {"checked": await vetted_addresses(REBIND_NAME, 80, ALLOWED)}

    def do_kill_after_append(self) -> None:
        """Die in the middle of the next call."""
        be_killed_after_append()

    def do_disk_full(self) -> None:
        """No file can grow any more."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))


async def _tend(opened: house.OpenGate) -> None:
    """What the product does by the clock."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        opened.door.sweep()
        opened.gate.journal.prepare()


async def _main(setup: dict[str, Any]) -> None:
    folder = Path(setup["folder"])
    vars(house).update(LOOPBACK=ALLOWED, HOST=OUR_NAME)
    if setup["scale"] != 1:
        divide_timers(setup["scale"])
    slots = SMALL_SEGMENT if setup["small_journal"] else SLOTS_PER_SEGMENT
    # A producer of its own at each start, as in the product.
    vars(house)["Journal"] = lambda base, _: Journal(base, new_id(), slots)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with house.open_gate(folder, setup["upstream_port"]) as opened:
        for kind, record in setup["records"]:
            opened.feed(kind, record)
        tending = asyncio.create_task(_tend(opened))
        control = await asyncio.start_unix_server(
            Control(opened).serve, setup["control"], limit=1 << 22
        )
        print(json.dumps({"port": opened.port}), flush=True)
        await stop.wait()
        tending.cancel()
        control.close()


def main() -> None:
    """Open the gateway that the argument describes, and serve until SIGTERM."""
    setup = json.loads(sys.argv[1])
    log.configure("info", "gateway")
    uvloop.run(_main(setup))


if __name__ == "__main__":
    main()
