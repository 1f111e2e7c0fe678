# SPDX-License-Identifier: Apache-2.0
"""Notices from the news to the mailbox or the mail server: in one transaction, and sent once."""

import email
import email.policy
import re
from dataclasses import replace
from uuid import UUID

import procrastinate
import pytest
from sqlalchemy import select, text

from nimbus import billing
from nimbus.base import db, jobs
from nimbus.base.actors import Actor
from nimbus.base.ids import NIL, new_id
from nimbus.base.secrets import database_login
from nimbus.identity.service import accounts, members
from nimbus.notices import service
from nimbus.notices.jobs import TryAgainError, send
from nimbus.notices.models import Mail, Notice
from nimbus.notices.service import Wanted
from tests.rooms.notices.smtp import Server, free_port
from tests.support.bills import bill, sell, use_as_in_the_reference
from tests.support.market import loopback_settings as settings
from tests.support.market import sent, upstream
from tests.support.people import PASSWORD, make_owner, sign_up

__all__ = ["settings", "upstream"]  # fixtures

pytestmark = pytest.mark.anyio
VISITOR = Actor(kind="visitor")


@pytest.fixture
async def sale(api, upstream):
    """A customer on Starter since 1 May 2026."""
    return await sell(api, upstream)


async def register(address="ann@acme.example", locale="nl", first_name="Ann"):
    async with db.transaction() as session:
        await accounts.register(
            session,
            VISITOR,
            email=address,
            password=PASSWORD,
            first_name=first_name,
            last_name="",
            company="",
            locale=locale,
        )


def reset_wanted(recipient):
    return Wanted(
        organization_id=NIL,
        template="password_reset",
        source_id=new_id(),
        recipient=recipient,
        locale="en",
        data={"first_name": "Ann"},
    )


async def notices():
    async with db.system_session("send notices") as session:
        return list(await session.scalars(select(Notice).order_by(Notice.id)))


async def mails():
    async with db.system_session("send notices") as session:
        return list(await session.scalars(select(Mail).order_by(Mail.id)))


async def run_jobs():
    """Run what is in the queue, as the worker does, each once."""
    async with db.system_session("send notices") as session:
        rows = await session.execute(
            text(
                "UPDATE procrastinate_jobs SET status = 'succeeded' WHERE status = 'todo'"
                " AND task_name = 'notices.send' RETURNING id, args->>'notice_id'"
            )
        )
        waiting = [notice_id for _, notice_id in sorted(rows)]
    for notice_id in waiting:
        await send(notice_id)
    return waiting


async def work():
    """Run the queue until nothing is left that may run now, as the worker process does."""
    login = database_login(db.current().settings, "system")
    connector = procrastinate.PsycopgConnector(conninfo=login.pop("conninfo"), kwargs=login)
    with jobs.app.replace_connector(connector) as app:
        async with app.open_async():
            await app.run_worker_async(wait=False, install_signal_handlers=False)


async def use_smtp(url):
    """Open the database again with a mail server in the settings."""
    settings = replace(db.current().settings, smtp_url=url)
    await db.close_database()
    await db.open_database(settings)


async def test_a_registration_sends_the_link_that_verifies_the_address(api):
    body = {"email": "ann@acme.example", "password": PASSWORD, "first_name": "Ann", "locale": "nl"}
    assert (await api.post("/api/public/register", json=body)).status_code == 202
    assert len(await run_jobs()) == 1

    [mail] = await mails()
    assert mail.recipient == "ann@acme.example"
    assert mail.subject == "Bevestig uw e-mailadres"
    [link] = set(re.findall(r"http\S+/verify-email\?token=(\S+)", mail.text))
    assert link in mail.html
    answer = await api.post("/api/public/verify-email", json={"token": link})
    assert answer.status_code == 200
    raw = email.message_from_bytes(mail.message, policy=email.policy.default)
    assert raw["To"] == "ann@acme.example"
    [notice] = await notices()
    assert (notice.state, notice.attempts) == ("sent", 1)
    assert link not in str(notice.data)


async def test_the_worker_sends_it_and_keeps_what_could_not_be_sent(database):
    await use_smtp(f"smtp://127.0.0.1:{free_port()}")
    await register("bob@acme.example")
    await work()
    [bob] = await notices()
    assert (bob.state, bob.attempts) == ("waiting", 1)
    # However slow this machine is, the repetition does not come while the second mail is sent.
    async with db.system_session("send notices") as session:
        later = text("UPDATE procrastinate_jobs SET scheduled_at = scheduled_at + interval '1 day'")
        await session.execute(later)
    with Server() as server:
        await use_smtp(server.url)
        await register("ann@acme.example")
        await work()
        assert [envelope.rcpt_tos for envelope in server.envelopes] == [["ann@acme.example"]]
    async with db.system_session("send notices") as session:
        rows = await session.execute(
            text(
                "SELECT args->>'notice_id', status::text, scheduled_at > now()"
                " FROM procrastinate_jobs ORDER BY id"
            )
        )
    states = {UUID(notice_id): (status, later) for notice_id, status, later in rows}
    assert states.pop(bob.id) == ("todo", True)
    assert [status for status, _ in states.values()] == ["succeeded"]


