# SPDX-License-Identifier: Apache-2.0
"""HTTP of invoices and of the operator's settings: parse, call one use case, present."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base import clock, web
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Cursor, Limit, Money, Page, Router, Session, mutates, unit_of
from nimbus.billing import queries, schemas
from nimbus.billing.events import InvoiceDrafted, InvoiceFinalized, SellerChanged
from nimbus.billing.models import Invoice, InvoiceLine, InvoiceTax, PaymentState, Seller
from nimbus.billing.queries_credit_notes import credited_of
from nimbus.billing.service import runs, sellers
from nimbus.billing.service.proposals import Proposal, forecast
from nimbus.billing.texts import Language, day_of, legal_text, plain
from nimbus.errors import Refusal
from nimbus.identity import Permission, allowed, platform_admin, platform_reader
from nimbus.identity.events import TermsPublished
from nimbus.rules import lifecycles
from nimbus.subscriptions.events import SubscriptionRenewed
from nimbus.usage.events import UsageThresholdReached

router = Router(tags=["billing"])
Reader = Annotated[Actor, allowed(Permission.SEE_INVOICES, scope="billing.read")]
Payer = Annotated[Actor, allowed(Permission.MANAGE_PAYMENT_METHODS)]
OPERATIONS_A_MINUTE = 50
LEVELS = frozenset({"max", "last", "unique"})
PDF: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/pdf": {}}, "description": "The document"}
}


@router.get(
    "/api/billing/invoices", operation_id="list_invoices", responses=documented(401, 403, 422)
)
async def list_invoices(
    actor: Reader, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.InvoiceView]:
    """The organization's invoices, newest first."""
    statement = queries.invoices_of(actor.organization_id)
    rows, following = await web.paginate(session, statement, Invoice.id, limit, cursor)
    return Page(data=await _views(session, rows), next_cursor=following)


@router.post(
    "/api/billing/invoices",
    operation_id="create_invoice",
    status_code=201,
    responses=documented(400, 401, 403, 404, 415, 422, 429, 503),
    **mutates(
        permission=Permission.MANAGE_PAYMENT_METHODS,
        events=[InvoiceDrafted, InvoiceFinalized, SubscriptionRenewed, UsageThresholdReached],
        idempotency="natural",
    ),
)
async def create_invoice(
    body: schemas.BillRequest, request: Request, actor: Payer
) -> schemas.InvoiceDetail:
    """Run the bill of one subscription: its last ended period; 400 when that is finalized."""
    await throttle(f"billing/{actor.organization_id}", OPERATIONS_A_MINUTE, 60)
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system("bill run")
    invoice = await runs.bill_now(session, actor, body.subscription_id, clock.now())
    return await _detail(session, invoice)


@router.get(
    "/api/billing/invoices/upcoming",
    operation_id="list_upcoming_invoices",
    responses=documented(401, 403),
)
async def list_upcoming_invoices(request: Request, actor: Reader) -> schemas.UpcomingInvoices:
    """What each live subscription's running period would cost if it ended now."""
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system("bill run")
    live = await subscriptions.live_subscriptions(session, actor.organization_id)
    running = [one for one in live if one.next_billing_at is not None]
    now = clock.now()
    proposals = await runs.upcoming(session, running, now)
    forecasts = [
        forecast(one, now, await _levels(session, one.case.wish.subscription.product_id))
        for one in proposals
    ]
    return schemas.UpcomingInvoices(
        data=[_upcoming(one, total) for one, total in zip(proposals, forecasts, strict=True)]
    )


@router.get(
    "/api/billing/invoices/{invoice_id}",
    operation_id="get_invoice",
    responses=documented(401, 403, 404, 422),
)
async def get_invoice(invoice_id: UUID, actor: Reader, session: Session) -> schemas.InvoiceDetail:
    """An invoice with its lines."""
    return await _detail(
        session, await queries.invoice_of(session, actor.organization_id, invoice_id)
    )


@router.get(
    "/api/billing/invoices/{invoice_id}/pdf",
    operation_id="get_invoice_pdf",
    response_class=Response,
    responses={**PDF, **documented(401, 403, 404, 422, 503)},
)
async def get_invoice_pdf(invoice_id: UUID, actor: Reader, session: Session) -> Response:
    """The document of a sent invoice; 503 for the moment until it is made."""
    invoice = await queries.invoice_of(session, actor.organization_id, invoice_id)
    if invoice.status != "Sent":
        raise Refusal("not_found", "A draft has no document.")
    content = await queries.pdf_of(session, invoice.id)
    if content is None:
        raise Refusal("unavailable", "The document is being made.", headers={"Retry-After": "1"})
    return Response(
        content,
        media_type="application/pdf",
        headers={
            "Content-Disposition": f'attachment; filename="{invoice.number}.pdf"',
            "Cache-Control": "private, no-store",
        },
    )


