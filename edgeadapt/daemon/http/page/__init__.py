"""The status page: a handful of files as they lie here, without a build step, a library, or
anything from another host.

They say nothing that is secret, so a browser gets them without a token; what they show, the page
asks the HTTP interface for.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from edgeadapt.daemon.operations import Operations

_MEDIA = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FILES = {"/": "index.html"} | {
    f"/page/{name}": name
    for name in (
        "page.css",
        "page.js",
        "asking.js",
        "charts.js",
        "dom.js",
        "grid.js",
        "past.js",
        "quality.js",
        "queue.js",
        "record.js",
        "role.js",
        "words.js",
        "icon.svg",
    )
}
PATHS = frozenset(_FILES)
"""What is answered without a token."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src"
    " 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def routes(operations: Operations) -> list[Route]:
    """One for each file, counted by the metrics of ``operations`` as ``/`` and ``/page``."""
    return [Route(path, _endpoint(operations, path), methods=["GET"]) for path in _FILES]


def _endpoint(operations: Operations, path: str) -> Callable[[Request], Awaitable[Response]]:
    name = _FILES[path]
    body = (files(__name__) / name).read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = _HEADERS | {"etag": tag}
    media = _MEDIA[name.rpartition(".")[2]]

    async def endpoint(request: Request) -> Response:
        started = time.monotonic()
        is_known = tag in (
            one.strip().removeprefix("W/")
            for one in request.headers.get("if-none-match", "").split(",")
        )
        response = (
            Response(status_code=304, headers=headers)
            if is_known
            else Response(body, 200, headers, media)
        )
        if operations.metrics is not None:
            operations.metrics.requested(
                "/" if path == "/" else "/page", response.status_code, time.monotonic() - started
            )
        return response

    return endpoint


__all__ = ["PATHS", "routes"]