async def test_nothing_is_said_about_what_was_rolled_back(database):
    async with db.transaction() as session:
        await service.request(session, reset_wanted("ann@acme.example"))
        await session.rollback()
    assert await notices() == []
    assert await run_jobs() == []


async def test_each_fact_about_a_person_has_its_mail(api):
    await register()
    await register(first_name="Mallory")
    async with db.transaction() as session:
        await accounts.request_reset(session, VISITOR, "ann@acme.example")
    async with db.transaction() as session:
        await accounts.request_reset(session, VISITOR, "nobody@acme.example")
    await register()
    await run_jobs()
    kept = await mails()
    assert [mail.subject for mail in kept] == [
        "Bevestig uw e-mailadres",
        "U heeft al een account",
        "Kies een nieuw wachtwoord",
        "U heeft al een account",
    ]
    assert {mail.recipient for mail in kept} == {"ann@acme.example"}
    assert all("Mallory" not in mail.text for mail in kept)


async def test_an_invitation_goes_to_the_invited_and_the_welcome_to_the_billing_address(database):
    owner = await make_owner()
    async with db.transaction(owner.organization_id, owner.actor.user_id) as session:
        await members.invite(session, owner.actor, email="bob@other.example", role="viewer")
    await run_jobs()
    by_subject = {mail.subject: mail for mail in await mails()}
    assert by_subject["Acme Energie B.V. is ready to go"].recipient == "billing@acme.example"
    invitation = by_subject["Acme Energie B.V. invites you"]
    assert invitation.recipient == "bob@other.example"
    assert "/invitation?token=" in invitation.text


async def test_a_job_that_runs_again_sends_nothing_again(database):
    await register()
    [notice_id] = await run_jobs()
    await send(notice_id)
    await send(notice_id)
    assert len(await mails()) == 1


async def test_the_same_thing_is_said_once_however_often_it_is_asked_for(database):
    wanted = reset_wanted("ann@acme.example")
    async with db.transaction() as session:
        assert await service.request(session, wanted) is not None
    async with db.transaction() as session:
        assert await service.request(session, wanted) is None
    assert len(await notices()) == 1


async def test_the_mail_server_gets_each_notice_once(database):
    await register(locale="en")
    with Server() as server:
        await use_smtp(server.url)
        [notice_id] = await run_jobs()
        await send(notice_id)
        [envelope] = server.envelopes
    assert envelope.rcpt_tos == ["ann@acme.example"]
    assert await mails() == []
    [notice] = await notices()
    assert notice.state == "sent"
    raw = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
    assert raw["Message-ID"].startswith(f"<{notice.id}@")


async def test_an_unreachable_server_is_tried_again_later(database):
    await register()
    port = free_port()
    await use_smtp(f"smtp://127.0.0.1:{port}")
    with pytest.raises(TryAgainError):
        await run_jobs()
    [notice] = await notices()
    assert (notice.state, notice.attempts) == ("waiting", 1)
    assert "Connect" in notice.last_error
    with Server(port=port) as server:
        await send(str(notice.id))
        assert len(server.envelopes) == 1
    [notice] = await notices()
    assert (notice.state, notice.attempts, notice.last_error) == ("sent", 2, None)


async def test_the_last_try_ends_it(database):
    await register()
    await use_smtp(f"smtp://127.0.0.1:{free_port()}")
    async with db.system_session("send notices") as session:
        await session.execute(text("UPDATE notices SET attempts = :n"), {"n": service.RETRIES})
    await run_jobs()
    [notice] = await notices()
    assert notice.state == "failed"


@pytest.mark.parametrize(
    ("answers", "state"), [({"rcpt": "550 unknown"}, "failed"), ({"data": "hang up"}, "unclear")]
)
async def test_what_was_refused_or_is_unclear_is_not_sent_again(database, answers, state):
    await register()
    with Server(**answers) as server:
        await use_smtp(server.url)
        [notice_id] = await run_jobs()
    with Server() as server:
        await use_smtp(server.url)
        await send(notice_id)
        assert server.envelopes == []
    [notice] = await notices()
    assert notice.state == state


async def test_a_crash_while_sending_does_not_send_twice(database):
    # given a process that died after the server had the message and before that was written down
    await register()
    [notice] = await notices()
    with Server() as server:
        await use_smtp(server.url)
        async with db.system_session("send notices") as session:
            outgoing = await service.take(session, notice.id)
        await service.hand_over(outgoing)
        # when the queue gives the job to another
        await send(str(notice.id))
        # then it does not go out again, and a person can see it
        assert len(server.envelopes) == 1
    [notice] = await notices()
    assert (notice.state, notice.last_error) == ("unclear", "the process stopped while sending")


