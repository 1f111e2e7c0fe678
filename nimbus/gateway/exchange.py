# SPDX-License-Identifier: Apache-2.0
"""One request on its way to an upstream and its answer on its way back.

The same streaming serves metered calls and the management API; what differs is which header
lines pass, and that a call's journal slot is completed before its last byte is handed to the
client's socket. Each direction holds at most what one read brought plus PENDING bytes: a sink
that queues pauses its source.
"""

from decimal import Decimal
from typing import Final, Protocol

from nimbus.base.log import get_logger
from nimbus.errors import CATALOGUE
from nimbus.gateway.call import CLIENT_GONE, CLIENT_GONE_CODE, Call, answer_fields
from nimbus.gateway.forward import Pool, UpstreamConnection
from nimbus.gateway.head import Field, RequestHead, ResponseHead
from nimbus.gateway.respond import Pair
from nimbus.gateway.upstream import Upstream
from nimbus.rules.metering import parse_meters

log = get_logger("gateway.exchange")

PENDING: Final = 65_536
_RETRYABLE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
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
_USAGE = b"x-nimbus-usage"
_SANDBOX: Final[list[Pair]] = [
    (b"Content-Security-Policy", b"sandbox; default-src 'none'"),
    (b"X-Content-Type-Options", b"nosniff"),
]


class Client(Protocol):
    """The caller's connection, as an exchange sees it."""

    request_id: str
    forwarded: list[Pair]

    def write(self, data: bytes) -> None:
        """Send a part of the answer."""

    def refuse(self, code: str, *, close: bool) -> None:
        """Answer with a problem; nothing of an answer was sent before."""

    def finished(self, *, keep_alive: bool) -> None:
        """The answer is complete."""

    def cut(self) -> None:
        """Close at once, so that the caller can tell that the answer is not whole."""

    def hold(self, *, paused: bool) -> None:
        """Read no more of the request's body for now, or read on."""


