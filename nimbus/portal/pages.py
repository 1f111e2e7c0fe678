# SPDX-License-Identifier: Apache-2.0
"""Serves the built portal: one page under a strict policy, and its files for ever.

`web/` is built into `static/` next to this file. The page is a template: each answer carries a
nonce of its own, so that no inline script or style runs that we did not write. The files under
`/assets/` carry their hash in the name and never change; only names that the build made are
served, so a path that climbs out of the folder is simply not a name.
"""

import gzip
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from nimbus.errors import Refusal

STATIC = Path(__file__).parent / "static"

# The portal's own addresses (web/src/router.ts has the same, and a test compares them). Everything
# else stays free for the API, its aliases without /api, and the products.
PATHS = (
    "/",
    "/sign-in",
    "/register",
    "/verify-email",
    "/forgot-password",
    "/reset-password",
    "/invitation",
    "/onboarding",
    "/keys",
    "/invoices",
    "/subscriptions",
    "/consumers",
    "/plans",
    "/meters",
    "/receivables",
    "/usage",
    "/logs",
    "/analytics",
)

NONCE_PLACEHOLDER = "NIMBUS_CSP_NONCE"

# What every answer of the portal carries, files included.
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_HEADERS = COMMON_HEADERS | {
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
ASSET_HEADERS = COMMON_HEADERS | {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
}


# What the build makes; a file of another kind is not served.
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
COMPRESSED = {".js", ".css", ".svg"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and, where that is worth it, compressed."""

    media_type: str
    content: bytes
    gzipped: bytes | None


@dataclass(frozen=True, slots=True)
class Build:
    """A built portal: the page with its placeholder, and the files it loads, by name."""

    template: str
    assets: dict[str, Asset]


def content_security_policy(nonce: str) -> str:
    """The policy of one page: everything from here, nothing inline but what has the nonce."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}'",
            f"style-src 'self' 'nonce-{nonce}'",
            "img-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


@lru_cache(maxsize=4)
def load(static: Path) -> Build:
    """Read the build in `static` once; raises Refusal `unavailable` while there is none.

    It is kept in memory (some 2 MB): a page and its files stay together when a newer build takes
    the folder under a running process.
    """
    index = static / "index.html"
    if not index.is_file():
        raise Refusal("unavailable", "The portal is not built: run `make setup`.")
    files = [path for path in (static / "assets").iterdir() if path.suffix in MEDIA_TYPES]
    assets = {path.name: read_asset(path) for path in files}
    return Build(index.read_text(encoding="utf-8"), assets)


def read_asset(path: Path) -> Asset:
    """One file of the build, with its media type."""
    content = path.read_bytes()
    gzipped = gzip.compress(content, mtime=0) if path.suffix in COMPRESSED else None
    return Asset(MEDIA_TYPES[path.suffix], content, gzipped)


def create_pages(static: Path) -> APIRouter:
    """The routes of the portal built in `static`: its pages and its files."""
    router = APIRouter()

    def page(request: Request) -> Response:  # noqa: ARG001 - every address has the same page
        nonce = secrets.token_urlsafe(16)
        content = load(static).template.replace(NONCE_PLACEHOLDER, nonce)
        policy = {"Content-Security-Policy": content_security_policy(nonce)}
        return HTMLResponse(content, headers=PAGE_HEADERS | policy)

    def asset(request: Request) -> Response:
        found = load(static).assets.get(request.path_params["name"])
        if found is None:
            raise Refusal("not_found", "There is no such file.")
        if found.gzipped and "gzip" in request.headers.get("accept-encoding", ""):
            headers = ASSET_HEADERS | {"Content-Encoding": "gzip"}
            return Response(found.gzipped, headers=headers, media_type=found.media_type)
        return Response(found.content, headers=ASSET_HEADERS, media_type=found.media_type)

    for path in PATHS:
        router.add_route(path, page, methods=["GET"], include_in_schema=False)
    router.add_route("/assets/{name:path}", asset, methods=["GET"], include_in_schema=False)
    return router


pages = create_pages(STATIC)
