# SPDX-License-Identifier: Apache-2.0
"""The invoice's PDF: it says what the document says, in two languages, whatever people wrote."""

import datetime as dt
import io
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from decimal import Decimal

import pymupdf
import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nimbus.billing import documents
from nimbus.billing.documents import (
    LINES_MAX,
    TEXT_MAX,
    DocumentLine,
    DocumentTax,
    InvoiceDocument,
    Party,
    UsageRow,
    render_invoice,
    shown,
)

MARKUP = (
    '#read("/etc/passwd") #import "@preview/x:1.0.0": * #eval("1+1") $x^2$ `raw` ```x``` [b] *b*'
    " _i_ = H // c /* d */ <label> @ref \\ ~ -- --- ... 'q' \"q\" https://x.example #{1 + 1}"
)


def _line(description, quantity, unit_price, amount_minor):
    price = None if unit_price is None else Decimal(unit_price)
    return DocumentLine(
        description=description,
        quantity=Decimal(quantity),
        unit_price=price,
        vat_rate=Decimal(21),
        amount_minor=amount_minor,
    )


REFERENCE = InvoiceDocument(
    seller=Party(
        name="Nimbus Wind B.V.",
        address=("Windmolenkade 12", "1019 CA Amsterdam"),
        country="NL",
        vat_number="NL123456782B01",
        company_number="12345678",
        email="billing@nimbus.example",
        iban="NL91ABNA0417164300",
    ),
    buyer=Party(
        name="Café Tapas B.V.",
        address=("Oudegracht 101", "3511 AE Utrecht"),
        country="NL",
        vat_number="NL001234567B01",
        company_number="87654321",
        email="administratie@tapas.example",
    ),
    number="INV-2026-000001",
    issued_on=dt.date(2026, 6, 1),
    supply_from=dt.date(2026, 5, 1),
    supply_to=dt.date(2026, 5, 31),
    due_on=dt.date(2026, 6, 15),
    currency="EUR",
    lines=(
        _line("Wind API, Starter", "1", "49", 4900),
        _line("API calls above 10,000", "12500", "0.002", 2500),
        _line("Assets above 10", "15", "1.50", 2250),
        _line("PDF reports", "8", "2.50", 2000),
    ),
    taxes=(DocumentTax(category="S", rate=Decimal(21), base_minor=11650, tax_minor=2447),),
    subtotal_minor=11650,
    tax_minor=2447,
    total_minor=14097,
    payment_reference="INV-2026-000001",
    usage=(
        UsageRow(
            meter="API calls", used=Decimal(22500), included=Decimal(10000), billed=Decimal(12500)
        ),
        UsageRow(meter="PDF reports", used=Decimal(8), included=None, billed=Decimal(8)),
    ),
)


def _pages(pdf):
    with pymupdf.open("pdf", pdf) as document:
        return [page.get_text() for page in document]


def _text(pdf):
    """All words, with one blank wherever the page has blanks or line ends."""
    return " ".join(" ".join(_pages(pdf)).split())


def _solid(text):
    return "".join(text.split())


def test_the_english_page_says_what_the_reference_invoice_says():
    text = _text(render_invoice(REFERENCE, "en"))
    for expected in (
        "Nimbus Wind B.V. Windmolenkade 12 1019 CA Amsterdam Netherlands VAT number NL123456782B01",
        "Café Tapas B.V. Oudegracht 101 3511 AE Utrecht Netherlands VAT number NL001234567B01",
        "Invoice number INV-2026-000001 Invoice date 1 June 2026 Supply period 1–31 May 2026",
        "Due date 15 June 2026",
        "Wind API, Starter 1 €49.00 21% €49.00",
        "API calls above 10,000 12,500 €0.002 21% €25.00",
        "Assets above 10 15 €1.50 21% €22.50",
        "PDF reports 8 €2.50 21% €20.00",
        "VAT 21% €116.50 €24.47",
        "Subtotal €116.50 VAT €24.47 Total (EUR) €140.97",
        "Please pay €140.97 by 15 June 2026, quoting INV-2026-000001.",
        "NL91 ABNA 0417 1643 00",
        "API calls 22,500 10,000 12,500",
        "PDF reports 8 – 8",
        "Page 1 of 1",
    ):
        assert expected in text


