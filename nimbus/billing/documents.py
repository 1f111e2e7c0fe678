# SPDX-License-Identifier: Apache-2.0
"""The invoice as a page: what is on it, how it is written in Dutch and English, and its PDF.

`render_invoice` turns an `InvoiceDocument` into a tagged PDF/A-3a by typst. All words and numbers
go in as one JSON text; the template is a constant file, so nothing a customer wrote can become
markup. The compiler's root is the folder that holds only the template: no file, no package.

The same document gives the same bytes: nothing here reads a clock, and the PDF's own date is the
issue date. Blocking (some milliseconds): call it in a thread from async code.
"""

import json
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal

import typst
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal, format_percent

from nimbus.billing.texts import LOCALES, Language, span_text
from nimbus.rules.money import Money, UnitPrice, major

LINES_MAX = 1000
TEXT_MAX = 10_000
"""Characters of one text; what is longer ends in an ellipsis. With LINES_MAX this bounds the page
count, the memory and the time of a document."""

FOOTER_MAX = 120
"""Characters; the footer is one line on each page."""

_TEMPLATES = Path(__file__).with_name("templates")
_TEMPLATE = (_TEMPLATES / "invoice.typ").read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """The seller or the buyer, as they were when the invoice was finalized.

    `address` are its lines without the country; `country` is ISO 3166-1 alpha-2.
    """

    name: str
    address: tuple[str, ...]
    country: str
    vat_number: str | None = None
    company_number: str | None = None
    email: str | None = None
    iban: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """One line: `vat_rate` is in percent; `amount_minor` is without VAT.

    `unit_price` is None where no single price holds (tiers).
    """

    description: str
    quantity: Decimal
    unit_price: UnitPrice | None
    vat_rate: Decimal
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentTax:
    """VAT of one category (EN 16931 code: S, Z, E, AE, K, G, O) and rate, in percent."""

    category: str
    rate: Decimal
    base_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What was used of a meter in the supply period; `included` is None where nothing is."""

    meter: str
    used: Decimal
    included: Decimal | None
    billed: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDocument:
    """Everything that an invoice shows. Days are the seller's; `supply_to` is included.

    With `credits`, the number of an invoice, it is a credit note on that; amounts are positive
    then, and `disposition` says what becomes of them.

    Amounts are minor units of `currency` (ISO 4217); `credited_minor` and `wallet_minor` of the
    total are paid already, from credit and from the prepaid balance.
    """

    seller: Party
    buyer: Party
    number: str
    issued_on: date
    supply_from: date
    supply_to: date
    due_on: date
    currency: str
    lines: tuple[DocumentLine, ...]
    taxes: tuple[DocumentTax, ...]
    subtotal_minor: int
    tax_minor: int
    total_minor: int
    payment_reference: str
    paid: bool = False
    credited_minor: int = 0
    wallet_minor: int = 0
    credits: str | None = None
    disposition: Literal["open", "refund", "credit"] = "open"
    legal_text: str | None = None
    usage: tuple[UsageRow, ...] = ()
    notes: str | None = None


_LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "invoice": "Invoice",
        "credited": "Paid from credit",
        "wallet": "Paid from your balance",
        "to_pay": "To pay",
        "note_number": "Number",
        "note_issued": "Date",
        "note_to": "To",
        "credit_note": "Credit note",
        "credits": "On invoice",
        "credit": "Credit",
        "reason": "Reason",
        "credit_open": "This amount need not be paid any more.",
        "credit_refund": "You will get this amount back the way you paid it.",
        "credit_credit": "We take this amount off your next invoices.",
        "billed_to": "Billed to",
        "number": "Invoice number",
        "issued": "Invoice date",
        "period": "Supply period",
        "due": "Due date",
        "reference": "Payment reference",
        "description": "Description",
        "quantity": "Quantity",
        "unit_price": "Unit price",
        "vat": "VAT",
        "amount": "Amount",
        "subtotal": "Subtotal",
        "vat_total": "VAT",
        "total": "Total",
        "vat_specification": "VAT specification",
        "base": "Taxable amount",
        "payment": "Payment",
        "paid": "This invoice has been paid. You need not do anything.",
        "pay": "Please pay {amount} by {due}, quoting {reference}.",
        "nothing_due": "There is nothing to pay.",
        "account": "To account (IBAN)",
        "in_name_of": "In the name of",
        "usage": "Usage in this period",
        "meter": "Meter",
        "used": "Used",
        "included": "Included",
        "billed": "Billed",
        "vat_number": "VAT number",
        "company_number": "Company number",
        "page": "Page",
        "of": "of",
        "continued": "continued",
        "S": "VAT",
        "Z": "Zero-rated",
        "E": "Exempt",
        "AE": "Reverse charge",
        "K": "Intra-Community supply",
        "G": "Export",
        "O": "Outside the scope of VAT",
    },
    "nl": {
        "invoice": "Factuur",
        "credited": "Betaald uit tegoed",
        "wallet": "Betaald uit uw saldo",
        "to_pay": "Te betalen",
        "note_number": "Nummer",
        "note_issued": "Datum",
        "note_to": "Aan",
        "credit_note": "Creditnota",
        "credits": "Bij factuur",
        "credit": "Tegoed",
        "reason": "Reden",
        "credit_open": "Dit bedrag hoeft u niet meer te betalen.",
        "credit_refund": "U krijgt dit bedrag terug langs de weg waarop u betaalde.",
        "credit_credit": "Dit bedrag gaat af van uw volgende facturen.",
        "billed_to": "Factuur aan",
        "number": "Factuurnummer",
        "issued": "Factuurdatum",
        "period": "Leveringsperiode",
        "due": "Vervaldatum",
        "reference": "Betalingskenmerk",
        "description": "Omschrijving",
        "quantity": "Aantal",
        "unit_price": "Prijs per stuk",
        "vat": "Btw",
        "amount": "Bedrag",
        "subtotal": "Subtotaal",
        "vat_total": "Btw",
        "total": "Totaal",
        "vat_specification": "Btw-specificatie",
        "base": "Grondslag",
        "payment": "Betaling",
        "paid": "Deze factuur is betaald. U hoeft niets te doen.",
        "pay": "Betaal {amount} uiterlijk {due}, onder vermelding van {reference}.",
        "nothing_due": "U hoeft niets te betalen.",
        "account": "Op rekening (IBAN)",
        "in_name_of": "Ten name van",
        "usage": "Verbruik in deze periode",
        "meter": "Meter",
        "used": "Verbruikt",
        "included": "Inbegrepen",
        "billed": "In rekening",
        "vat_number": "Btw-nummer",
        "company_number": "Bedrijfsnummer",
        "page": "Pagina",
        "of": "van",
        "continued": "vervolg",
        "S": "Btw",
        "Z": "Nultarief",
        "E": "Vrijgesteld",
        "AE": "Btw verlegd",
        "K": "Intracommunautaire levering",
        "G": "Uitvoer",
        "O": "Buiten de werking van de btw",
    },
}

_compiling = threading.Lock()


def render_invoice(document: InvoiceDocument, language: Language) -> bytes:
    """The invoice as a PDF/A-3a, the same bytes for the same arguments.

    Texts are shown as `shown` says. Raises ValueError when there are more than LINES_MAX lines.
    """
    if len(document.lines) > LINES_MAX:
        raise ValueError(f"an invoice shows at most {LINES_MAX} lines")
    data = json.dumps(_shown_everywhere(_page(document, language)), ensure_ascii=False)
    made = datetime.combine(document.issued_on, time(), UTC)
    with _compiling:  # a compiler works on one document at a time
        pdf = _compiler().compile(
            input=_TEMPLATE,
            format="pdf",
            sys_inputs={"data": data},
            pdf_standards="a-3a",
            timestamp=made,
        )
    assert isinstance(pdf, bytes)
    return pdf


def shown(text: str) -> str:
    """How a text is printed: itself, but for what can't or mustn't be drawn.

    Composed (NFC); blanks of any kind become a space, line ends stay; a character that the fonts
    lack (emoji, Chinese), a control (NUL) and an invisible one that reorders or hides text (bidi
    overrides, zero-width) is written out as its code point: `[U+1F600]`. So nothing is lost
    silently, and nothing on the page can lie about its order. Cut at TEXT_MAX characters.
    """
    if len(text) <= TEXT_MAX and text.isascii() and text.isprintable():
        return text
    composed = unicodedata.normalize("NFC", text[: TEXT_MAX + 1])
    if len(composed) > TEXT_MAX:
        composed = composed[: TEXT_MAX - 1] + "…"
    return "".join(_drawn(character) for character in composed)


# What the fonts inside typst (Libertinus Serif first) draw, by whole Unicode blocks: Latin, Greek,
# Cyrillic, Armenian, Hebrew, Arabic letters, Georgian, punctuation, currencies, arrows,
# mathematics. tests/rooms/billing/test_documents.py draws every one of them.
_DRAWN = (
    *((0x20, 0x7E), (0xA1, 0xAC), (0xAE, 0x36F), (0x370, 0x377), (0x37A, 0x37F)),
    *((0x384, 0x38A), (0x38C, 0x38C), (0x38E, 0x3A1), (0x3A3, 0x482), (0x48A, 0x4FF)),
    *((0x5D0, 0x5EA), (0x621, 0x63A), (0x641, 0x64A), (0x660, 0x66D), (0x10D0, 0x10F0)),
    *((0x1E00, 0x1EFF), (0x2010, 0x2027), (0x2030, 0x2037), (0x2039, 0x2040), (0x20A0, 0x20BF)),
    *((0x2116, 0x2116), (0x2122, 0x2122), (0x2126, 0x2127), (0x2153, 0x215E), (0x2190, 0x21FF)),
    *((0x2200, 0x222E), (0x2248, 0x2248), (0x2260, 0x2265), (0x25A0, 0x25FF), (0x2713, 0x2718)),
)


def _drawn(character: str) -> str:
    point = ord(character)
    if character == "\n" or any(first <= point <= last for first, last in _DRAWN):
        return character
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return " "
    return f"[U+{point:04X}]"


def _shown_everywhere(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {name: _shown_everywhere(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown_everywhere(each) for each in value]
    return value


@cache
def _compiler() -> typst.Compiler:
    return typst.Compiler(
        root=_TEMPLATES,
        ignore_system_fonts=True,
        package_path=_TEMPLATES,
        package_cache_path=_TEMPLATES,
    )


def _page(document: InvoiceDocument, language: Language) -> dict[str, Any]:
    """The template's input: labels and values, all of them text as it is to be read."""
    labels = _LABELS[language]
    written = _Writer(language, document.currency)
    kind = labels["invoice" if document.credits is None else "credit_note"]
    if document.credits is not None:
        own = {"number": "note_number", "issued": "note_issued", "billed_to": "note_to"}
        labels = labels | {name: labels[of] for name, of in own.items()}
    return {
        "language": language,
        "labels": labels,
        "heading": kind,
        "title": f"{kind} {document.number}",
        "continued": f"{kind} {document.number}, {labels['continued']}",
        "footer": _footer(document.seller),
        "seller": written.party(document.seller, labels),
        "buyer": written.party(document.buyer, labels),
        "meta": _meta(document, labels, written),
        "lines": [
            [
                line.description,
                written.number(line.quantity),
                "" if line.unit_price is None else written.price(line.unit_price),
                written.percent(line.vat_rate),
                written.money(line.amount_minor),
            ]
            for line in document.lines
        ],
        "taxes": [
            [
                f"{labels[tax.category]} {written.percent(tax.rate)}",
                written.money(tax.base_minor),
                written.money(tax.tax_minor),
            ]
            for tax in document.taxes
        ],
        "totals": _totals(document, labels, written),
        "payment": _payment(document, labels, written),
        "legal_text": document.legal_text,
        "notes": document.notes and f"{labels['reason']}: {document.notes}",
        "usage": [
            [
                row.meter,
                written.number(row.used),
                "–" if row.included is None else written.number(row.included),
                written.number(row.billed),
            ]
            for row in document.usage
        ],
    }


