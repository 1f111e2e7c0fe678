# SPDX-License-Identifier: Apache-2.0
"""An ASGI wrapper that bounds what a request may bring."""

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOO_LARGE = json.dumps(
    {
        "type": "about:blank",
        "title": "Payload too large",
        "status": 413,
        "detail": "The body is larger than this API takes.",
    }
).encode()


class BodyLimit:
    """Answers 413 to a body of more than `bytes_max`, declared or streamed."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self.app = app
        self.bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        body = await self._body(receive)
        if body is None:
            await _refuse(send)
            return
        await self.app(scope, _replay(body), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, or None when it is too large."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.bytes_max:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def _replay(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


async def _refuse(send: Send) -> None:
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(TOO_LARGE)).encode()),
        (b"connection", b"close"),
    ]
    start: dict[str, Any] = {"type": "http.response.start", "status": 413, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": TOO_LARGE})