def test_the_dutch_page_says_the_same_in_dutch():
    text = _text(render_invoice(REFERENCE, "nl"))
    for expected in (
        "Factuurnummer INV-2026-000001 Factuurdatum 1 juni 2026 Leveringsperiode 1–31 mei 2026",
        "3511 AE Utrecht Nederland Btw-nummer NL001234567B01",
        "12.500 € 0,002 21% € 25,00",
        "Subtotaal € 116,50 Btw € 24,47 Totaal (EUR) € 140,97",
        "Betaal € 140,97 uiterlijk 15 juni 2026, onder vermelding van INV-2026-000001.",
        "Pagina 1 van 1",
    ):
        assert expected in text


def test_both_languages_have_every_label():
    english, dutch = documents._LABELS["en"], documents._LABELS["nl"]
    assert english.keys() == dutch.keys()
    for name, label in english.items():
        assert re.findall(r"\{\w+\}", label) == re.findall(r"\{\w+\}", dutch[name])


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (dt.date(2026, 5, 1), dt.date(2026, 5, 31), "1–31 May 2026"),
        (dt.date(2026, 5, 31), dt.date(2026, 6, 29), "31 May – 29 June 2026"),
        (dt.date(2026, 12, 15), dt.date(2027, 1, 14), "15 December 2026 – 14 January 2027"),
        (dt.date(2026, 5, 1), dt.date(2026, 5, 1), "1 May 2026"),
    ],
)
def test_a_supply_period_names_both_its_days(first, last, expected):
    document = replace(REFERENCE, supply_from=first, supply_to=last)
    assert f"Supply period {expected} Due date" in _text(render_invoice(document, "en"))


@pytest.mark.parametrize(
    ("currency", "price", "amount_minor", "expected"),
    [
        ("EUR", "0.000000000001", 1, "€0.000000000001 21% €0.01"),
        ("EUR", "1000000", 123456789, "€1,000,000.00 21% €1,234,567.89"),
        ("JPY", "12.5", 1250, "JP¥12.5 21% JP¥1,250"),
        ("KWD", "0.5", 1250, "KWD0.500 21% KWD1.250"),
        ("EUR", "-2.5", -500, "-€2.50 21% -€5.00"),
    ],
)
def test_money_is_written_to_the_last_place_of_its_currency(
    currency, price, amount_minor, expected
):
    line = _line("x", "1", price, amount_minor)
    pdf = render_invoice(replace(REFERENCE, currency=currency, lines=(line,)), "en")
    assert expected in _text(pdf)


def test_a_paid_invoice_asks_for_nothing():
    text = _text(render_invoice(replace(REFERENCE, paid=True), "en"))
    assert "This invoice has been paid." in text
    assert "Please pay" not in text


def test_the_same_document_gives_the_same_bytes_in_another_process_and_another_zone():
    program = (
        "import sys; sys.path[:0] = ['.', 'tests/rooms/billing'];"
        "from test_documents import REFERENCE, render_invoice;"
        "sys.stdout.buffer.write(render_invoice(REFERENCE, 'en'))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env={"TZ": "Pacific/Kiritimati", "HOME": "/nonexistent"},
    )
    here = render_invoice(REFERENCE, "en")
    assert elsewhere.stdout == here
    assert render_invoice(REFERENCE, "en") == here
    assert render_invoice(REFERENCE, "nl") != here


def test_it_is_a_tagged_archival_pdf_dated_on_the_issue_date():
    reader = pypdf.PdfReader(io.BytesIO(render_invoice(REFERENCE, "en")))
    assert reader.metadata.title == "Invoice INV-2026-000001"
    assert reader.metadata.creation_date == dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    metadata = reader.xmp_metadata.stream.get_data().decode()
    assert re.search(r"pdfaid:part\D+3\D", metadata)
    assert re.search(r"pdfaid:conformance\W+A\W", metadata)
    assert reader.trailer["/Root"]["/MarkInfo"]["/Marked"]
    assert reader.trailer["/Root"]["/Lang"] == "en"


def test_lines_run_over_pages_under_a_repeated_header_and_the_totals_stay_together():
    lines = tuple(_line(f"Line {n}", "1", "1", 100) for n in range(1, 61))
    pages = _pages(render_invoice(replace(REFERENCE, lines=lines), "en"))
    assert len(pages) == 3
    whole = " ".join(" ".join(page.split()) for page in pages)
    found = [int(n) for n in re.findall(r"Line (\d+) 1 €1.00", whole)]
    assert found == list(range(1, 61))
    for number, page in enumerate(pages, 1):
        assert "Description\nQuantity\nUnit price" in page
        assert f"Page {number} of 3" in page
    assert [all(w in p for w in ("Subtotal", "Total (EUR)", "€140.97")) for p in pages] == [
        False,
        False,
        True,
    ]


