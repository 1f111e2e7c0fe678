# SPDX-License-Identifier: Apache-2.0
"""Answers the gateway gives by itself: problem documents, and what it adds to an upstream's.

A refusal without details is two pieces of bytes made when the process starts, with the request
id between them. Codes, statuses and texts are those of `nimbus.errors`; the shape is that of
spec 11 §6, the same that the management API renders.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from nimbus.base import clock
from nimbus.errors import CATALOGUE, problem_type
from nimbus.rules.limits import SECOND, Rate

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MARK = "00000000-0000-0000-0000-000000000000"
_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer is no: a code of spec 08, a sentence for strangers, further header lines."""

    code: str
    detail: str = ""
    lines: bytes = b""


def _document(code: str, detail: str) -> bytes:
    entry = CATALOGUE[code]
    content = {
        "type": problem_type(code),
        "title": entry.title,
        "status": entry.status,
        "detail": detail or entry.error,
        "instance": f"urn:uuid:{_MARK}",
        "error": entry.error,
        "code": code,
        "request_id": _MARK,
        "errors": [],
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _start(code: str, length: int) -> bytes:
    status = CATALOGUE[code].status
    challenge = 'WWW-Authenticate: Bearer realm="api"\r\n' if status == 401 else ""
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {length}\r\n"
        f"Cache-Control: no-store\r\n{challenge}"
        f"X-Request-Id: {_MARK}\r\n"
    ).encode()


def _encode(code: str, detail: str) -> tuple[bytes, bytes]:
    document = _document(code, detail)
    return _start(code, len(document)), document


_READY = {code: _encode(code, "") for code in CATALOGUE}
_MARK_BYTES = _MARK.encode()


def refusal(
    refused: Refused, request_id: bytes, *, close: bool = False, head_only: bool = False
) -> bytes:
    """A whole refusal: `close` when the connection ends after it, `head_only` in answer to HEAD."""
    code, detail = refused.code, refused.detail
    start, document = _encode(code, detail) if detail else _READY[code]
    parts = [start.replace(_MARK_BYTES, request_id), date_line(), refused.lines]
    parts.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
    if not head_only:
        parts.append(document.replace(_MARK_BYTES, request_id))
    return b"".join(parts)


def policy_line(rates: Iterable[tuple[str, Rate]]) -> bytes:
    """RateLimit-Policy: the names and the whole installation's rates. Source: IETF draft 11 of
    the RateLimit fields.
    """
    policies = [f'"{name}";q={rate.amount};w={rate.period_s}' for name, rate in rates]
    return f"RateLimit-Policy: {', '.join(policies)}\r\n".encode() if policies else b""


def rate_template(names: Iterable[str]) -> bytes:
    """RateLimit, with two places for each limit: calls that remain, and seconds for which that
    holds (see `rules.limits.promise`).
    """
    states = [b'"%s";r=%%d;t=%%d' % name.encode() for name in names]
    return b"RateLimit: %s\r\n" % b", ".join(states) if states else b""


def quota_lines(limit: int, resets_at: datetime) -> bytes:
    """X-Quota-Limit (units) and X-Quota-Reset (RFC 3339, business time), and the beginning of
    X-Quota-Remaining.
    """
    reset = clock.to_wire(resets_at).encode()
    return b"X-Quota-Limit: %d\r\nX-Quota-Reset: %s\r\nX-Quota-Remaining: " % (limit, reset)


def retry_after(pause_seconds: int) -> bytes:
    """The Retry-After line in whole seconds, at least one."""
    return b"Retry-After: %d\r\n" % max(1, pause_seconds)


def seconds(microseconds: int) -> int:
    """Whole seconds, rounded up, so that who waits them out is not too early."""
    return -(-microseconds // SECOND)


_date: tuple[int, bytes] = (0, b"")


def date_line() -> bytes:
    """The Date header line, made once a second."""
    global _date  # noqa: PLW0603 - one clock a process
    now = clock.machine_now()
    second = int(now.timestamp())
    if _date[0] != second:
        _date = second, f"Date: {format_datetime(now, usegmt=True)}\r\n".encode()
    return _date[1]
