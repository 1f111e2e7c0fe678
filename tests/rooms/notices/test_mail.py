# SPDX-License-Identifier: Apache-2.0
"""Mail over a real SMTP server: exactly the intended recipient, and each failure told apart."""

import asyncio
import datetime as dt
import email
import email.policy
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nimbus.base.mail import (
    Attachment,
    MailAddressError,
    NotSentError,
    RefusedError,
    UnclearError,
    build,
    send,
)
from tests.rooms.notices.smtp import Server, free_port

pytestmark = pytest.mark.anyio
MESSAGE_ID = UUID("01970000-0000-7000-8000-000000000001")
SENT_AT = dt.datetime(2026, 6, 1, 9, 30, tzinfo=dt.UTC)


def message(**changes):
    values = {
        "message_id": MESSAGE_ID,
        "to": "ann@example.org",
        "subject": "Your invoice",
        "text": "Hello\n",
        "html": "<p>Hello</p>",
        "mail_from": "Nimbus B.V. <billing@nimbus.example>",
        "sent_at": SENT_AT,
    }
    return build(**{**values, **changes})


def received(envelope):
    return email.message_from_bytes(envelope.original_content, policy=email.policy.default)


async def test_a_message_arrives_whole_at_its_one_recipient():
    pdf = Attachment("INV-1.pdf", "application/pdf", b"%PDF-1.7\x00\xff")
    with Server() as server:
        await send(server.url, message(text="Dag, café ☕\n.\nend\n", attachments=[pdf]))
        [envelope] = server.envelopes
    mail = received(envelope)
    assert (envelope.mail_from, envelope.rcpt_tos) == (
        "billing@nimbus.example",
        ["ann@example.org"],
    )
    assert mail["From"] == '"Nimbus B.V." <billing@nimbus.example>'
    assert mail["Message-ID"] == f"<{MESSAGE_ID}@nimbus.example>"
    assert mail["Date"].datetime == SENT_AT
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_body("plain").get_content().splitlines() == ["Dag, café ☕", ".", "end"]
    assert mail.get_body("html").get_content().strip() == "<p>Hello</p>"
    [attached] = mail.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == (
        "INV-1.pdf",
        "application/pdf",
    )
    assert attached.get_content() == pdf.content


@pytest.mark.parametrize(
    "to",
    [
        "",
        "ann",
        "ann@",
        "@example.org",
        "ann@example.org, eve@example.org",
        "ann@example.org;eve@example.org",
        "ann@example.org\r\nBcc: eve@example.org",
        "ann@example.org\nBcc: eve@example.org",
        "Ann <ann@example.org>",
        "<ann@example.org>",
        "ann@example.org ",
        "an n@example.org",
        '"ann, eve"@example.org',
        "ann@example.org\x00",
        "ann@exam\u2028ple.org",
        "änn@example.org",
        "ann(comment)@example.org",
        "=?utf-8?q?ann=40example=2Eorg?=",
        "friends: ann@example.org, eve@example.org;",
    ],
)
def test_what_is_not_one_plain_address_is_refused(to):
    with pytest.raises(MailAddressError):
        message(to=to)


@pytest.mark.parametrize("subject", ["a\r\nBcc: eve@example.org", "a\nb", "a\rb"])
def test_a_line_break_in_a_subject_is_refused(subject):
    with pytest.raises(ValueError, match=r"linefeed|carriage"):
        message(subject=subject)


HOSTILE_SUBJECTS = [
    "x" * 1000,
    "é" * 1000,
    "a, b; c: d <eve@example.org>",
    "=?utf-8?q?Bcc=3A_eve=40example=2Eorg?=",
    "tab\tbed",
    "Factuur – € 140,97 ☕",
]


@pytest.mark.parametrize("subject", HOSTILE_SUBJECTS)
async def test_a_subject_is_only_ever_a_subject(subject):
    with Server() as server:
        await send(server.url, message(subject=subject))
        [envelope] = server.envelopes
    mail = received(envelope)
    assert envelope.rcpt_tos == ["ann@example.org"]
    assert sorted(mail.keys()) == sorted(message().keys())
    assert max(len(line) for line in envelope.original_content.split(b"\r\n")) <= 998
    if not subject.startswith("=?"):
        assert mail["Subject"].replace("\t", " ") == subject.replace("\t", " ")


@settings(max_examples=200, deadline=None, derandomize=True)
@example("\n", "")
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_name_and_subject_give_the_same_headers_or_a_refusal(subject, name):
    try:
        made = message(subject=subject, mail_from=f"{name} <billing@nimbus.example>")
        raw = made.as_bytes()
    except ValueError:
        return
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert sorted(mail.keys()) == sorted(message().keys())
    assert [a.addr_spec for a in mail["To"].addresses] == ["ann@example.org"]


async def test_a_server_that_is_not_there_means_not_sent():
    with pytest.raises(NotSentError):
        await send(f"smtp://127.0.0.1:{free_port()}", message())


@pytest.mark.parametrize("url", ["http://127.0.0.1:25", "smtp://", "127.0.0.1:25", "smtp://h:x"])
async def test_a_wrong_smtp_address_means_not_sent(url):
    with pytest.raises(NotSentError):
        await send(url, message())


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"rcpt": "450 later"}, NotSentError),
        ({"rcpt": "550 no such mailbox"}, RefusedError),
        ({"data": "451 later"}, NotSentError),
        ({"data": "554 spam"}, RefusedError),
        ({"data": "hang up"}, UnclearError),
    ],
)
async def test_each_failure_is_told_apart(answers, error):
    with Server(**answers) as server, pytest.raises(error):
        await send(server.url, message())


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
async def test_no_plain_text_where_tls_was_asked_for(scheme):
    with Server() as server:
        with pytest.raises(NotSentError):
            await asyncio.wait_for(send(server.url.replace("smtp", scheme, 1), message()), 30)
        assert server.envelopes == []
