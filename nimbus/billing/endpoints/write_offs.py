# SPDX-License-Identifier: Apache-2.0
"""HTTP of write-offs."""

from typing import Annotated
from uuid import UUID

from fastapi import Request

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Money, Router, mutates, unit_of
from nimbus.billing import schemas
from nimbus.billing.events import InvoiceWrittenOff
from nimbus.billing.service import write_offs
from nimbus.identity import platform_admin

router = Router(tags=["billing"])


@router.post(
    "/api/admin/billing/invoices/{invoice_id}/write-off",
    operation_id="admin_write_off_invoice",
    responses=documented(401, 403, 404, 415, 422),
    **mutates(permission="platform_admin", events=[InvoiceWrittenOff], idempotency="natural"),
)
async def admin_write_off_invoice(
    invoice_id: UUID,
    body: schemas.WriteOffBody,
    request: Request,
    actor: Annotated[Actor, platform_admin()],
) -> schemas.WriteOffView:
    """Give up what is due of a sent invoice; again answers the same write-off."""
    session = await unit_of(request).open_system("platform pages")
    row = await write_offs.write_off(session, actor, invoice_id, reason=body.reason)
    return schemas.WriteOffView(
        id=row.id,
        invoice_id=row.invoice_id,
        amount=Money(amount_minor=row.amount_minor, currency=row.currency),
        reason=row.reason,
        created_at=clock.to_wire(row.created_at),
    )