class ClientExchange:
    """Streams one request and its answer; `call` is None for the management API."""

    __slots__ = (
        "_chunked",
        "_client",
        "_connection",
        "_head",
        "_keep_alive",
        "_out",
        "_pending",
        "_pending_bytes",
        "_pool",
        "_request",
        "_sent_head",
        "_upstream",
        "call",
        "method",
        "over",
        "request_sent",
        "retryable",
    )

    def __init__(
        self,
        client: Client,
        pool: Pool,
        upstream: Upstream,
        request: RequestHead,
        call: Call | None,
    ) -> None:
        self.call = call
        self.method = request.method
        self.retryable = request.method in _RETRYABLE and not request.has_body
        self.request_sent = not request.has_body
        self.over = False
        self._client = client
        self._pool = pool
        self._upstream = upstream
        self._request = request
        self._connection: UpstreamConnection | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._head: ResponseHead | None = None
        self._sent_head = False
        self._chunked = False
        self._keep_alive = request.keep_alive
        self._out: list[bytes] = []

    def start(self) -> None:
        """Ask for a connection; the rest happens as bytes come."""
        self._pool.send(self, self._upstream)

    # What the client's side calls.

    def request_data(self, piece: bytes, *, last: bool) -> None:
        """A piece of the request's payload; `last` when the body is complete with it."""
        if self.over:
            return
        if self.call is not None:
            self.call.bytes_in += len(piece)
        if self._request.length is None:
            chunk = b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b""
            piece = chunk + b"0\r\n\r\n" if last else chunk
        self.request_sent = last
        if self._connection is not None:
            self._connection.write(piece)
        elif piece:
            self._pending.append(piece)
            self._pending_bytes += len(piece)
            if self._pending_bytes > PENDING:
                self._client.hold(paused=True)

    def request_broken(self, code: str) -> None:
        """The rest of the request can't be had: its body is malformed, cut or too slow. The
        upstream must not take what it got for the whole.
        """
        if self.over:
            return
        self._end(CATALOGUE[code].status, served=False, code=code)
        if self._sent_head:
            self._client.cut()
        else:
            self._client.refuse(code, close=True)

    def client_gone(self) -> None:
        """The caller's connection is lost. What the upstream has answered by then counts."""
        if not self.over:
            status = CLIENT_GONE if self._head is None else self._head.status
            self._end(status, served=self._head is not None, code=CLIENT_GONE_CODE)

    def client_writable(self, *, writable: bool) -> None:
        """Whether more of the answer should be written now."""
        if self._connection is not None and not self.over:
            self._connection.resume() if writable else self._connection.pause()

    # What the upstream's side calls.

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """Send the request's head, and the body as far as it has come."""
        self._connection = connection
        if self.call is not None:
            self.call.forwarded = True
        connection.write(self._request_head() + b"".join(self._pending))
        if self._pending_bytes > PENDING:
            self._client.hold(paused=False)
        self._pending.clear()
        self._pending_bytes = 0

    def upstream_head(self, head: ResponseHead) -> None:
        """Translate the answer's head; it leaves with the first bytes of the body."""
        self._head = head
        if self.call is not None:
            self.call.upstream_answered()
            self.call.meters = _reported(head, self.call)
        if not self.request_sent:
            self._keep_alive = False  # an early answer: the rest of the body is not wanted
        self._out.append(self._answer_head(head))

    def upstream_data(self, piece: bytes, *, last: bool) -> None:
        """Pass a piece of the answer on; before the last one the call is completed."""
        head = self._head
        assert head is not None
        if piece:
            self._out.append(b"%x\r\n%s\r\n" % (len(piece), piece) if self._chunked else piece)
            if self.call is not None:
                self.call.bytes_out += len(piece)
        if not last:
            return
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self._connection = None
        self._end(head.status, served=True)
        self.upstream_flush()
        self._client.finished(keep_alive=self._keep_alive)

    def upstream_flush(self) -> None:
        """Hand over what has come."""
        if self._out:
            out, self._out = b"".join(self._out), []
            self._sent_head = True
            self._client.write(out)

    def upstream_failed(self, code: str) -> None:
        """No answer, or one that breaks off: never billed. The caller hears of it, or sees the
        answer cut.
        """
        if self.over:
            return
        self._connection = None
        if self.call is None:
            code = "unavailable"
        self._end(CATALOGUE[code].status, served=False, code=code)
        if self._sent_head:
            self._client.cut()
        else:
            self._client.refuse(code, close=not self.request_sent or not self._keep_alive)

    def upstream_writable(self, *, writable: bool) -> None:
        """Pass the upstream's pace on to the caller."""
        self._client.hold(paused=not writable)

    def _end(self, status: int, *, served: bool, code: str = "") -> None:
        self.over = True
        if self.call is not None:
            self.call.complete(status, served=served, code=code)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._pool.cancel(self)

    def _request_head(self) -> bytes:
        request, call = self._request, self.call
        if call is None:
            path, query = request.path, request.query
            pairs = _passed(request.fields, request.connection, _OURS, _OURS_PREFIXES)
            pairs.insert(0, (b"Host", request.values(b"host")[0]))
            # The one name of ours that a browser may say: no foreign page can make it.
            pairs += [(b"X-Nimbus-CSRF", value) for value in request.values(b"x-nimbus-csrf")]
        else:
            path = self._upstream.base_path + call.admission.located.match.upstream_path
            query = call.admission.located.query
            pairs = [(b"Host", self._upstream.authority)]
            pairs += _caller_fields(request, self._upstream)
            pairs += _identity(call)
        pairs += self._client.forwarded
        if request.length is None:
            pairs.append((b"Transfer-Encoding", b"chunked"))
        elif request.length or request.method in {b"POST", b"PUT", b"PATCH"}:
            pairs.append((b"Content-Length", b"%d" % request.length))
        target = path if query is None else path + b"?" + query
        lines = b"".join([b"%s: %s\r\n" % pair for pair in pairs])
        return b"%s %s HTTP/1.1\r\n%s\r\n" % (request.method, target, lines)

    def _answer_head(self, head: ResponseHead) -> bytes:
        bodiless = self.method == b"HEAD" or head.status in {204, 304}
        if self.call is None:
            pairs = _passed(head.fields, head.connection, _NOT_FROM_API, ())
        else:
            pairs = _passed(
                head.fields,
                head.connection,
                _NOT_FROM_UPSTREAMS,
                _NOT_FROM_UPSTREAMS_PREFIXES,
            )
            pairs += _SANDBOX
            pairs += answer_fields(self.call.gate, self.call.admission)
        pairs.append((b"X-Request-Id", self._client.request_id.encode()))
        if bodiless and head.status != 204:
            pairs += [(name, value) for low, name, value in head.fields if low == b"content-length"]
        elif not bodiless and head.length is not None:
            pairs.append((b"Content-Length", b"%d" % head.length))
        elif not bodiless and self._request.minor == 1:
            self._chunked = True
            pairs.append((b"Transfer-Encoding", b"chunked"))
        elif not bodiless:
            self._keep_alive = False
        if not self._keep_alive:
            pairs.append((b"Connection", b"close"))
        lines = b"".join([b"%s: %s\r\n" % pair for pair in pairs])
        return b"HTTP/1.1 %d %s\r\n%s\r\n" % (head.status, head.reason, lines)


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


def _caller_fields(request: RequestHead, upstream: Upstream) -> list[Pair]:
    passed = _passed(request.fields, request.connection, _NOT_FOR_UPSTREAMS, _OURS_PREFIXES)
    if upstream.auth is None:
        return passed
    name = upstream.auth[0].lower()
    return [pair for pair in passed if pair[0].lower() != name] + [upstream.auth]


def _identity(call: Call) -> list[Pair]:
    """Who calls, in the gateway's words. Source: spec 03 step 9."""
    subscription = call.admission.subscription
    return [
        (b"X-Nimbus-Organization", str(subscription.organization_id).encode()),
        (b"X-Nimbus-Subscription", str(subscription.id).encode()),
        (b"X-Nimbus-Plan", subscription.plan.slug.encode()),
    ]


def _reported(head: ResponseHead, call: Call) -> tuple[tuple[str, Decimal], ...]:
    """What the upstream reports as used; nothing, and a warning, when it can't be read."""
    lines = [value for lower, _, value in head.fields if lower == _USAGE]
    if not lines:
        return ()
    meters = parse_meters(b",".join(lines))
    if meters is None:
        product, request_id = call.admission.located.product, call.admission.located.request_id
        log.warning("unreadable_usage", product=product.slug, request_id=request_id)
        return ()
    return meters
