# SPDX-License-Identifier: Apache-2.0
"""Every refusal Nimbus can answer, in one place.

    Refusal                      carries code, status, error (for people), detail, fields
    ├── field_error(...)         one 422 with one field
    └── CATALOGUE                code → Entry(status, title, error)

A refusal is expected: it is an answer, not a crash. `base.web` renders it as an RFC 9457
problem document; the gateway renders the same codes from bytes it encoded beforehand. The
codes are stable: programs depend on them. Sources: spec 08 "Errors users will look for".
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """What a code means: the HTTP status, the problem's title, the short text for people."""

    status: int
    title: str
    error: str


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field of what came in; `field` is a dotted path."""

    field: str
    code: str
    message: str


def _same(status: int, text: str) -> Entry:
    return Entry(status, text, text)


CATALOGUE: dict[str, Entry] = {
    "malformed_request": _same(400, "Malformed request"),
    "missing_parameter": _same(400, "Missing parameter"),
    "invalid_url": _same(400, "Invalid URL"),
    "invoice_finalized": _same(400, "Invoice already finalized"),
    "ambiguous_credentials": _same(400, "Ambiguous credentials"),
    "missing_api_key": _same(401, "API key missing"),
    "invalid_api_key": _same(401, "Invalid API key"),
    "api_key_revoked": _same(401, "API key revoked"),
    "api_key_expired": _same(401, "API key expired"),
    "unauthenticated": _same(401, "Sign-in required"),
    "payment_failed": _same(402, "Payment failed"),
    "balance_exhausted": _same(402, "Balance exhausted"),
    "subscription_required": _same(403, "Subscription required"),
    "subscription_suspended": _same(403, "Subscription suspended"),
    "organization_suspended": _same(403, "Organization suspended"),
    "plan_required": _same(403, "Higher plan required"),
    "insufficient_scope": _same(403, "Insufficient scope"),
    "ip_not_allowed": _same(403, "Address not allowed"),
    "forbidden": _same(403, "Not allowed"),
    "not_found": _same(404, "Not found"),
    "route_not_found": _same(404, "Route not found"),
    "method_not_allowed": _same(405, "Method not allowed"),
    "request_timeout": _same(408, "Request timeout"),
    "stale_version": _same(409, "Changed by someone else"),
    "idempotency_in_flight": _same(409, "The same request is still running"),
    "no_test_clock": _same(409, "No test clock"),
    "payload_too_large": _same(413, "Payload too large"),
    "uri_too_long": _same(414, "URI too long"),
    "unsupported_media_type": _same(415, "Unsupported media type"),
    "expectation_failed": _same(417, "Expectation failed"),
    "unknown_host": _same(421, "Unknown host"),
    "validation_failed": _same(422, "Validation failed"),
    "idempotency_conflict": _same(422, "Idempotency key used for another request"),
    "clock_backwards": _same(422, "The clock only goes forward"),
    "rate_limited": Entry(429, "Too many requests", "Rate limit exceeded"),
    "quota_exceeded": _same(429, "Quota exceeded"),
    "spend_limit_reached": _same(429, "Spend limit reached"),
    "headers_too_large": _same(431, "Headers too large"),
    "internal": _same(500, "Internal error"),
    "not_implemented": _same(501, "Not implemented"),
    "upstream_unreachable": _same(502, "Upstream unreachable"),
    "unavailable": _same(503, "Temporarily unavailable"),
    "upstream_timeout": _same(504, "Upstream timeout"),
    "version_not_supported": _same(505, "HTTP version not supported"),
}


def problem_type(code: str) -> str:
    """The problem's `type`: the registered one for a quota (IETF RateLimit draft), else ours."""
    if code == "quota_exceeded":
        return "https://iana.org/assignments/http-problem-types#quota-exceeded"
    return f"/api/docs/errors#{code}"


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not an error of ours
    """An answer other than yes.

    `code` is a key of CATALOGUE. `detail` is a sentence safe for strangers: no secret, no other
    tenant's data, no echo of hostile input. `fields` name what was wrong (422). `headers` go out
    with the answer (`Retry-After`, `Allow`).
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        fields: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        self.entry = CATALOGUE[code]
        self.code = code
        self.detail = detail
        self.fields = fields
        self.headers = headers or {}
        super().__init__(f"{code}: {detail}" if detail else code)


def field_error(field: str, code: str, message: str) -> Refusal:
    """A 422 `validation_failed` that names one field."""
    return Refusal("validation_failed", message, fields=(FieldError(field, code, message),))