def _meta(
    document: InvoiceDocument, labels: Mapping[str, str], written: "_Writer"
) -> list[list[str]]:
    period = span_text(document.supply_from, document.supply_to, written.language)
    first = [
        [labels["number"], document.number],
        [labels["issued"], written.day(document.issued_on)],
    ]
    if document.credits is not None:
        return [*first, [labels["credits"], document.credits], [labels["period"], period]]
    return [
        *first,
        [labels["period"], period],
        [labels["due"], written.day(document.due_on)],
        [labels["reference"], document.payment_reference],
    ]


def _totals(
    document: InvoiceDocument, labels: Mapping[str, str], written: "_Writer"
) -> list[list[str]]:
    """The sums, the last of them the one that counts."""
    rows = [
        [labels["subtotal"], written.money(document.subtotal_minor)],
        [labels["vat_total"], written.money(document.tax_minor)],
        [f"{labels['total']} ({document.currency})", written.money(document.total_minor)],
    ]
    taken = {"credited": document.credited_minor, "wallet": document.wallet_minor}
    rows += [[labels[name], written.money(-minor)] for name, minor in taken.items() if minor]
    if any(taken.values()):
        rows.append([f"{labels['to_pay']} ({document.currency})", written.money(_due(document))])
    return rows


def _due(document: InvoiceDocument) -> int:
    return document.total_minor - document.credited_minor - document.wallet_minor


