"""What goes back over HTTP, with the headers that everything has."""

from __future__ import annotations

from starlette.responses import Response

from edgeadapt.daemon.decoding.codec import JSON, Refused, encode
from edgeadapt.daemon.http.schemas import Failure

HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


def response_to(refused: Refused, number: str | None = None) -> Response:
    """Why there is no answer. ``number``: under which the log has more."""
    failure = Failure(error=refused.why, kind=refused.kind)
    if number is not None:
        failure = Failure(error=refused.why, kind=refused.kind, request=number)
    return Response(encode(failure), refused.status, HEADERS | refused.headers, JSON)


__all__ = ["HEADERS", "response_to"]