@router.get(
    "/api/admin/billing/invoices",
    operation_id="admin_list_invoices",
    responses=documented(401, 403, 422),
)
async def admin_list_invoices(
    request: Request,
    _: Annotated[Actor, platform_reader()],
    organization_id: UUID | None = None,
    number: Annotated[str | None, Query(max_length=40)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.AdminInvoiceView]:
    """The invoices of all organizations, newest first."""
    session = await unit_of(request).open_system("platform pages")
    statement = queries.all_invoices(organization_id, number)
    rows, following = await web.paginate(session, statement, Invoice.id, limit, cursor)
    views = await _views(session, rows)
    data = [
        schemas.AdminInvoiceView(
            **view.model_dump(), organization=row.buyer["name"], parked_reason=row.parked_reason
        )
        for view, row in zip(views, rows, strict=True)
    ]
    return Page(data=data, next_cursor=following)


@router.post(
    "/api/admin/billing/invoices/{invoice_id}/finalize",
    operation_id="admin_finalize_invoice",
    responses=documented(400, 401, 403, 404, 422),
    **mutates(
        permission="platform_admin",
        events=[InvoiceFinalized, UsageThresholdReached],
        idempotency="natural",
    ),
)
async def admin_finalize_invoice(
    invoice_id: UUID, request: Request, actor: Annotated[Actor, platform_admin()]
) -> schemas.InvoiceDetail:
    """Let a draft pass that was parked for a person to look at."""
    session = await unit_of(request).open_system("platform pages")
    invoice = await runs.finalize_draft(session, actor, invoice_id, clock.now(), looked_at=True)
    return await _detail(session, invoice)


@router.get("/api/admin/settings", operation_id="get_settings", responses=documented(401, 403))
async def get_settings(
    request: Request, _: Annotated[Actor, platform_reader()]
) -> schemas.SettingsView:
    """The operator's legal data and terms."""
    session = await unit_of(request).open_system("platform pages")
    return _settings(await queries.current_seller(session))


@router.put(
    "/api/admin/settings",
    operation_id="change_settings",
    responses=documented(401, 403, 409, 415, 422),
    **mutates(
        permission="platform_admin", events=[SellerChanged, TermsPublished], idempotency="version"
    ),
)
async def change_settings(
    body: schemas.SettingsBody, request: Request, actor: Annotated[Actor, platform_admin()]
) -> schemas.SettingsView:
    """Say who sells here and by which terms; invoices that waited for it are finalized."""
    session = await unit_of(request).open_system("platform pages")
    details = sellers.SellerDetails(
        organization_id=body.operator_organization_id,
        legal_name=body.name,
        address=body.address.model_dump(),
        country=body.country,
        company_number=body.company_number,
        vat_number=body.vat_number,
        email=body.email,
        iban=body.iban,
        time_zone=body.time_zone,
        terms_version=body.terms_version,
    )
    return _settings(
        await sellers.change_seller(session, actor, details, body.terms_body, body.version)
    )


def _settings(seller: Seller | None) -> schemas.SettingsView:
    if seller is None:
        return schemas.SettingsView()
    return schemas.SettingsView(
        operator_organization_id=seller.organization_id,
        name=seller.legal_name,
        address=seller.address,
        country=seller.country,
        company_number=seller.company_number,
        vat_number=seller.vat_number,
        email=seller.email,
        iban=seller.iban,
        time_zone=seller.time_zone,
        terms_version=seller.terms_version,
        version=seller.version,
    )


async def _views(session: AsyncSession, rows: Sequence[Invoice]) -> list[schemas.InvoiceView]:
    ids = [row.id for row in rows]
    states = await queries.payment_states(session, ids)
    due = await queries.due_of(session, ids)
    given = await credited_of(session, ids)
    return [
        schemas.InvoiceView(
            **_view(row, states.get(row.id), due.get(row.id, 0), given.get(row.id, 0))
        )
        for row in rows
    ]


async def _detail(session: AsyncSession, invoice: Invoice) -> schemas.InvoiceDetail:
    states = await queries.payment_states(session, [invoice.id])
    due = await queries.due_of(session, [invoice.id])
    given = await credited_of(session, [invoice.id])
    lines = await queries.lines_of(session, invoice.id)
    taxes = await queries.taxes_of(session, invoice.id)
    language: Language = "nl" if invoice.locale == "nl" else "en"
    texts = [legal_text(tax.legal_text_key, language) for tax in taxes]
    return schemas.InvoiceDetail(
        **_view(
            invoice,
            states.get(invoice.id),
            due.get(invoice.id, 0),
            given.get(invoice.id, 0),
        ),
        seller=None if invoice.seller is None else schemas.PartyView(**invoice.seller),
        buyer=schemas.PartyView(**invoice.buyer),
        lines=[line_view(line, invoice.currency) for line in lines],
        taxes=[_tax(tax, invoice.currency) for tax in taxes],
        legal_text=" ".join(text for text in texts if text) or None,
        usage=[schemas.UsageView(**row) for row in invoice.usage],
    )


def _view(
    invoice: Invoice, state: PaymentState | None, due: int, given_back: int
) -> dict[str, Any]:
    document: Any = invoice.status
    paid = state is not None and state.state == "Paid"
    time_zone = "UTC" if invoice.seller is None else invoice.seller["time_zone"]
    given_up = state is not None and state.state == "WrittenOff"
    due_on = None if given_up else invoice.due_on  # nobody is asked for it any more
    status = lifecycles.invoice_status(document, paid, due_on, day_of(clock.now(), time_zone))
    if given_back and given_back == invoice.total_minor:
        status = "Cancelled"  # wholly credited
    currency = invoice.currency
    return {
        "id": invoice.id,
        "organization_id": invoice.organization_id,
        "subscription_id": invoice.subscription_id,
        "product_id": invoice.product_id,
        "number": invoice.number,
        "status": status,
        "payment_state": _payment_state(status, state),
        "paid_at": state and state.paid_at and clock.to_wire(state.paid_at),
        "kind": invoice.kind,
        "period_starts_at": clock.to_wire(invoice.period_starts_at),
        "period_ends_at": clock.to_wire(invoice.period_ends_at),
        "subtotal": Money(amount_minor=invoice.subtotal_minor, currency=currency),
        "tax": Money(amount_minor=invoice.tax_minor, currency=currency),
        "total": Money(amount_minor=invoice.total_minor, currency=currency),
        "credited": Money(amount_minor=invoice.credited_minor, currency=currency),
        "wallet": Money(amount_minor=invoice.wallet_minor, currency=currency),
        "due": Money(amount_minor=due, currency=currency),
        "issued_on": invoice.issued_on and invoice.issued_on.isoformat(),
        "due_on": invoice.due_on and invoice.due_on.isoformat(),
        "payment_reference": invoice.payment_reference,
        "created_at": clock.to_wire(invoice.created_at),
    }


def _payment_state(status: str, state: PaymentState | None) -> str | None:
    if state is None:
        return None
    return "Overdue" if status == "Overdue" else state.state


def line_view(line: InvoiceLine, currency: str) -> schemas.LineView:
    """A line as the API shows it."""
    return schemas.LineView(
        position=line.position,
        kind=line.kind,
        source_id=line.source_id,
        meter=line.meter_key,
        description=line.description,
        quantity=plain(line.quantity),
        unit_price=None if line.unit_price is None else plain(line.unit_price),
        vat_rate=None if line.tax_rate is None else plain(line.tax_rate),
        amount=Money(amount_minor=line.amount_minor, currency=currency),
        starts_at=clock.to_wire(line.starts_at),
        ends_at=clock.to_wire(line.ends_at),
    )


def _tax(tax: InvoiceTax, currency: str) -> schemas.TaxView:
    return schemas.TaxView(
        category=tax.category,
        rate=plain(tax.rate),
        base=Money(amount_minor=tax.base_minor, currency=currency),
        tax=Money(amount_minor=tax.tax_minor, currency=currency),
    )


async def _levels(session: AsyncSession, product_id: UUID) -> set[str]:
    """The meters of a product whose value does not grow by being used on."""
    meters = await catalog.meter_facts(session, product_id)
    return {key for key, meter in meters.items() if meter.aggregation in LEVELS}


def _upcoming(proposal: Proposal, forecast_minor: int) -> schemas.UpcomingInvoice:
    sums, treatment, bill = proposal.totals, proposal.treatment, proposal.bill
    currency, subscription = proposal.currency, proposal.case.wish.subscription
    lines = zip(proposal.lines, proposal.descriptions, strict=True)
    return schemas.UpcomingInvoice(
        subscription_id=subscription.id,
        product_id=subscription.product_id,
        period_starts_at=clock.to_wire(proposal.closing.served.starts_at),
        period_ends_at=clock.to_wire(proposal.closing.served.ends_at),
        lines=[
            schemas.LineView(
                position=position,
                kind=line.kind,
                source_id=subscription.id,
                meter=line.meter_key,
                description=text,
                quantity=plain(line.quantity),
                unit_price=None if line.unit_price is None else plain(line.unit_price),
                vat_rate=treatment and plain(treatment.rate),
                amount=Money(amount_minor=line.amount_minor, currency=currency),
                starts_at=clock.to_wire(line.period.starts_at),
                ends_at=clock.to_wire(line.period.ends_at),
            )
            for position, (line, text) in enumerate(lines, 1)
        ],
        taxes=[
            schemas.TaxView(
                category=tax.treatment.category,
                rate=plain(tax.treatment.rate),
                base=Money(amount_minor=tax.base_minor, currency=currency),
                tax=Money(amount_minor=tax.tax_minor, currency=currency),
            )
            for tax in (sums.taxes if treatment else ())
        ],
        subtotal=Money(amount_minor=sums.subtotal_minor, currency=currency),
        tax=Money(amount_minor=sums.tax_minor, currency=currency),
        total=Money(amount_minor=sums.total_minor, currency=currency),
        credited=Money(amount_minor=bill.credit_used_minor, currency=currency),
        wallet=Money(amount_minor=bill.wallet_used_minor, currency=currency),
        due=Money(amount_minor=bill.due_minor, currency=currency),
        forecast=Money(amount_minor=forecast_minor, currency=currency),
        usage=[schemas.UsageView(**row) for row in proposal.usage],
    )
