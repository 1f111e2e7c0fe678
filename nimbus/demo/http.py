# SPDX-License-Identifier: Apache-2.0
"""How the demo speaks HTTP: the management API as a patient client, the gateway as a busy one.

Both go through the front door like anybody. A connection that breaks (a process was killed) is
tried again; a call that was not answered may or may not have been served, so the busy client
answers only what it was answered, and the story asks the counter what is still missing.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from nimbus.base import clock
from nimbus.base.ids import new_id

PATIENCE_SECONDS = 90.0
PAUSE_SECONDS = 0.2
AGAIN = {502, 503, 504}


class DemoError(Exception):
    """The system answered what the story does not expect; the message shows the answer."""


class Api:
    """The management API for one person or for nobody; asks again while a part restarts."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._client = httpx2.AsyncClient(base_url=url, timeout=60.0, trust_env=False)
        self.token = token

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def get(self, path: str, *expected: int) -> Any:
        """The JSON (or bytes) of a GET; raises `DemoError` for another status than expected."""
        return await self._ask("GET", path, None, expected or (200,))

    async def post(self, path: str, body: dict[str, Any], *expected: int) -> Any:
        """The JSON of a POST under an idempotency key of its own."""
        return await self._ask("POST", path, body, expected or (200, 201, 202, 204))

    async def put(self, path: str, body: dict[str, Any], *expected: int) -> Any:
        """The JSON of a PUT."""
        return await self._ask("PUT", path, body, expected or (200, 204))

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, expected: tuple[int, ...]
    ) -> Any:
        headers = {"Idempotency-Key": str(new_id())} if method == "POST" else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        deadline = clock.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = await self._client.request(method, path, json=body, headers=headers)
            except httpx2.TransportError as error:
                if clock.monotonic() > deadline:
                    raise DemoError(f"{method} {path}: {error!r}") from None
            else:
                if answer.status_code in expected:
                    return _content(answer)
                if answer.status_code not in AGAIN or clock.monotonic() > deadline:
                    raise DemoError(f"{method} {path}: {answer.status_code} {answer.text[:600]}")
            await asyncio.sleep(PAUSE_SECONDS)


def _content(answer: httpx2.Response) -> Any:
    if not answer.content:
        return None
    kind = answer.headers.get("content-type", "")
    return answer.json() if "json" in kind else answer.content


@dataclass(slots=True)
class Tally:
    """What the busy client was answered."""

    answered: int = 0
    slowed_down: int = 0
    unanswered: int = 0
    request_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the product: method, path below the product, JSON body."""

    method: str
    path: str
    body: dict[str, Any] | None = None


class Caller:
    """A program that calls the product through the gateway over kept-alive connections."""

    def __init__(self, url: str, product: str, secret: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._prefix = f"/api/v1/{product}"
        self._authority = parts.netloc
        self._secret = secret
        self.tally = Tally()

    async def run(
        self, calls: Iterator[Call], connections: int, progress: Callable[[Tally], None]
    ) -> None:
        """Make all calls over `connections` at once; each is tried until it is answered 2xx."""
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._work(calls, progress))

    async def one(self, call: Call) -> Any:
        """Make one call and answer its JSON; a 4xx raises `DemoError`."""
        answers: list[bytes] = []
        await self._work(iter([call]), lambda _: None, answers)
        try:
            return json.loads(answers[0])
        except ValueError:
            return answers[0]

    async def _work(
        self,
        calls: Iterator[Call],
        progress: Callable[[Tally], None],
        answers: list[bytes] | None = None,
    ) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        deadline = clock.monotonic() + PATIENCE_SECONDS
        for call in calls:
            while True:
                try:
                    if connection is None:
                        connection = await asyncio.open_connection(self._host, self._port)
                    status, headers, body = await self._exchange(*connection, call)
                except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                    if connection is not None:
                        connection[1].close()
                    connection = None
                    self.tally.unanswered += 1
                    if call.method != "GET" or clock.monotonic() > deadline:
                        raise DemoError(f"{call.method} {call.path}: {error!r}") from None
                    await asyncio.sleep(PAUSE_SECONDS)
                    break  # it may have been served: the counter decides whether one is missing
                if 200 <= status < 300:
                    deadline = clock.monotonic() + PATIENCE_SECONDS
                    self._count(headers, body, answers)
                    progress(self.tally)
                    break
                if status not in {429, *AGAIN}:
                    raise DemoError(f"{call.method} {call.path}: {status} {body[:600]!r}")
                self.tally.slowed_down += status == 429
                await asyncio.sleep(float(headers.get("retry-after", PAUSE_SECONDS)))
                if headers.get("connection") == "close":
                    connection[1].close()
                    connection = None
        if connection is not None:
            connection[1].close()

    def _count(self, headers: dict[str, str], body: bytes, answers: list[bytes] | None) -> None:
        self.tally.answered += 1
        self.tally.request_ids.append(headers["x-request-id"])
        if answers is not None:
            answers.append(body)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, call: Call
    ) -> tuple[int, dict[str, str], bytes]:
        content = b"" if call.body is None else json.dumps(call.body).encode()
        lines = [
            f"{call.method} {self._prefix}{call.path} HTTP/1.1",
            f"Host: {self._authority}",
            f"Authorization: Bearer {self._secret}",
        ]
        if content:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:])
        }
        if headers.get("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split(" ")[1]), headers, body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)
