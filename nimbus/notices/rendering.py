# SPDX-License-Identifier: Apache-2.0
"""A notice's words: subject, text and HTML, in Dutch and English.

`templates/<name>.toml` holds a notice's sentences in both languages, as Jinja templates;
`layout.mjml` and `layout.txt` how any notice looks. The MJML becomes HTML once, at the first use,
before any value is known; values are then put into the HTML with autoescape on. So what people
wrote never passes through the MJML parser, and is escaped in one place.
"""

import tomllib
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import mrml
from jinja2 import Environment, StrictUndefined, Template

TemplateName = Literal[
    "verification",
    "registration_repeated",
    "password_reset",
    "invitation",
    "welcome",
    "invoice",
    "payment_received",
    "quota_threshold",
    "limit_threshold",
    "balance_threshold",
    "trial_ending",
    "plan_change",
]
Language = Literal["en", "nl"]

VALUE_MAX = 200
"""Characters of a value that people wrote; longer ones end in an ellipsis."""

_TEMPLATES = Path(__file__).with_name("templates")
_words = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701 - plain text
_html = Environment(undefined=StrictUndefined, autoescape=True)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A notice ready to be sent; the subject is one line."""

    subject: str
    text: str
    html: str


def render(
    template: TemplateName, locale: Language, *, url: str, brand: str, **data: str
) -> Rendered:
    """The notice `template` in `locale`; its button leads to `url`, `brand` is who sends it.

    Line breaks, controls and characters that reorder text are taken out of the values in `data`.
    Raises jinja2.UndefinedError when a value is missing.
    """
    values = {name: one_line(value) for name, value in data.items()}
    sentences = {
        part: _filled(sentence, values) for part, sentence in _sentences(template)[locale].items()
    }
    context = {"facts": [], **sentences, "url": url, "brand": one_line(brand), "locale": locale}
    return Rendered(
        subject=one_line(str(sentences["subject"])),
        text=_text_layout().render(context),
        html=_html_layout().render(context),
    )


def one_line(text: str) -> str:
    """`text` on one line without controls and bidi overrides, at most VALUE_MAX characters."""
    kept = (
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
    )
    line = " ".join("".join(kept).split())
    return line if len(line) <= VALUE_MAX else line[: VALUE_MAX - 1] + "…"


def _filled(sentence: Any, values: dict[str, str]) -> Any:
    if isinstance(sentence, list):
        return [_filled(each, values) for each in sentence]
    return _compiled(sentence).render(values)


@cache
def _compiled(sentence: str) -> Template:
    return _words.from_string(sentence)


@cache
def _sentences(template: TemplateName) -> dict[str, dict[str, Any]]:
    return tomllib.loads((_TEMPLATES / f"{template}.toml").read_text(encoding="utf-8"))


@cache
def _text_layout() -> Template:
    layout = Environment(
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - plain text
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return layout.from_string((_TEMPLATES / "layout.txt").read_text(encoding="utf-8"))


@cache
def _html_layout() -> Template:
    page = mrml.to_html((_TEMPLATES / "layout.mjml").read_text(encoding="utf-8"))
    return _html.from_string(page.content)
