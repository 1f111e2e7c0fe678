# SPDX-License-Identifier: Apache-2.0
"""HTTP of credit notes: the operator issues them, the customer reads them."""

from typing import Annotated
from uuid import UUID

from fastapi import Request, Response

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Money, Router, Session, mutates, unit_of
from nimbus.billing import queries, schemas
from nimbus.billing import queries_credit_notes as notes
from nimbus.billing.endpoints.invoices import PDF, Reader
from nimbus.billing.events import CreditNoteIssued
from nimbus.billing.models import CreditNote
from nimbus.billing.service import credit_notes
from nimbus.errors import Refusal, field_error
from nimbus.identity import platform_admin

router = Router(tags=["billing"])


@router.post(
    "/api/billing/invoices/{invoice_id}/credit-notes",
    operation_id="create_credit_note",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission="platform_admin", events=[CreditNoteIssued], idempotency="key"),
)
async def create_credit_note(
    invoice_id: UUID,
    body: schemas.CreditNoteBody,
    request: Request,
    actor: Annotated[Actor, platform_admin()],
) -> schemas.CreditNoteView:
    """Give back all or part of a sent invoice; for the operator. Its number follows at once."""
    asked = None
    if body.lines is not None:
        asked = {line.position: line.amount_minor for line in body.lines}
        if len(asked) != len(body.lines):
            raise field_error("lines", "twice", "Each line once.")
    session = await unit_of(request).open_system("platform pages")
    note = await credit_notes.issue(
        session,
        actor,
        invoice_id,
        asked=asked,
        disposition=body.disposition,
        reason=body.reason,
    )
    return _view(note)


@router.get(
    "/api/billing/invoices/{invoice_id}/credit-notes",
    operation_id="list_credit_notes",
    responses=documented(401, 403, 404, 422),
)
async def list_credit_notes(
    invoice_id: UUID, actor: Reader, session: Session
) -> schemas.CreditNotes:
    """What was given back of an invoice."""
    await queries.invoice_of(session, actor.organization_id, invoice_id)
    rows = await notes.notes_of_invoice(session, actor.organization_id, invoice_id)
    return schemas.CreditNotes(data=[_view(row) for row in rows])


@router.get(
    "/api/billing/credit-notes/{credit_note_id}/pdf",
    operation_id="get_credit_note_pdf",
    response_class=Response,
    responses={**PDF, **documented(401, 403, 404, 422, 503)},
)
async def get_credit_note_pdf(credit_note_id: UUID, actor: Reader, session: Session) -> Response:
    """The document of a credit note; 503 for the moment until it is made."""
    note = await notes.note_of(session, actor.organization_id, credit_note_id)
    content = await notes.pdf_of(session, note)
    if content is None:
        raise Refusal("unavailable", "The document is being made.", headers={"Retry-After": "1"})
    return Response(
        content,
        media_type="application/pdf",
        headers={
            "Content-Disposition": f'attachment; filename="{note.number}.pdf"',
            "Cache-Control": "private, no-store",
        },
    )


def _view(note: CreditNote) -> schemas.CreditNoteView:
    def money(amount_minor: int) -> Money:
        return Money(amount_minor=amount_minor, currency=note.currency)

    return schemas.CreditNoteView(
        id=note.id,
        invoice_id=note.invoice_id,
        number=note.number,
        subtotal=money(note.subtotal_minor),
        tax=money(note.tax_minor),
        total=money(note.total_minor),
        open=money(note.open_minor),
        refund=money(note.refund_minor),
        credit=money(note.credit_minor),
        reason=note.reason,
        issued_on=note.issued_on.isoformat(),
        created_at=clock.to_wire(note.created_at),
    )
