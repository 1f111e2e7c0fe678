# SPDX-License-Identifier: Apache-2.0
"""The WebSocket handshake, on both sides; after it both send bytes as they like.

The gate checks the handshake, so that it never relays bytes of which a caller and an upstream
think differently, and reads no frame: it counts bytes. Source: RFC 6455 section 4.
"""

import binascii
from base64 import b64decode, b64encode
from hashlib import sha1
from typing import Final

from nimbus.gateway.head import Block, RequestHead, ResponseHead

METER: Final = "websocket_bytes"
"""What a connection carries both ways, for products that have a meter of this name."""

LINES: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY, _ACCEPT = b"sec-websocket-key", b"sec-websocket-accept"


def handshake_fault(head: RequestHead) -> str:
    """What is wrong with a request for a WebSocket, as a sentence for its sender; "" if nothing."""
    block = head.block
    if head.line.method != b"GET" or head.line.minor != 1 or block.length != 0:
        return "A WebSocket begins with a GET of HTTP/1.1 without a body."
    if b"upgrade" not in block.connection:
        return "Connection does not say Upgrade."
    if block.values(b"sec-websocket-version") != [b"13"]:
        return "Sec-WebSocket-Version has to be 13."
    keys = block.values(_KEY)
    if len(keys) != 1 or not _is_key(keys[0]):
        return "Sec-WebSocket-Key has to be 16 bytes in base64."
    return ""


def has_switched(head: ResponseHead, block: Block) -> bool:
    """Whether this answer opens the WebSocket that was asked for."""
    upgrades = [value.lower() for lower, _, value in head.fields if lower == b"upgrade"]
    accepted = [value for lower, _, value in head.fields if lower == _ACCEPT]
    return (
        head.status == 101
        and upgrades == [b"websocket"]
        and b"upgrade" in head.connection
        and accepted == [accept_of(block.values(_KEY)[0])]
    )


def accept_of(key: bytes) -> bytes:
    """The proof that a server has read a key: dGhlIHNhbXBsZSBub25jZQ== →
    s3pPLMBiTxaQ9kYGzzhZRbK+xOo=.
    """
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def _is_key(text: bytes) -> bool:
    try:
        return len(text) == 24 and len(b64decode(text, validate=True)) == 16
    except binascii.Error:
        return False
