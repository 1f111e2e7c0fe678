# SPDX-License-Identifier: Apache-2.0
"""Every notice in both languages: complete, and deaf to what people wrote."""

import re
import tomllib
from html.parser import HTMLParser
from typing import get_args

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nimbus.notices import rendering
from nimbus.notices.rendering import VALUE_MAX, TemplateName, one_line, render

TEMPLATES = get_args(TemplateName)
URL = "https://nimbus.example/verify-email?token=abc.def"
DATA = {
    "first_name": "Ann",
    "organization": "Café Tapas B.V.",
    "role": "developer",
    "number": "INV-2026-000001",
    "total": "€140.97",
    "due_on": "15 June 2026",
    "payment_reference": "INV-2026-000001",
    "seller": "Nimbus Wind B.V.",
    "buyer": "Tapas Holding N.V.",
    "percent": "80",
    "product": "Wind API",
    "meter": "api_calls",
    "used": "8,000",
    "left": "€2.00",
    "goes_on": "yes",
    "limit": "10,000",
    "resets_on": "1 June 2026",
    "behavior": "deny",
    "of": "key",
    "plan": "Professional",
    "on": "1 July 2026",
    "reason": "dearer wind",
}


class Page(HTMLParser):
    """What a reader of the HTML gets: elements, links, sources and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(html)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("locale", ["en", "nl"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_text_and_html_say_the_same_and_link_only_where_they_should(template, locale):
    made = render(template, locale, url=URL, brand="Nimbus", **DATA)
    page = Page(made.html)
    assert 5 < len(made.subject) < 100
    assert page.links == [URL]
    assert f'lang="{locale}"' in made.html
    assert "{{" not in made.html + made.text
    assert "{%" not in made.html + made.text
    for line in made.text.splitlines():
        sentence = line.removesuffix(":").partition(": ")[0]
        if sentence and sentence != "-- ":
            assert " ".join(sentence.split()) in page.text
    assert not re.findall(r"(?:src|href|url\()\W*https?://(?!nimbus\.example)", made.html)


@pytest.mark.parametrize("template", TEMPLATES)
def test_both_languages_have_the_same_parts(template):
    parts = tomllib.loads((rendering._TEMPLATES / f"{template}.toml").read_text())
    assert parts.keys() == {"en", "nl"}
    assert parts["en"].keys() == parts["nl"].keys()
    for name, english in parts["en"].items():
        dutch = parts["nl"][name]
        assert english != dutch or name == "facts"
        words = [set(re.findall(r"\{\{ (\w+)", str(part))) for part in (english, dutch)]
        assert words[0] == words[1] or "first_name" in words[0]


def test_a_missing_value_is_an_error_and_not_a_gap():
    with pytest.raises(jinja2.UndefinedError):
        render("invoice", "en", url=URL, brand="Nimbus", number="INV-1")


HOSTILE = [
    "<script>alert(1)</script>",
    "</title></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "'-->]]><mj-raw><b>",
    "{{ 7 * 7 }}{% for x in y %}{{ url.__class__ }}",
    "&lt;script&gt;",
    "a\r\nBcc: eve@example.org\r\n\r\nbody",
    "https://evil.example/ click",
    "x" * 10_000,
]


@pytest.mark.parametrize("locale", ["en", "nl"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_people_wrote_is_text_and_nothing_else(text, locale):
    for template in TEMPLATES:
        plain = Page(render(template, locale, url=URL, brand="Nimbus", **DATA).html)
        made = render(template, locale, url=URL, brand="Nimbus", **dict.fromkeys(DATA, text))
        page = Page(made.html)
        assert page.tags == plain.tags
        assert page.links == plain.links
        assert "\n" not in made.subject
        assert len(made.subject) <= VALUE_MAX
        assert not re.search(r"^Bcc:", made.text, re.MULTILINE)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_comes_out_as_it_went_in(text):
    made = render("welcome", "en", url=URL, brand="Nimbus", **{**DATA, "organization": text})
    assert one_line(text) in " ".join(made.text.split(" "))
    expected = " ".join(f"{one_line(text)} is active.".split())
    assert expected in Page(made.html).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\tc\u2028d", "a b c d"),
        ("\u202egpj.exe\u202c", "gpj.exe"),
        ("a\x00b\x1b[31m", "ab[31m"),
        ("  Łódź  ☕ ", "Łódź ☕"),
        ("y" * 201, "y" * 199 + "…"),
    ],
)
def test_one_line_keeps_the_letters(text, expected):
    assert one_line(text) == expected
