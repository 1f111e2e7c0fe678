# SPDX-License-Identifier: Apache-2.0
"""The corpus runner itself: it knows the whole form, it says what it does not know, and it finds
a gateway that answers wrongly.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nimbus.rules.grants import key_check
from tools.corpus.accept import Seen, best_match, mismatches, predicate_fault
from tools.corpus.caller import Cut
from tools.corpus.form import FormatError, placeholders, read_corpus
from tools.corpus.recorder import Received
from tools.corpus.rules import log_lines, own_ids_and_events, refusals
from tools.corpus.wire import faults_of, read_answers, read_head


def corpus_of(folder: Path, **case: Any) -> Path:
    entry = {"id": "X-001", "title": "", "client": [{"send": "x"}], "accept": [], **case}
    document = {"format": "http-hostile-corpus", "version": 1, "cases": [entry]}
    path = folder / "corpus.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def seen_of(*answers: bytes, closed: bool = False, requests: tuple[bytes, ...] = ()) -> Seen:
    return Seen(
        answers=[read_answers(b"".join(answers), lambda _, __: b"GET")],
        closed=[closed],
        requests=[Received(read_head(head), 1) for head in requests],
        events=[],
    )


CHUNKED = b"Transfer-Encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "case",
    [
        {"client": [{"shout": "x"}]},
        {"client": [{"send": "x", "loudly": True}]},
        {"client": [{"send": "{{KEY_C}}"}]},
        {"upstream": [{"answer": "x"}]},
        {"upstream": "asleep"},
        {"config": {"moon": 1}},
        {"accept": [{"responses": [], "upstream_smells": True}]},
        {"accept": [{"colour": "red"}]},
    ],
)
def test_what_the_runner_does_not_know_is_an_error_that_names_it(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    (read,) = read_corpus(corpus_of(tmp_path, **case)).cases
    fault = read.fault or predicate_fault(read)
    assert re.search(r"shout|loudly|KEY_C|answer|asleep|moon|smells|colour", fault)


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"format":"other"}', "utf-8")
    with pytest.raises(FormatError):
        read_corpus(path)


def test_texts_are_bytes_and_the_reserved_prefix_is_ours(tmp_path: Path) -> None:
    client = [{"send": "caf\u00e9 X-Gw-Request-Id x_gw_tenant X-GW-PLAN {{KEY}}"}]
    (case,) = read_corpus(corpus_of(tmp_path, client=client)).cases
    key = placeholders()["{{KEY}}"]
    assert case.sent == b"caf\xe9 X-Request-Id x_nimbus_tenant X-NIMBUS-PLAN " + key


def test_the_keys_are_what_the_placeholders_say() -> None:
    keys = placeholders()
    assert len(keys["{{KEY}}"]) == len(keys["{{KEY_B}}"])
    for name, right in (
        ("{{KEY}}", True),
        ("{{KEY_WRONG_SECRET}}", True),
        ("{{KEY_BAD_CRC}}", False),
    ):
        assert (key_check(keys[name][:-6]) == keys[name][-6:]) is right


def test_a_need_that_nobody_knows_is_named(tmp_path: Path) -> None:
    (case,) = read_corpus(corpus_of(tmp_path, needs=["auth", "moon"])).cases
    assert case.unknown_needs == {"moon"}


@pytest.mark.parametrize(
    ("outcome", "holds"),
    [
        ({"responses": [[200, 204]]}, True),
        ({"responses": [[400]]}, False),
        ({"responses": []}, False),
        ({"responses": [[200], [200]]}, False),
        ({"responses": "any"}, True),
        ({"then": "keep"}, True),
        ({"then": "close"}, False),
        ({"status_counts": {"200": 1}}, True),
        ({"status_counts": {"401": 1}}, False),
        ({"status_counts_in": {"200": [0, 1], "429": [0, 9]}}, True),
        ({"upstream_requests": "=count(200)"}, True),
        ({"upstream_requests": [0, 2]}, True),
        ({"upstream_requests": 0}, False),
        ({"usage_events": 0}, True),
        ({"client_body": "ok"}, True),
        ({"client_body": "no"}, False),
        ({"client_header_value": {"content-length": "2"}}, True),
        ({"client_header_absent": ["content-length"]}, False),
        ({"client_header_present": ["content-length"]}, True),
        ({"client_header_not": {"content-length": "2"}}, False),
        ({"client_raw_absent": ["ok"]}, False),
        ({"upstream_path_in": ["/a"]}, True),
        ({"upstream_path_in": []}, False),
        ({"upstream_paths": ["/a"]}, True),
        ({"upstream_header_count": {"x": [2, 2]}}, True),
        ({"upstream_absent_value": {"x": "1"}}, False),
        ({"truncated": True}, False),
        ({"max_ms": 0}, True),
    ],
)
def test_a_predicate_holds_for_what_it_says(outcome: dict[str, Any], holds: bool) -> None:
    seen = seen_of(OK, requests=(b"GET /a HTTP/1.1\r\nX: 1\r\nX: 2\r\n\r\n",))
    assert (not mismatches(seen, outcome)) is holds


def test_an_accepted_outcome_is_preferred_to_a_tolerated_one(tmp_path: Path) -> None:
    accept = [{"responses": "any", "grade": "tolerated"}, {"responses": "any", "grade": "accepted"}]
    (case,) = read_corpus(corpus_of(tmp_path, accept=accept)).cases
    outcome, _ = best_match(seen_of(OK), case)
    assert outcome is not None
    assert outcome["grade"] == "accepted"


def test_a_cut_answer_is_told_from_a_whole_one() -> None:
    assert not mismatches(seen_of(OK[:-1]), {"truncated": True})
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    assert not mismatches(seen_of(chunks), {"truncated": True})
    assert not mismatches(seen_of(chunks + b"0\r\n\r\n"), {"truncated": False})


@pytest.mark.parametrize(
    "stream",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n%s\r\n0\r\n\r\n" % CHUNKED,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n1;x=y\r\na\r\n0\r\n\r\n" % CHUNKED,
        b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n1\r\na\r\n0\r\nX: y\r\n\r\n" % CHUNKED,
    ],
)
def test_bytes_that_must_not_go_upstream_are_found(stream: bytes) -> None:
    assert faults_of(stream)


def test_plain_requests_upstream_are_fine() -> None:
    assert not faults_of(
        b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab"
    )


def test_a_refusal_that_tells_too_much_is_found() -> None:
    def refusal(body: bytes) -> Seen:
        head = b"HTTP/1.1 400 x\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
        return seen_of(head % len(body) + b"X-Request-Id: %s\r\n\r\n" % own + body)

    own = b"01a1f8d0-375a-7905-a5d8-00ad5c9f641e"
    plain = b'{"request_id":"%s","detail":"%s"}'
    assert not refusals(
        refusal(plain % (own, b"The request line can't be read.")), b"GET /secret-path"
    )
    assert refusals(refusal(plain % (own, b"no /secret-path-here")), b"GET /secret-path-here x")
    assert refusals(refusal(plain % (own, b"Traceback")), b"")
    assert refusals(refusal(plain % (b"1", b"")), b"")


def test_a_request_upstream_without_our_id_is_found() -> None:
    seen = seen_of(OK, requests=(b"GET / HTTP/1.1\r\nX-Request-Id: same\r\n\r\n",))
    assert own_ids_and_events(seen, {})


def test_a_log_line_with_a_key_or_a_control_byte_is_found() -> None:
    key = placeholders()["{{KEY}}"]
    assert not log_lines([b'{"event":"ready"}\n'], [key])
    assert log_lines([b'{"event":"%s"}\n' % key], [key])
    assert log_lines([b"Traceback\n"], [])
    assert log_lines([b'{"event":"fault"}\n'], [])


def test_a_cut_leaves_no_byte_out() -> None:
    data = b"0123456789"
    assert b"".join(Cut(every_byte=True).pieces(data, 0)) == data
    assert list(Cut((3,)).pieces(data, 0)) == [b"012", b"3456789"]
    assert list(Cut((13,)).pieces(data, 10)) == [b"012", b"3456789"]
    assert list(Cut((3,)).pieces(data, 10)) == [data]
