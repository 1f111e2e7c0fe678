# SPDX-License-Identifier: Apache-2.0
"""The WebSocket handshake: what is asked and what is answered has to fit (RFC 6455)."""

import pytest

from nimbus.gateway.head import HeadReader, RequestHead, ResponseHead, read_response
from nimbus.gateway.websocket import accept_of, handshake_fault, has_switched

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
ASKED = (
    b"GET /chat HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
)


def request(data: bytes) -> RequestHead:
    reader = HeadReader()
    reader.buffer += data
    head = reader.next()
    assert head is not None
    return head


def answer(data: bytes) -> ResponseHead:
    head = read_response(bytearray(data), b"GET")
    assert head is not None
    return head


def test_the_example_of_the_standard_opens_a_websocket() -> None:
    assert accept_of(KEY) == ACCEPT
    asked = request(ASKED)
    assert asked.block.websocket
    assert not handshake_fault(asked)
    assert has_switched(answer(SWITCHED), asked.block)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET", b"HEAD"),
        (b"HTTP/1.1\r\nHost", b"HTTP/1.0\r\nHost"),
        (b"Connection: Upgrade\r\n", b""),
        (b"Connection: Upgrade", b"Connection: close"),
        (b"Version: 13", b"Version: 8"),
        (b"Sec-WebSocket-Version: 13\r\n", b""),
        (b"Sec-WebSocket-Key: " + KEY + b"\r\n", b""),
        (KEY, b"c2hvcnQ="),
        (KEY, b"dGhlIHNhbXBsZSBub25jZ!=="),
        (KEY + b"\r\n", KEY + b"\r\nSec-WebSocket-Key: " + KEY + b"\r\n"),
        (b"Version: 13", b"Version: 13\r\nContent-Length: 1"),
    ],
)
def test_another_handshake_is_none_and_says_why(old: bytes, new: bytes) -> None:
    assert handshake_fault(request(ASKED.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"101 Switching Protocols", b"200 OK"),
        (b"Connection: Upgrade\r\n", b""),
        (b"Upgrade: websocket\r\n", b""),
        (b"websocket", b"h2c"),
        (ACCEPT, accept_of(b"another key")),
        (b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n", b""),
    ],
)
def test_an_answer_that_does_not_fit_opens_nothing(old: bytes, new: bytes) -> None:
    assert not has_switched(answer(SWITCHED.replace(old, new, 1)), request(ASKED).block)
