# SPDX-License-Identifier: Apache-2.0
"""The portal's pages over HTTP: their policy, their files, and what is not theirs."""

import gzip
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from nimbus.base import problems
from nimbus.portal import pages

ROUTES = Path(__file__).resolve().parents[2] / "web" / "src" / "routes"
INDEX = "<!doctype html><script nonce='NIMBUS_CSP_NONCE' src='/assets/app-1.js'></script>"
SCRIPT = b"console.log('hello')" * 100


@pytest.fixture
def static(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(INDEX)
    (folder / "assets" / "app-1.js").write_bytes(SCRIPT)
    (folder / "assets" / "notes.txt").write_text("not a kind of file that a page loads")
    (tmp_path / "secret.js").write_text("outside")
    return folder


def client(static: Path) -> TestClient:
    app = FastAPI()
    problems.install(app)
    app.include_router(pages.create_pages(static))
    return TestClient(app)


def test_every_answer_has_a_fresh_nonce_in_its_policy_and_its_page(static: Path) -> None:
    seen = set()
    for _ in range(3):
        answer = client(static).get("/")
        policy = answer.headers["content-security-policy"]
        (nonce,) = set(re.findall(r"'nonce-([^']{20,})'", policy))
        assert f"nonce='{nonce}'" in answer.text
        assert pages.NONCE_PLACEHOLDER not in answer.text
        seen.add(nonce)
    assert len(seen) == 3


def test_the_policy_allows_nothing_inline_and_no_other_host(static: Path) -> None:
    policy = client(static).get("/sign-in").headers["content-security-policy"]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["base-uri"] == directives["frame-ancestors"] == "'none'"
    assert directives["connect-src"] == directives["form-action"] == "'self'"
    for unsafe in ("unsafe-inline", "unsafe-eval", "http:", "https:", "*"):
        assert unsafe not in policy


def test_every_page_carries_the_security_headers_and_is_never_stored(static: Path) -> None:
    for path in pages.PATHS:
        answer = client(static).get(path)
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in answer.headers["permissions-policy"]
        assert client(static).head(path).status_code == 200


def test_files_are_kept_for_ever_and_compressed_where_asked(static: Path) -> None:
    plain = client(static).get("/assets/app-1.js", headers={"Accept-Encoding": "identity"})
    assert plain.content == SCRIPT
    assert "content-encoding" not in plain.headers
    assert "immutable" in plain.headers["cache-control"]
    assert plain.headers["content-type"].startswith("text/javascript")
    assert plain.headers["x-content-type-options"] == "nosniff"
    with client(static).stream(
        "GET", "/assets/app-1.js", headers={"Accept-Encoding": "gzip, br"}
    ) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Accept-Encoding"
        assert gzip.decompress(b"".join(packed.iter_raw())) == SCRIPT


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../index.html",
        "/assets/../../secret.js",
        "/assets/%2e%2e/%2e%2e/secret.js",
        "/assets/..%2f..%2fsecret.js",
        "/assets//etc/passwd",
        "/assets/notes.txt",
        "/assets/app-1.js%00.txt",
        "/assets/",
    ],
)
def test_only_the_names_that_the_build_made_are_served(static: Path, path: str) -> None:
    answer = client(static).get(path)
    assert answer.status_code == 404
    assert "outside" not in answer.text


@pytest.mark.parametrize("path", ["/api/nothing", "/billing/invoices", "/devportal/x", "/metrics"])
def test_addresses_of_others_are_not_answered_with_the_page(static: Path, path: str) -> None:
    answer = client(static).get(path)
    assert answer.status_code == 404
    assert "<script" not in answer.text


def test_a_missing_build_is_said_clearly_and_found_when_it_comes(tmp_path: Path) -> None:
    static = tmp_path / "static"
    visitor = client(static)
    answer = visitor.get("/")
    assert answer.status_code == 503
    assert answer.json()["code"] == "unavailable"
    assert "make setup" in answer.json()["detail"]
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text(INDEX)
    assert visitor.get("/").status_code == 200


def test_the_server_and_the_portal_know_the_same_addresses() -> None:
    sources = "\n".join(path.read_text() for path in ROUTES.glob("*.tsx"))
    declared = re.findall(r"^  path: '([^']+)',", sources, re.MULTILINE)
    assert set(declared) == set(pages.PATHS)