HOSTILE = [
    MARKUP,
    "a]#]}{)(",
    '"}\\u0000{"data":',
    "Łódź Ελλάδα България Čapek İstanbul ẞ ŵ",
    "שלום עולם",
    "x" * TEXT_MAX,
    "{labels}{0}%s%(x)s${x}{{x}}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("place", ["buyer", "seller", "address", "line", "notes", "meter"])
def test_what_people_wrote_is_printed_as_they_wrote_it(place, text):
    document = {
        "buyer": replace(REFERENCE, buyer=replace(REFERENCE.buyer, name=text)),
        "seller": replace(REFERENCE, seller=replace(REFERENCE.seller, name=text)),
        "address": replace(REFERENCE, buyer=replace(REFERENCE.buyer, address=(text,))),
        "line": replace(REFERENCE, lines=(_line(text, "1", "1", 100),)),
        "notes": replace(REFERENCE, notes=text, legal_text=text),
        "meter": replace(REFERENCE, usage=(replace(REFERENCE.usage[0], meter=text),)),
    }[place]
    found = _solid(_text(render_invoice(document, "en")))
    if len(text) == TEXT_MAX:  # it runs over pages, whose footers stand in between
        assert found.count("x") >= TEXT_MAX
    else:
        assert _solid(text) in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bloom 🌸 Studio", "Bloom [U+1F338] Studio"),
        ("Acme\x00Ltd", "Acme[U+0000]Ltd"),
        ("total \u202e00.1€\u202c", "total [U+202E]00.1€[U+202C]"),
        ("zero\u200bwidth\u2066", "zero[U+200B]width[U+2066]"),
        ("漢字", "[U+6F22][U+5B57]"),
        ("\ue000", "[U+E000]"),
        ("\ud800", "[U+D800]"),
        ("no\u00a0break\tand\u3000wide", "no break and wide"),
        ("Cafe\u0301", "Café"),
        ("x" * (TEXT_MAX + 1), "x" * (TEXT_MAX - 1) + "…"),
    ],
)
def test_what_can_not_or_must_not_be_drawn_is_written_out(text, expected):
    assert shown(text) == expected
    if len(text) < 100:
        pdf = render_invoice(replace(REFERENCE, notes=text), "en")
        assert _solid(expected) in _solid(_text(pdf))


def test_every_character_that_is_let_through_has_a_glyph_and_can_be_copied_out():
    # given every assigned character of the table, as a word of its own
    characters = [
        chr(point)
        for first, last in documents._DRAWN
        for point in range(first, last + 1)
        if unicodedata.category(chr(point)) not in ("Cn", "Zs", "Mn")
        and unicodedata.bidirectional(chr(point)) not in ("R", "AL", "AN")
    ]
    composed = [unicodedata.normalize("NFC", character) for character in characters]
    # when they are printed: archival PDF is refused for a character without a glyph
    notes = "\n".join(" ".join(composed[n : n + 30]) for n in range(0, len(composed), 30))
    assert len(notes) < TEXT_MAX
    pdf = render_invoice(replace(REFERENCE, notes=notes), "en")
    # then each comes out again
    assert set(composed) - set(_text(pdf)) == set()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.text(max_size=60), st.sampled_from(["en", "nl"]))
def test_any_text_makes_a_document(text, language):
    document = replace(
        REFERENCE, notes=text, number=text, lines=(_line(text, "1", None, 1),), legal_text=text
    )
    assert render_invoice(document, language).startswith(b"%PDF-1.7")


def test_a_bounded_number_of_lines_is_printed():
    line = _line("x", "1", "1", 1)
    with pytest.raises(ValueError, match="at most 1000 lines"):
        render_invoice(replace(REFERENCE, lines=(line,) * (LINES_MAX + 1)), "en")


def test_the_template_takes_in_nothing_but_its_data():
    template = (documents._TEMPLATES / "invoice.typ").read_text()
    calls = re.findall(
        r"\b(read|json|eval|include|import|image|plugin|csv|xml|yaml)\b\s*\(?", template
    )
    assert calls == ["json"]
    assert [path.name for path in documents._TEMPLATES.iterdir()] == ["invoice.typ"]
