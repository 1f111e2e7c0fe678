# SPDX-License-Identifier: Apache-2.0
"""The global rules that hold for every case, whatever its own outcomes say.

G1 to G6 are functions of what happened; each gives the sentences of what is broken. G7 (time) is
only reported. G8 (splits) and G9 (repetition) are more runs of the case: see run.py.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from tools.corpus.accept import Seen
from tools.corpus.wire import Message, faults_of

ECHO_LENGTH: Final = 12  # so many bytes of the input in a refusal are an echo of it
_TRACE = re.compile(rb"Traceback|File \"|line [0-9]+, in |\.py\b|Error:|Exception")
_VERSION = re.compile(rb"(?i)(nimbus|python|uvloop|cpython|asyncio)[/ ]?v?[0-9]+\.[0-9]")
# Words of HTTP that a sentence about a request may hold, and that requests hold as well.
_VOCABULARY = re.compile(
    rb"(?i)content-length|transfer-encoding|transfer coding|100-continue|authorization|connection"
    rb"|x-api-key|request|http/1\.[01]|websocket"
)
_KEY = re.compile(rb"nimbus_(?:live|test)_[0-9A-Za-z]{20}")
_CONTROL = re.compile(rb"[\0-\x09\x0b-\x1f\x7f]")


def own_ids_and_events(seen: Seen, outcome: Mapping[str, Any]) -> list[str]:
    """G1: an own id on everything the upstream saw, an authenticated caller, one event each."""
    broken = []
    asked = Counter(received.request_id for received in seen.requests)
    written = Counter(event.request_id for event in seen.events or ())
    for received in seen.requests:
        if not _is_uuid(received.request_id) or len(received.message.values("x-request-id")) != 1:
            broken.append(f"G1: the upstream saw the request id {received.request_id!r}")
        if len(received.message.values("x-nimbus-organization")) != 1:
            broken.append("G1: the upstream saw a request that was not authenticated")
    if any(count > 1 for count in written.values()):
        broken.append("G1: two usage events of one request")
    exact = isinstance(outcome.get("usage_events"), int | str)
    if exact and asked.keys() - written.keys():
        broken.append("G1: the upstream saw a request without a usage event")
    if written.keys() - asked.keys():
        broken.append("G1: a usage event of a request that the upstream never saw")
    return broken


def upstream_bytes(seen: Seen) -> list[str]:
    """G2: three strict parsers read what went to the upstream, and read the same."""
    return [f"G2: {fault}" for stream in seen.streams.values() for fault in faults_of(stream)]


def refusals(seen: Seen, sent: bytes) -> list[str]:
    """G5: a refusal is a generic problem with a request id, and tells nothing."""
    broken = []
    grams = _grams(sent)
    passed_on = {received.request_id for received in seen.requests}
    for answer in seen.finals:
        if answer.values("content-type") != ["application/problem+json"]:
            own = not set(answer.values("x-request-id")) & passed_on
            if answer.status >= 400 and own and answer.status != 0:
                broken.append("G5: a refusal that is no problem document")
            continue
        broken += _problem(answer, grams)
    return broken


def _problem(answer: Message, grams: set[bytes]) -> list[str]:
    if not answer.body:
        return []  # in answer to HEAD
    try:
        request_id = json.loads(answer.body)["request_id"]
    except (ValueError, KeyError):
        return ["G5: a refusal without a request id"]
    broken = []
    if [request_id] != answer.values("x-request-id") or not _is_uuid(request_id):
        broken.append("G5: a refusal with another's request id")
    if _TRACE.search(answer.body) or _VERSION.search(answer.raw):
        broken.append("G5: a refusal that tells how it was made")
    if _grams(answer.body) & grams:
        broken.append("G5: a refusal that repeats its input")
    return broken


def log_lines(lines: Iterable[bytes], keys: Iterable[bytes]) -> list[str]:
    """G6: one JSON object a line, no control byte, no key."""
    broken = []
    for line in lines:
        text = line.removesuffix(b"\n")
        try:
            entry = json.loads(text)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not line.endswith(b"\n"):
            broken.append(f"G6: a log line that is no JSON object: {text[:200]!r}")
            continue
        if _CONTROL.search(text):
            broken.append("G6: a control byte in a log line")
        if _KEY.search(text) or any(key in text for key in keys):
            broken.append("G6: a key in a log line")
        if entry.get("event") == "fault":
            broken.append(f"G6: the gateway had a fault: {text[-400:]!r}")
    return broken


def same_verdict(first: Seen, again: Seen) -> list[str]:
    """G8, G9: the verdict of another run of a case is that of the first."""
    if first.verdict == again.verdict:
        return []
    return [f"{again.verdict} instead of {first.verdict}"]


def _grams(data: bytes) -> set[bytes]:
    plain = _VOCABULARY.sub(b"\0", data)
    if len(set(plain)) < ECHO_LENGTH:
        return set()
    limit = min(len(plain), 1 << 16) - ECHO_LENGTH + 1
    return {
        gram
        for start in range(limit)
        if b"\0" not in (gram := plain[start : start + ECHO_LENGTH]) and len(set(gram)) > 3
    }


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
