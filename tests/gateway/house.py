# SPDX-License-Identifier: Apache-2.0
"""What tests of the gate stand on: feed records, a scripted upstream, a caller's raw socket."""

import asyncio
import contextlib
import hmac
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

from nimbus.gateway.call import Gate
from nimbus.gateway.door import Door
from nimbus.gateway.forward import Pool
from nimbus.gateway.leases import Granted, Leases
from nimbus.gateway.meter import Journal
from nimbus.gateway.records import Record
from nimbus.gateway.server import ClientConnection
from nimbus.gateway.state import State
from nimbus.gateway.suspects import Suspects
from nimbus.gateway.upstream import Upstream as Place
from nimbus.gateway.verify import KeyLookups
from nimbus.gateway.windows import RateWindows
from nimbus.rules.abuse import Sign
from nimbus.rules.grants import key_check
from nimbus.rules.metering import SlotState, UsageEvent, read_segment

PEPPER = b"pepper of the tests"
HOST = b"gw.test"
ORGANIZATION, OTHER_ORGANIZATION, PROVIDER = UUID(int=1), UUID(int=2), UUID(int=3)
PRODUCT, PLAN, SUBSCRIPTION, STANDING = UUID(int=10), UUID(int=11), UUID(int=12), UUID(int=13)
LOOPBACK = (ip_network("127.0.0.0/8"),)
EVER = ("2000-01-01T00:00:00Z", "2100-01-01T00:00:00Z")


def secret(number: int, environment: str = "live") -> bytes:
    """A well-formed key."""
    body = f"nimbus_{environment}_".encode() + b"%043d" % number
    return body + key_check(body)


KEY, TEST_KEY, UNKNOWN_KEY = secret(1), secret(2, "test"), secret(3)


def route(method: str, path: str, **changes: Any) -> Record:
    return {
        "id": str(UUID(int=1000 + hash((method, path)) % 10**6)),
        "method": method,
        "path": path,
        "upstream_path": path,
        "scope": None,
        "minimum_rank": None,
        "minimum_plan": None,
        "weight": 1,
        "rate": None,
        **changes,
    }


def digest_of(pepper: bytes, secret: bytes) -> bytes:
    """The keyed hash under which a key is stored, as the standard library makes it."""
    return hmac.digest(pepper, secret, "sha256")


def product_record(port: int, **changes: Any) -> Record:
    upstream = {
        "base_url": f"http://127.0.0.1:{port}",
        "auth_header": None,
        "auth_secret_sealed": None,
        "connect_timeout_ms": 2000,
        "answer_timeout_ms": 5000,
    }
    methods = ("GET", "POST", "PUT", "DELETE")
    return {
        "id": str(PRODUCT),
        "slug": "demo",
        "provider_organization_id": str(PROVIDER),
        "status": "published",
        "key_in_query": False,
        "upstreams": {"Live": upstream, "Test": upstream},
        "routes": [
            *[route(method, "/echo") for method in methods],
            *[route(method, "/free/*") for method in methods],
            route("GET", "/pro/*", minimum_rank=2, minimum_plan="Professional"),
            route("GET", "/scoped", scope="wind.write"),
            route("GET", "/heavy", weight=5),
            route("GET", "/farms/{id}", upstream_path="/v2/site/{id}"),
        ],
        **changes,
    }


def subscription_record(**changes: Any) -> Record:
    return {
        "id": str(SUBSCRIPTION),
        "organization_id": str(ORGANIZATION),
        "provider_organization_id": str(PROVIDER),
        "product_id": str(PRODUCT),
        "plan_version_id": str(PLAN),
        "status": "Active",
        "trial_ends_at": None,
        "ends_at": None,
        "standings": [],
        **changes,
    }


def standing_record(limit: int | None, policy: str = "deny", **changes: Any) -> Record:
    return {
        "id": str(STANDING),
        "meter_key": "api_calls",
        "limit": limit,
        "policy": policy,
        "period_starts_at": EVER[0],
        "period_ends_at": EVER[1],
        **changes,
    }


def plan_record(**changes: Any) -> Record:
    return {
        "id": str(PLAN),
        "plan_id": str(UUID(int=14)),
        "product_id": str(PRODUCT),
        "slug": "starter",
        "name": "Starter",
        "rank": 1,
        "rate": None,
        "over_quota_policy": "deny",
        **changes,
    }


def key_record(key: bytes, **changes: Any) -> Record:
    return {
        "id": str(UUID(int=int.from_bytes(key[-8:], "big"))),
        "hash": digest_of(PEPPER, key).hex(),
        "retired_hash": None,
        "retires_at": None,
        "organization_id": str(ORGANIZATION),
        "environment": "Test" if key.startswith(b"nimbus_test_") else "Live",
        "scopes": [],
        "ip_allow": [],
        "status": "Active",
        "expires_at": None,
        "rate_per_minute": None,
        "product_id": None,
        "subscription_id": None,
        **changes,
    }


