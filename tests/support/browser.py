# SPDX-License-Identifier: Apache-2.0
"""A real Chromium for the tests, and a page that remembers whatever went wrong on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    sync_playwright,
)

FETCHED = Path(__file__).resolve().parents[2] / "build" / "chromium"

# For root in a sandbox, quiet, and silent towards the outside. Nothing here weakens the web's own
# security: that is under test.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

AXE = Path(__file__).resolve().parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
AXE_RUN = """async () => {
  const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
  const { violations } = await axe.run(document, { runOnly: tags });
  return violations.flatMap(({ id, nodes }) =>
    nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
}"""

REPORT_VIOLATIONS = """
document.addEventListener('securitypolicyviolation', (event) => {
  window.reportViolation(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`);
});
"""

FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


@dataclass
class Watched:
    """A browser context with a list of what a good page never has."""

    context: BrowserContext
    page: Page
    faults: list[str] = field(default_factory=list)


def accessibility_faults(page: Page) -> list[str]:
    """What axe finds on the page as it stands, by WCAG 2.2 AA and good practice."""
    page.evaluate(AXE.read_text())
    found: list[str] = page.evaluate(AXE_RUN)
    return found


def find_chromium() -> Path:
    """`$CHROMIUM`, `/usr/bin/chromium`, the npm package; a missing one fails the run."""
    fetched = FETCHED / "chromium"
    for path in (os.environ.get("CHROMIUM", ""), "/usr/bin/chromium", str(fetched)):
        if path and os.access(path, os.X_OK):
            return Path(path)
    raise FileNotFoundError("no Chromium: run `python tools/fetch_chromium.py` (`make setup` does)")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A started browser with a fresh profile; ended with the block."""
    executable = find_chromium()
    with TemporaryDirectory(prefix="nimbus-browser-") as folder:
        environment = dict(os.environ)
        if executable.parent == FETCHED:
            fonts = Path(folder) / "fonts.conf"
            fonts.write_text(FONTS.format(fonts=FETCHED / "fonts", cache=folder))
            environment["FONTCONFIG_FILE"] = str(fonts)
            environment["LD_LIBRARY_PATH"] = str(FETCHED / "al2023" / "lib")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=executable, args=list(ARGUMENTS), env=environment
            )
            yield browser
            browser.close()


@contextmanager
def watched_page(browser: Browser, origin: str, **options: object) -> Iterator[Watched]:
    """A page of its own, whose console errors, violations and foreign requests are faults.

    `origin` is the only one that the page may ask; `options` are those of a playwright context.
    """
    context = browser.new_context(base_url=origin, **options)
    watched = Watched(context, context.new_page())

    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            watched.faults.append(f"console {message.type}: {message.text}")

    def on_request(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in {"data", "blob"} and f"{url.scheme}://{url.netloc}" != origin:
            watched.faults.append(f"foreign request: {request.url}")

    context.on("console", on_console)
    context.on("weberror", lambda error: watched.faults.append(f"uncaught: {error.error}"))
    context.on("request", on_request)
    context.expose_function(
        "reportViolation", lambda text: watched.faults.append(f"policy violated: {text}")
    )
    context.add_init_script(REPORT_VIOLATIONS)
    try:
        yield watched
    finally:
        context.close()
