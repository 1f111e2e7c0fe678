# SPDX-License-Identifier: Apache-2.0
"""Mail: one message to one address, handed to an SMTP server.

`build` makes the message by the modern e-mail policy, which refuses line breaks in headers; the
recipient is exactly one address, whatever was written into the field. `send` tells three failures
apart, because they ask for three reactions: `NotSentError` (try again), `RefusedError` (never
will), `UnclearError` (the server may have it: trying again could send twice).
"""

import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parseaddr
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
from aiosmtplib import SMTPException, SMTPResponseException

TIMEOUT_SECONDS = 20.0
ADDRESS_MAX = 254
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
PLAIN_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
"""The dot-atom form of RFC 5321, in ASCII: no quoting, no comments, no list, no address literal."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class MailAddressError(ValueError):
    """Not one plain e-mail address."""


class NotSentError(Exception):
    """The server could not be reached or said "not now": the message was not sent."""


class RefusedError(Exception):
    """The server refused the message for good."""


class UnclearError(Exception):
    """The connection broke after the message went out and before the answer came."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a message; `media_type` such as `application/pdf`."""

    name: str
    media_type: str
    content: bytes


def build(
    *,
    message_id: UUID,
    to: str,
    subject: str,
    text: str,
    html: str,
    mail_from: str,
    sent_at: datetime,
    attachments: Sequence[Attachment] = (),
) -> EmailMessage:
    """A message with a text and an HTML part, from `mail_from` (`Name <address>`) to one address.

    `message_id` becomes the Message-ID, so that the same message can be recognised. Raises
    `MailAddressError` for a recipient that is not one address, ValueError for a line break in
    the subject.
    """
    if "\r" in subject or "\n" in subject:
        # The library lets a last one pass.
        raise ValueError("a subject holds no linefeed or carriage return")
    name, sender = parseaddr(mail_from)
    author = _address(sender, name)
    message = EmailMessage(policy=SMTP)
    message["From"] = author
    message["To"] = _address(to)
    message["Subject"] = subject
    message["Date"] = sent_at
    message["Message-ID"] = f"<{message_id}@{author.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    for attachment in attachments:
        main, _, sub = attachment.media_type.partition("/")
        message.add_attachment(
            attachment.content, maintype=main, subtype=sub, filename=attachment.name
        )
    return message


def _address(text: str, name: str = "") -> Address:
    if len(text) > ADDRESS_MAX or not PLAIN_ADDRESS.fullmatch(text):
        raise MailAddressError("not one plain e-mail address")
    return Address(display_name=name, addr_spec=text)


async def send(smtp_url: str, message: EmailMessage) -> None:
    """Hand the message over; returns when the server has taken it.

    `smtp://` uses TLS when the server offers it, and must when a password is sent to another
    machine; `smtp+starttls://` must in any case; `smtps://` speaks TLS from the start. Raises
    `NotSentError`, `RefusedError` or `UnclearError`.
    """
    client = _client(smtp_url, message["From"].addresses[0].domain)
    try:
        await client.connect()
    except (SMTPException, OSError) as error:
        raise NotSentError(_words(error)) from error
    try:
        await _hand_over(client, message)
        with suppress(SMTPException, OSError):  # the message is theirs, whatever the goodbye
            await client.quit()
    finally:
        client.close()


async def _hand_over(client: aiosmtplib.SMTP, message: EmailMessage) -> None:
    try:
        await client.mail(message["From"].addresses[0].addr_spec)
        await client.rcpt(message["To"].addresses[0].addr_spec)
    except SMTPResponseException as error:
        raise _refusal(error) from error
    except (SMTPException, OSError) as error:
        raise NotSentError(_words(error)) from error
    try:
        await client.data(message.as_bytes())
    except SMTPResponseException as error:
        raise _refusal(error) from error
    except (SMTPException, OSError) as error:
        raise UnclearError(_words(error)) from error


def _client(smtp_url: str, own_domain: str) -> aiosmtplib.SMTP:
    ports = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
    try:
        parts = urlsplit(smtp_url)
        port = parts.port or ports[parts.scheme]
    except (ValueError, KeyError):
        raise NotSentError("NIMBUS_SMTP_URL is not smtp://, smtp+starttls:// or smtps://") from None
    secret_abroad = parts.password is not None and parts.hostname not in LOOPBACK
    must = parts.scheme == "smtp+starttls" or secret_abroad
    return aiosmtplib.SMTP(
        hostname=parts.hostname,
        port=port,
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        use_tls=parts.scheme == "smtps",
        start_tls=False if parts.scheme == "smtps" else (must or None),
        local_hostname=own_domain,
        tls_context=ssl.create_default_context(),
        timeout=TIMEOUT_SECONDS,
    )


def _refusal(error: SMTPResponseException) -> Exception:
    kind = RefusedError if error.code >= 500 else NotSentError
    return kind(_words(error))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