@dataclass
class House:
    """A bank of units in memory, and keys that only a look-up finds."""

    left: dict[UUID, int] = field(default_factory=dict)
    lent: dict[UUID, int] = field(default_factory=dict)
    used: dict[UUID, int] = field(default_factory=dict)
    policy: str = "deny"
    gone: bool = False
    asked: list[tuple[UUID, int]] = field(default_factory=list)
    hidden_keys: dict[bytes, Record] = field(default_factory=dict)
    looked_up: list[bytes] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)

    def lease(self, standing: UUID, units: int) -> Granted | None:
        self.asked.append((standing, units))
        if self.gone:
            return None
        left = self.left.get(standing, 0)
        granted = units if self.policy != "deny" else max(0, min(units, left))
        self.left[standing] = left - granted
        self.lent[standing] = self.lent.get(standing, 0) + granted
        lent, used = self.lent[standing], self.used.get(standing, 0)
        return Granted(granted, used, lent, used + lent + left - granted)

    def settle(self, standing: UUID, held: int, cost: int) -> None:
        """A call that held so much is stored: it cost that."""
        self.lent[standing] -= held
        self.used[standing] = self.used.get(standing, 0) + cost
        self.left[standing] += held - cost

    def give_back(self, standing: UUID, units: int) -> None:
        self.left[standing] = self.left.get(standing, 0) + units
        self.lent[standing] -= units


@dataclass
class OpenGate:
    """A gate that listens, with everything a test looks into."""

    port: int
    gate: Gate
    door: Door
    house: House
    number: int = 0

    def feed(self, kind: str, record: Record | None, entity_id: UUID | None = None) -> None:
        """Let the house change something."""
        self.number += 1
        entity = entity_id if record is None else UUID(record.get("id", str(UUID(int=0))))
        self.gate.state.follow([(self.number, kind, str(entity), record)])

    def events(self) -> list[UsageEvent]:
        """Every completed record of the journal, in order."""
        return read_journal(self.gate.journal.folder)

    @contextlib.asynccontextmanager
    async def caller(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Caller"]:
        """A raw connection to the gate."""
        name = None if tls is None else "localhost"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=tls, server_hostname=name
        )
        try:
            yield Caller(reader, writer)
        finally:
            writer.close()

    async def ask(self, method: bytes, path: bytes, *lines: bytes, key: bytes = KEY) -> "Answer":
        """One request on a connection of its own."""
        async with self.caller() as caller:
            await caller.send(request(method, path, *lines, key=key))
            return await caller.answer(method)


def read_journal(folder: Path, state: SlotState = SlotState.COMPLETED) -> list[UsageEvent]:
    found = []
    for path in sorted(folder.glob("*.journal")):
        _, slots = read_segment(path.read_bytes())
        found += [slot.record for slot in slots if slot.state is state]
    return [record for record in found if record is not None]


def count_slots(folder: Path, state: SlotState) -> int:
    return sum(
        slot.state is state
        for path in sorted(folder.glob("*.journal"))
        for slot in read_segment(path.read_bytes())[1]
    )


def request(
    method: bytes, path: bytes, *lines: bytes, key: bytes | None = KEY, host: bytes = HOST
) -> bytes:
    """A request's head to the demo product; `path` with a leading `/api/` is taken as it is."""
    target = path if path.startswith(b"/api/") else b"/api/v1/demo" + path
    credential = [] if key is None else [b"Authorization: Bearer " + key]
    head = [b"%s %s HTTP/1.1" % (method, target), b"Host: " + host, *credential, *lines]
    return b"\r\n".join([*head, b"", b""])