def _footer(seller: Party) -> str:
    parts = (seller.name, *seller.address, seller.vat_number, seller.company_number)
    line = "  ·  ".join(part for part in parts if part)
    return line if len(line) <= FOOTER_MAX else line[: FOOTER_MAX - 1] + "…"


def _payment(
    document: InvoiceDocument, labels: Mapping[str, str], written: "_Writer"
) -> dict[str, Any]:
    if document.credits is not None:
        sentence = labels[f"credit_{document.disposition}"]
        return {"title": labels["credit"], "sentence": sentence, "facts": []}
    if document.paid or _due(document) <= 0:
        text = labels["paid"] if document.paid else labels["nothing_due"]
        return {"title": labels["payment"], "sentence": text, "facts": []}
    sentence = labels["pay"].format(
        amount=written.money(_due(document)),
        due=written.day(document.due_on),
        reference=document.payment_reference,
    )
    facts = []
    if document.seller.iban is not None:
        facts = [
            [labels["account"], _grouped(document.seller.iban)],
            [labels["in_name_of"], document.seller.name],
        ]
    return {"title": labels["payment"], "sentence": sentence, "facts": facts}


def _grouped(iban: str) -> str:
    """An IBAN in groups of four, as its standard prints it."""
    compact = iban.replace(" ", "")
    return " ".join(compact[start : start + 4] for start in range(0, len(compact), 4))


