# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.wind_api --port N`: serve until SIGTERM or SIGINT, then exit 0."""

import argparse
import asyncio
import signal

import uvloop

from examples.wind_api.server import serve


async def _run(host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with serve(host, port) as url:
        print(f"Wind API is ready: {url}", flush=True)
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.wind_api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port and prints it")
    arguments = parser.parse_args()
    uvloop.run(_run(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