@dataclass
class Answer:
    """An answer as read from the wire; `body` None when it was cut."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes | None
    raw: bytes

    def __getitem__(self, name: str) -> str:
        return next(value for key, value in self.fields if key == name)

    def has(self, name: str) -> bool:
        return any(key == name for key, _ in self.fields)

    @property
    def json(self) -> Any:
        assert self.body is not None
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


class Caller:
    """A caller's side of a connection, read strictly enough to see every fault."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, method: bytes = b"GET", seconds: float = 20) -> Answer:
        """The next final answer; interim ones come as answers too."""
        async with asyncio.timeout(seconds):
            raw = await self.reader.readuntil(b"\r\n\r\n")
            lines = raw.decode("latin-1").split("\r\n")
            fields = [
                (name.lower(), value.strip())
                for name, _, value in (line.partition(":") for line in lines[1:-2])
            ]
            answer = Answer(int(lines[0].split(" ")[1]), fields, b"", raw)
            if method != b"HEAD" and answer.status >= 200 and answer.status not in {204, 304}:
                answer.body = await self._body(answer)
            return answer

    async def _body(self, answer: Answer) -> bytes | None:
        try:
            if answer.has("content-length"):
                return await self.reader.readexactly(int(answer["content-length"]))
            if not answer.has("transfer-encoding"):
                return await self.reader.read()
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            return body
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def reset(self) -> None:
        """Leave without a good-bye."""
        option = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.writer.transport.abort()

    async def closed(self, seconds: float = 20) -> bool:
        """Whether the gate closes without a further byte."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@dataclass
class Seen:
    """A request as the upstream saw it."""

    head: bytes
    body: bytes
    connection: int
    complete: bool

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def fields(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        pairs = [line.partition(": ") for line in lines]
        assert len({name.lower() for name, _, _ in pairs}) == len(pairs), "a line came twice"
        return {name.lower(): value for name, _, value in pairs}


Script = Callable[["Upstream", Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A real server that records what it is asked and answers by a script, else an echo."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[Seen] = []
        self.connections = 0
        self.script: Script | None = None
        self.read_bodies = True
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.writers.append(writer)
        try:
            while await self._one(number, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        seen = Seen(await reader.readuntil(b"\r\n\r\n"), b"", number, complete=False)
        self.seen.append(seen)
        if self.read_bodies:
            await self.read_body(seen, reader)
        if self.script is not None:
            await self.script(self, seen, reader, writer)
            return not writer.is_closing()
        body = json.dumps({"line": seen.line, "body": seen.body.decode("latin-1")}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        if not seen.line.startswith("HEAD"):
            writer.write(body)
        await writer.drain()
        return True

    async def read_body(self, seen: Seen, reader: asyncio.StreamReader) -> None:
        if "content-length" in seen.fields:
            seen.body = await reader.readexactly(int(seen.fields["content-length"]))
        elif "transfer-encoding" in seen.fields:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                seen.body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        seen.complete = True

    def say(self, *pieces: bytes, close: bool = False) -> None:
        """From now on answer with these bytes."""

        async def script(
            _: Upstream, __: Seen, ___: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if close:
                writer.close()

        self.script = script


@contextlib.asynccontextmanager
async def open_upstream(
    socket_path: Path | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Upstream]:
    upstream = Upstream()
    if socket_path is not None:
        server = await asyncio.start_unix_server(upstream.serve, str(socket_path))
    else:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
        upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for writer in upstream.writers:
            writer.close()


@contextlib.asynccontextmanager
async def open_gate(
    folder: Path,
    upstream_port: int,
    *,
    gateways: int = 1,
    trusted: tuple[Any, ...] = (),
    tls: ssl.SSLContext | None = None,
    upstream_tls: ssl.SSLContext | None = None,
) -> AsyncIterator[OpenGate]:
    """A gate whose state is given by records, its leases by a bank in memory."""
    loop, house = asyncio.get_running_loop(), House()
    state = State(lambda sealed: sealed)
    leases = Leases(
        gateways,
        lambda standing, units: void(
            loop.call_soon(lambda: leases.answer(standing, house.lease(standing, units)))
        ),
        house.give_back,
    )
    lookups = KeyLookups(lambda digest: void(loop.call_soon(look_up, digest)))

    def look_up(digest: bytes) -> None:
        house.looked_up.append(digest)
        record = house.hidden_keys.get(digest)
        if record is not None:
            state.apply(10**6, "key", record["id"], record)
        lookups.answer(digest, found=None if house.gone else record is not None)

    journal = Journal(folder / "journal", UUID(int=99))
    suspects = Suspects(house.signs.append)
    gate = Gate(state, RateWindows(0, gateways), leases, lookups, journal, PEPPER, suspects)
    pool = Pool(LOOPBACK, upstream_tls)
    socket_path = str(folder / "api.sock")
    api = Place(False, "", 0, b"", b"", None, 2, 5, socket_path)
    door = Door(gate, pool, api, frozenset((HOST,)), trusted, tls=tls is not None)
    state.replace([])
    server = await loop.create_server(lambda: ClientConnection(door), "127.0.0.1", 0, ssl=tls)
    opened = OpenGate(server.sockets[0].getsockname()[1], gate, door, house)
    opened.feed("organization", {"id": str(ORGANIZATION), "status": "Active"})
    opened.feed("product", product_record(upstream_port))
    opened.feed("plan", plan_record())
    opened.feed("subscription", subscription_record())
    opened.feed("key", key_record(KEY))
    opened.feed("key", key_record(TEST_KEY))
    try:
        yield opened
    finally:
        server.close()
        for connection in list(door.connections):
            connection.cut()
        pool.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        journal.close()


def void(_: object) -> None:
    """Leave a value aside."""


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
