# SPDX-License-Identifier: Apache-2.0
"""Heads as they are passed on: which lines go to an upstream or the API and which come back, and
what the gateway says itself. What is the same for many calls is made once, and kept with what was
read (`Block.made`, `ResponseHead.made`).
"""

from typing import Final, Protocol

from nimbus.gateway import websocket
from nimbus.gateway.call import Call
from nimbus.gateway.head import Block, Field, RequestHead, ResponseHead
from nimbus.gateway.origin import Origin, trace_line
from nimbus.gateway.permit import Permit
from nimbus.gateway.route import Match

Pair = tuple[bytes, bytes]
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# What a caller may not say to anyone behind us: we say it, or nobody does.
_OURS = _HOP_BY_HOP | {
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"traceparent",
    b"x-original-url",
    b"x-real-ip",
    b"x-request-id",
    b"x-rewrite-url",
}
_OURS_PREFIXES = (b"x-forwarded-", b"x-nimbus-")
# Credentials of the caller, and ways to smuggle another method past the route.
_NOT_FOR_UPSTREAMS = _OURS | {
    b"authorization",
    b"cookie",
    b"proxy",
    b"x-api-key",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
}
_NOT_BACK = _HOP_BY_HOP | {b"content-length", b"x-request-id"}
_NOT_FROM_API = _NOT_BACK | {b"server"}  # which server it is made with is nobody's business
# Upstreams answer on the portal's own address: nothing of theirs may change the portal's state
# in a browser, nor speak in the gateway's name.
_NOT_FROM_UPSTREAMS = _NOT_BACK | {
    b"alt-svc",
    b"clear-site-data",
    b"content-security-policy",
    b"ratelimit",
    b"ratelimit-limit",
    b"ratelimit-policy",
    b"ratelimit-remaining",
    b"ratelimit-reset",
    b"service-worker-allowed",
    b"set-cookie",
    b"strict-transport-security",
    b"x-content-type-options",
}
_NOT_FROM_UPSTREAMS_PREFIXES = (b"x-nimbus-", b"x-quota-")
USAGE = b"x-nimbus-usage"
_SANDBOX: Final = (
    b"Content-Security-Policy: sandbox; default-src 'none'\r\nX-Content-Type-Options: nosniff\r\n"
)
# Under which names a block or an answer's head keeps what was made of it here.
_FROM_API, FROM_UPSTREAM = b"api", b"upstream"
UNREPORTED: Final = b"unreported"  # the same, where the upstream reports nothing as used


class Caller(Protocol):
    """Whose request it is."""

    request_id: bytes
    origin: Origin


def start_for_upstream(
    request: RequestHead, permit: Permit, match: Match, query: bytes | None
) -> bytes:
    """What the upstream is asked: what passes of the caller's lines, and those of ours that are
    the same whenever this permit's caller asks this.
    """
    block, line = request.block, request.line
    lines = block.made.get(permit.auth)
    if lines is None:
        lines = block.made[permit.auth] = _caller_lines(block, permit.auth)
    return b"%b%b%b%b%b%b%b" % (
        line.method,
        permit.base_path,
        match.upstream_path,
        b"" if query is None else b"?" + query,
        permit.head,
        lines,
        websocket.LINES if block.websocket else _body_line(block.length, line.method),
    )


def head_for_upstream(request: RequestHead, call: Call) -> bytes:
    return b"%b%bX-Request-Id: %b\r\n%b\r\n" % (
        start_for_upstream(request, call.permit, call.match, call.query),
        call.origin.lines,
        call.request_id,
        request.block.trace or trace_line(call.request_id),
    )


def head_for_api(request: RequestHead, client: Caller) -> bytes:
    """What the management API is asked, with the caller's credentials and all it may say."""
    block, line = request.block, request.line
    passed = _passed(block.fields, block.connection, _OURS, _OURS_PREFIXES)
    # The one name of ours that a browser may say: no foreign page can make it.
    passed += [(b"X-Nimbus-CSRF", value) for value in block.values(b"x-nimbus-csrf")]
    target = line.path if line.query is None else line.path + b"?" + line.query
    credential = b""
    if request.secret is not None and not _is_named(request.prefix, block.connection):
        credential = request.prefix[2:] + request.secret + b"\r\n"
    return b"".join(
        (
            b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (line.method, target, block.authority),
            credential,
            _lines(passed),
            b"X-Forwarded-Host: %s\r\n" % block.authority,
            client.origin.lines,
            b"X-Request-Id: %s\r\n" % client.request_id,
            block.trace or trace_line(client.request_id),
            _body_line(block.length, line.method),
            b"\r\n",
        )
    )


def _is_named(prefix: bytes, connection: frozenset[bytes]) -> bool:
    """Whether Connection names the line of a credential, which then ends here."""
    return bool(connection) and prefix[2:].partition(b":")[0].lower() in connection


def _caller_lines(block: Block, auth: bytes) -> bytes:
    """What an upstream hears of the caller's lines; `auth` names its own credentials."""
    passed = _passed(block.fields, block.connection, _NOT_FOR_UPSTREAMS, _OURS_PREFIXES)
    kept = [pair for pair in passed if pair[0].lower() != auth]
    return _lines([*kept, (b"X-Forwarded-Host", block.authority)])


def _body_line(length: int | None, method: bytes) -> bytes:
    """The framing of the request's body."""
    if length is None:
        return b"Transfer-Encoding: chunked\r\n"
    if length or method in _WITH_BODY:
        return b"Content-Length: %d\r\n" % length
    return b""


_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


def start_from_upstream(head: ResponseHead) -> bytes:
    """The answer's status line and header lines, but for those about this one call; and aside
    what the upstream reports as used.
    """
    passed = _passed(
        head.fields, head.connection, _NOT_FROM_UPSTREAMS, _NOT_FROM_UPSTREAMS_PREFIXES
    )
    usage = [value for lower, _, value in head.fields if lower == USAGE]
    head.made[USAGE] = b",".join(usage)
    start = head.made[FROM_UPSTREAM] = _start(head, passed) + _SANDBOX
    if not usage:
        head.made[UNREPORTED] = start
    return start


def start_from_api(head: ResponseHead) -> bytes:
    """The same of an answer of the management API."""
    start = head.made.get(_FROM_API)
    if start is None:
        passed = _passed(head.fields, head.connection, _NOT_FROM_API, ())
        start = head.made[_FROM_API] = _start(head, passed)
    return start


def _start(head: ResponseHead, passed: list[Pair]) -> bytes:
    if head.status != 204:
        passed += [
            (name, b"%d" % int(value))
            for lower, name, value in head.fields
            if lower == b"content-length"
        ]
    return b"HTTP/1.1 %d %s\r\n%s" % (head.status, head.reason, _lines(passed))


def _lines(pairs: list[Pair]) -> bytes:
    return b"".join([b"%s: %s\r\n" % pair for pair in pairs])


def _passed(
    fields: tuple[Field, ...],
    connection: frozenset[bytes],
    dropped: frozenset[bytes],
    prefixes: tuple[bytes, ...],
) -> list[Pair]:
    """The lines that pass: not ours to say, not named by Connection. An underscore counts as a
    hyphen, because some servers read it so.
    """
    return [
        (name, value)
        for lower, name, value in fields
        if (plain := lower.replace(b"_", b"-")) not in dropped
        and not plain.startswith(prefixes)
        and lower not in connection
    ]