class _Writer:
    """Numbers, days and money as people of one language write them."""

    def __init__(self, language: Language, currency: str) -> None:
        self.language = language
        self.locale = Locale.parse(LOCALES[language])
        self.currency = currency

    def money(self, amount_minor: int) -> str:
        amount = major(Money(amount_minor, self.currency))
        return format_currency(amount, self.currency, locale=self.locale)

    def price(self, price: UnitPrice) -> str:
        """All its places, and at least those of the currency."""
        places = max(-int(price.normalize().as_tuple().exponent), self._places())
        pattern = self.locale.currency_formats["standard"].pattern
        wide = pattern.replace("0.00", f"0.{'0' * places}" if places else "0")
        return format_currency(
            price, self.currency, format=wide, locale=self.locale, currency_digits=False
        )

    def _places(self) -> int:
        return -int(major(Money(0, self.currency)).as_tuple().exponent)

    def number(self, number: Decimal) -> str:
        return format_decimal(number, format="#,##0.############", locale=self.locale)

    def percent(self, rate: Decimal) -> str:
        return format_percent(rate / 100, format="#,##0.##%", locale=self.locale)

    def day(self, day: date) -> str:
        return format_date(day, "d MMMM y", locale=self.locale)

    def party(self, party: Party, labels: Mapping[str, str]) -> dict[str, Any]:
        numbers = [
            f"{labels[name]} {value}"
            for name, value in (
                ("vat_number", party.vat_number),
                ("company_number", party.company_number),
            )
            if value is not None
        ]
        return {
            **asdict(party),
            "country": self.locale.territories.get(party.country, party.country),
            "numbers": numbers,
        }
