# SPDX-License-Identifier: Apache-2.0
"""A gateway as one writes it in Python: ASGI, aiohttp as the client, Redis by leases, a log.

It runs under granian in an environment of its own and knows nothing of Nimbus. It does what
Nimbus is measured with: the key's keyed hash, its record, status and scope, rate and quota
borrowed from Redis a part at a time, a line in the usage log for every call.
"""

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import redis.asyncio

Send = Callable[[dict[str, Any]], Awaitable[None]]

PEPPER = b"pepper of the bench"
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade"))
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"authorization"}
RATE, QUOTA = 1_000_000, 10**15
LEASE_UNITS = 10_000
LEASE_SECONDS = 0.05
FLUSH_SECONDS = 0.05
# KEYS: rate, quota. ARGV: units, microseconds per call, burst in microseconds, quota.
SCRIPT = """
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local due = tonumber(redis.call("GET", KEYS[1]) or now)
if due < now then due = now end
local fits = math.floor((tonumber(ARGV[3]) - due + now) / tonumber(ARGV[2]))
local units = math.min(tonumber(ARGV[1]), fits)
local used = tonumber(redis.call("GET", KEYS[2]) or 0)
units = math.min(units, tonumber(ARGV[4]) - used)
if units <= 0 then return 0 end
redis.call("SET", KEYS[1], string.format("%d", due + units * tonumber(ARGV[2])), "PX", 2000)
redis.call("INCRBY", KEYS[2], units)
return units
"""


@dataclass(slots=True)
class Lease:
    """Units that a subscription may use without asking, until `ends` (machine time, seconds)."""

    units: int = 0
    ends: float = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Record:
    """Whose a key is."""

    client: str
    subscription: str
    status: str
    scopes: frozenset[str]


class Gateway:
    """The application: what it keeps between calls."""

    def __init__(self) -> None:
        per_customer = int(os.environ["BENCH_PER_CUSTOMER"])
        self.upstream = os.environ["BENCH_UPSTREAM"]
        keys = Path(os.environ["BENCH_KEYS"]).read_text(encoding="ascii").split()
        self.records = {
            _digest(key.encode()): Record(
                f"c{number}", f"s{number // per_customer}", "Active", frozenset({"assets.read"})
            )
            for number, key in enumerate(keys)
        }
        self.leases: dict[str, Lease] = {}
        self.lines: list[str] = []
        self.log = Path(os.environ["BENCH_LOG"]).open("a", encoding="utf-8")  # noqa: SIM115
        self.session: Any = None
        self.borrow: Any = None

    async def start(self) -> None:
        """Open what a call needs."""
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=600),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        client = redis.asyncio.Redis(port=int(os.environ["BENCH_REDIS"]))
        self.borrow = client.register_script(SCRIPT)
        self.flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            lines, self.lines = self.lines, []
            self.log.writelines(lines)
            self.log.flush()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        started = time.monotonic()
        headers = dict(scope["headers"])
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        record = self.records.get(_digest(key)) if scheme == b"Bearer" else None
        if record is None:
            await _refuse(send, 401)
        elif record.status != "Active" or "assets.read" not in record.scopes:
            await _refuse(send, 403)
        elif not await self._take(record.subscription):
            await _refuse(send, 429)
        else:
            status, size = await self._forward(scope, send)
            self.lines.append(
                f"{time.time():.6f} {record.client} {record.subscription} {scope['method']}"
                f" {scope['path']} {status} {size} {time.monotonic() - started:.6f}\n"
            )

    async def _take(self, subscription: str) -> bool:
        lease = self.leases.get(subscription)
        if lease is None:
            lease = self.leases[subscription] = Lease()
        if lease.units < 1 or lease.ends < time.monotonic():
            async with lease.lock:
                if lease.units < 1 or lease.ends < time.monotonic():
                    names = [f"asgi:rate:{subscription}", f"asgi:quota:{subscription}"]
                    values = [LEASE_UNITS, 1, RATE, QUOTA]
                    lease.units = await self.borrow(keys=names, args=values)
                    lease.ends = time.monotonic() + LEASE_SECONDS
        if lease.units < 1:
            return False
        lease.units -= 1
        return True

    async def _forward(self, scope: dict[str, Any], send: Send) -> tuple[int, int]:
        fields = {
            name.decode(): value.decode()
            for name, value in scope["headers"]
            if name not in NOT_FORWARDED
        }
        url = self.upstream + scope["path"]
        size = 0
        async with self.session.request(scope["method"], url, headers=fields) as answer:
            lines = [
                (name.lower(), value)
                for name, value in answer.raw_headers
                if name.lower() not in HOP_BY_HOP
            ]
            start = {"type": "http.response.start", "status": answer.status, "headers": lines}
            await send(start)
            async for piece in answer.content.iter_any():
                size += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        return answer.status, size

    async def _lifespan(self, receive: Any, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.session.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _digest(key: bytes) -> bytes:
    return hmac.digest(PEPPER, key, hashlib.sha256)


app = Gateway()
