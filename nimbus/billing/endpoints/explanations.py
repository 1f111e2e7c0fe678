# SPDX-License-Identifier: Apache-2.0
"""HTTP of "why this amount?"."""

from uuid import UUID

from fastapi import Request

from nimbus.base import clock
from nimbus.base.problems import documented
from nimbus.base.web import Money, Router, unit_of
from nimbus.billing import queries, schemas
from nimbus.billing.endpoints.invoices import Reader, line_view
from nimbus.billing.models import Invoice
from nimbus.billing.service import explanations
from nimbus.billing.service.explanations import Explanation
from nimbus.billing.texts import plain

router = Router(tags=["billing"])


@router.get(
    "/api/billing/invoices/{invoice_id}/lines/{position}/explain",
    operation_id="explain_invoice_line",
    responses=documented(401, 403, 404, 422),
)
async def explain_invoice_line(
    invoice_id: UUID, position: int, request: Request, actor: Reader
) -> schemas.ExplanationView:
    """Why a line asks what it asks: formula, plan version, roll-up, events, ledger entries."""
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system("bill run")
    invoice = await queries.invoice_of(session, actor.organization_id, invoice_id)
    return _view(invoice, await explanations.explain(session, invoice, position))


def _view(invoice: Invoice, found: Explanation) -> schemas.ExplanationView:
    price = found.price
    return schemas.ExplanationView(
        invoice_id=invoice.id,
        invoice_number=invoice.number,
        line=line_view(found.line, invoice.currency),
        formula=found.formula,
        steps=[schemas.StepView(name=name, value=value) for name, value in found.steps],
        plan_version=price
        and schemas.PlanVersionView(
            id=price.plan.plan_version_id,
            plan=price.plan.slug,
            name=price.plan.name,
            number=price.plan.number,
        ),
        rules_version=invoice.rules_version,
        hours=[
            schemas.CellView(
                hour=clock.to_wire(cell["hour"]),
                events=cell["events"],
                quantity=plain(cell["quantity"]),
                peak=plain(cell["peak"]),
            )
            for cell in found.cells
        ],
        hours_left_out=found.cells_left_out,
        events=[
            schemas.EventView(
                event_id=event["event_id"],
                occurred_at=clock.to_wire(event["occurred_at"]),
                method=event["method"],
                status=event["status"],
                request_id=event["request_id"],
                quantity=plain(event["quantity"]),
            )
            for event in found.events
        ],
        ledger=[
            schemas.EntryView(
                sequence=entry["sequence"],
                debit=entry["debit_account"],
                credit=entry["credit_account"],
                amount=Money(amount_minor=entry["amount_minor"], currency=invoice.currency),
                leg=entry["leg"],
                hash=entry["hash"],
            )
            for entry in found.entries
        ],
    )
