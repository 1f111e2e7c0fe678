# SPDX-License-Identifier: Apache-2.0
"""HTTP of notices: the mailbox of an installation without SMTP, for platform admins."""

import email
from email import policy

from fastapi import Request
from sqlalchemy import select

from nimbus import identity
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, paginate, unit_of
from nimbus.notices import schemas
from nimbus.notices.models import Mail

router = Router(tags=["admin"])


@router.get(
    "/api/admin/mailbox",
    operation_id="list_mailbox",
    responses=documented(401, 403, 422),
    dependencies=[identity.platform_admin()],
)
async def list_mailbox(
    request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.MailView]:
    """Messages that were kept instead of sent, newest first; empty where SMTP is configured."""
    session = await unit_of(request).open_system("platform pages")
    rows, following = await paginate(session, select(Mail), Mail.id, limit, cursor)
    return Page(data=[_view(row) for row in rows], next_cursor=following)


def _view(row: Mail) -> schemas.MailView:
    message = email.message_from_bytes(row.message, policy=policy.default)
    return schemas.MailView(
        id=row.id,
        recipient=row.recipient,
        subject=row.subject,
        text=row.text,
        html=row.html,
        attachments=[
            schemas.MailAttachmentView(
                name=part.get_filename() or "",
                media_type=part.get_content_type(),
                size_bytes=len(part.get_content()),
            )
            for part in message.iter_attachments()
        ],
        created_at=row.created_at,
    )