async def test_a_name_can_not_reach_beyond_its_place(database):
    await register(first_name='Ann\r\nBcc: eve@evil.example\r\n\r\n<script src="//e"></script>')
    with Server() as server:
        await use_smtp(server.url)
        await run_jobs()
        [envelope] = server.envelopes
    assert envelope.rcpt_tos == ["ann@acme.example"]
    raw = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
    assert raw["Bcc"] is None
    assert "<script" not in raw.get_body("html").get_content()


async def test_an_address_that_is_not_one_fails_for_good(database):
    async with db.transaction() as session:
        wanted = reset_wanted("ann@acme.example, eve@evil.example")
        notice_id = await service.request(session, wanted)
    await send(str(notice_id))
    [notice] = await notices()
    assert (notice.state, notice.last_error) == ("failed", "not one plain e-mail address")
    assert await mails() == []


async def test_the_application_may_not_read_notices_or_write_another_organizations(database):
    owner = await make_owner()
    for statement in ("SELECT 1 FROM notices", "SELECT 1 FROM mailbox"):
        with pytest.raises(Exception, match="permission denied"):
            async with db.transaction(owner.organization_id) as session:
                await session.execute(text(statement))
    wanted = Wanted(
        organization_id=new_id(),
        template="welcome",
        source_id=new_id(),
        recipient="ann@acme.example",
        locale="en",
        data={"organization": "x"},
    )
    with pytest.raises(Exception, match="row-level security"):
        async with db.transaction(owner.organization_id) as session:
            await service.request(session, wanted)


async def test_jobs_carry_an_id_and_nothing_else(database):
    await register()
    async with db.system_session("send notices") as session:
        [args] = await session.scalars(
            text("SELECT args FROM procrastinate_jobs WHERE task_name = 'notices.send'")
        )
    assert args.keys() == {"notice_id"}
    assert UUID(args["notice_id"])
    assert jobs.app.tasks["notices.send"].retry_strategy.max_attempts == service.RETRIES


async def test_platform_admins_read_the_mailbox_newest_first_and_nobody_else_does(api):
    admin = await make_owner("root@nimbus.example", platform_role="admin")
    for person in ("bob@acme.example", "eve@acme.example"):
        await register(person)
    await run_jobs()

    first = await api.get("/api/admin/mailbox?limit=2", headers=admin.headers)
    assert first.status_code == 200
    page = first.json()
    assert [mail["recipient"] for mail in page["data"]] == ["eve@acme.example", "bob@acme.example"]
    following = await api.get(
        f"/api/admin/mailbox?cursor={page['next_cursor']}", headers=admin.headers
    )
    assert [mail["recipient"] for mail in following.json()["data"]] == [
        "billing@acme.example",
        "root@nimbus.example",
    ]
    assert following.json()["next_cursor"] is None

    assert (await api.get("/api/admin/mailbox")).status_code == 401
    member = await sign_up(api, "ada@other.example")
    refused = await api.get("/api/admin/mailbox", headers=member.headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def pay(api, sale, invoice):
    await sent(api, sale.admin, "POST", f"/api/admin/billing/invoices/{invoice.id}/mark-paid", {})


async def test_a_finalized_invoice_is_mailed_with_its_pdf_and_its_payment_thanked_for(api, sale):
    await use_as_in_the_reference(sale.contract)
    invoice = await bill(sale.subscription_id)
    await pay(api, sale, invoice)
    await run_jobs()

    kept = [mail for mail in await mails() if invoice.number in mail.subject]
    assert [mail.subject for mail in kept] == [
        "Invoice INV-2026-000001: €140.97",
        "We received your payment for INV-2026-000001",
    ]
    assert {mail.recipient for mail in kept} == {"billing@acme.example"}
    assert "Please pay by: 15 June 2026" in kept[0].text
    assert f"Payment reference: {invoice.payment_reference}" in kept[0].text
    raw = email.message_from_bytes(kept[0].message, policy=email.policy.default)
    [pdf] = raw.iter_attachments()
    assert pdf.get_filename() == "INV-2026-000001.pdf"
    async with db.system_session("bill run") as session:
        assert pdf.get_content() == await billing.invoice_pdf(session, invoice.id)

    page = (await api.get("/api/admin/mailbox", headers=sale.admin.headers)).json()["data"]
    attached = {mail["subject"]: mail["attachments"] for mail in page}
    assert attached[kept[1].subject] == []
    [shown] = attached[kept[0].subject]
    assert (shown["name"], shown["media_type"]) == ("INV-2026-000001.pdf", "application/pdf")
    assert shown["size_bytes"] == len(pdf.get_content())
