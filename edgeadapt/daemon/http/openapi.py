"""The description of the HTTP interface, OpenAPI 3.1, from the route table and the structs that
read every request.

Regenerate the committed one with ``python -m edgeadapt.daemon.http.openapi >
docs/format/daemon.openapi.json``.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from edgeadapt import __version__
from edgeadapt.daemon.decoding.codec import JSON, TEXT
from edgeadapt.daemon.http.route import Asked, Reply, Route
from edgeadapt.daemon.http.routes import ROUTES
from edgeadapt.daemon.http.schemas import Facts, Failure
from edgeadapt.daemon.operations import Operations

_REF = "#/components/schemas/{name}"
_WHY = {
    400: "The request cannot be read.",
    401: "The token is missing or wrong.",
    403: "The request comes from another site, or names another host.",
    404: "There is no such thing, or no longer.",
    409: "What is kept does not allow it.",
    413: "The body is too large.",
    415: "The body has a type that is not read here.",
    422: "What was asked does not fit; the message says why.",
    429: "The budget of the day is used up.",
    500: "A fault of the daemon; the log has its request id.",
    503: "Too busy, not ready, or out of time.",
    507: "The disk is full or failing; nothing was changed.",
}
_ALWAYS = (400, 401, 403, 500, 503)
_OF_THE_SERVICE = (409, 422)
_OF_A_BODY = (413, 415)


def document() -> dict[str, Any]:
    """The description as plain values; equal tables give equal documents."""
    types = [
        kind
        for route in ALL_ROUTES
        for kind in (route.body, route.query, route.answer)
        if kind is not None and not isinstance(kind, str)
    ]
    schemas, components = msgspec.json.schema_components([*types, Failure], ref_template=_REF)
    schema_of = {id(kind): schema for kind, schema in zip([*types, Failure], schemas, strict=True)}
    queries = {route.query.__name__ for route in ALL_ROUTES}
    paths: dict[str, Any] = {}
    for route in ALL_ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, schema_of, components
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeadapt",
            "version": __version__,
            "summary": "A model that keeps learning after it shipped, as a service.",
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {
                name: schema for name, schema in sorted(components.items()) if name not in queries
            },
            "responses": {str(status): _failure(status) for status in _WHY},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed wherever the daemon was given one.",
                }
            },
        },
    }


def _operation(
    route: Route, schema_of: dict[int, Any], components: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.run.__name__.lstrip("_"),
        "summary": route.summary,
    }
    inside = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    fields = components[route.query.__name__]["properties"]
    after = [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in fields.items()
    ]
    if inside or after:
        operation["parameters"] = inside + after
    if route.body is not None:
        binary = {
            media: {"schema": {"type": "string", "format": "binary"}} for media in route.media
        }
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schema_of[id(route.body)]}} | binary,
        }
    if isinstance(route.answer, str):
        kind = (
            {"type": "string"} if route.answer == TEXT else {"type": "string", "format": "binary"}
        )
        content: dict[str, Any] = {route.answer.split(";")[0]: {"schema": kind}}
    else:
        content = {JSON: {"schema": schema_of[id(route.answer)]}}
    statuses = sorted(
        {
            *_ALWAYS,
            *_OF_THE_SERVICE,
            *route.refusals,
            *(_OF_A_BODY if route.body is not None else ()),
        }
    )
    operation["responses"] = {"200": {"description": "Done.", "content": content}} | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses
    }
    # a probe that fails says so in the words of its answer
    if route.is_probe and not isinstance(route.answer, str):
        either = {"anyOf": [schema_of[id(route.answer)], schema_of[id(Failure)]]}
        operation["responses"]["503"] = {
            "description": _WHY[503],
            "content": {JSON: {"schema": either}},
        }
    return operation


def _failure(status: int) -> dict[str, Any]:
    return {
        "description": _WHY[status],
        "content": {JSON: {"schema": {"$ref": _REF.format(name="Failure")}}},
    }


@cache
def document_text() -> str:
    """The bytes of the committed file and of ``/openapi.json``."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2).decode() + "\n"


def _document(operations: Operations, asked: Asked) -> Reply:
    """This description, as OpenAPI 3.1."""
    return Reply(document_text().encode())


ALL_ROUTES = (*ROUTES, Route("GET", "/openapi.json", "view", _document, Facts, is_probe=True))
"""What the server answers: the table and its description."""


if __name__ == "__main__":
    print(document_text(), end="")

__all__ = ["ALL_ROUTES", "document", "document_text"]
