# SPDX-License-Identifier: Apache-2.0
"""Serving: one process, keep-alive, on the event loop that asks for it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from granian.constants import Interfaces
from granian.server.embed import Server

from examples.wind_api.app import create_app

START_SECONDS_MAX = 10.0


@asynccontextmanager
async def serve(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve a Wind API with empty storage until the block is left; yields its base URL.

    Port 0 takes any free one. Raises OSError when the port is taken, TimeoutError when the server
    does not come up.
    """
    with _reserve(host, port) as reserved:
        port = reserved.getsockname()[1]
        server = Server(
            create_app(),
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            websockets=False,
            log_enabled=False,
        )
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.wait_for(_answering(host, port, serving), START_SECONDS_MAX)
            yield f"http://{host}:{port}"
        finally:
            server.stop()  # type: ignore[no-untyped-call]
            await serving


def _reserve(host: str, port: int) -> socket.socket:
    """A bound socket that never listens: it fixes the port which granian then shares with it."""
    with socket.socket() as probe:  # refuses a port that another server listens on
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        port = probe.getsockname()[1]
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


async def _answering(host: str, port: int, serving: asyncio.Task[None]) -> None:
    while not serving.done():
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            await writer.wait_closed()
            return
    serving.result()
