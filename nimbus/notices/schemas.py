# SPDX-License-Identifier: Apache-2.0
"""Wire shapes of notices."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel


class MailAttachmentView(BaseModel):
    """A file that came with a message."""

    name: str
    media_type: str
    size_bytes: int


class MailView(BaseModel):
    """A message of the embedded mailbox. `html` is shown in a frame without rights only."""

    id: UUID
    recipient: str
    subject: str
    text: str
    html: str
    attachments: list[MailAttachmentView]
    created_at: datetime
