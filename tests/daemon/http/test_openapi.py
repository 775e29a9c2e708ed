"""The description of the HTTP interface is that of the code, and what the daemon says fits it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from http_client import ask
from kiosk import Kiosk, images, serving
from schema_meaning import meaning

from edgeadapt.daemon.http.openapi import ALL_ROUTES, document, document_text
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import open as open_learner

COMMITTED = Path(__file__).parents[3] / "docs" / "format" / "daemon.openapi.json"
REGENERATE = "python -m edgeadapt.daemon.http.openapi > docs/format/daemon.openapi.json"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with open_learner(bundle_path()) as learner, serving(Kiosk(learner)) as found:
        yield found


def test_the_committed_description_has_not_drifted() -> None:
    assert meaning(json.loads(COMMITTED.read_text())) == meaning(json.loads(document_text())), (
        f"the interface changed: {REGENERATE}"
    )


def test_the_daemon_serves_its_own_description(url: str) -> None:
    said = ask(url, "GET", "/openapi.json")
    assert said.status == 200 and said.body.decode() == document_text()


def test_every_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    text, components = document_text(), document()["components"]
    named = set(re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', text))
    assert named == {(kind, name) for kind in ("schemas", "responses") for name in components[kind]}


def test_each_route_is_described_once_with_a_summary_and_its_own_statuses() -> None:
    paths = document()["paths"]
    operations = {
        (method.upper(), path): operation
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    assert operations.keys() == {(route.method, route.path) for route in ALL_ROUTES}
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    for route in ALL_ROUTES:
        operation = operations[route.method, route.path]
        assert (
            operation["summary"].endswith(".")
            and {str(status) for status in route.refusals} <= operation["responses"].keys()
        )
        assert ("requestBody" in operation) == (route.body is not None)
        given = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
        assert given == [field.name for field in msgspec.structs.fields(route.query)]


def test_every_route_of_the_description_answers_and_what_it_says_fits(url: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    written: dict[str, Any] = json.loads(document_text())
    bodies: dict[str, Any] = {
        "/v1/predict": {"x": images(2).tolist()},
        "/v1/observe": {"x": images(2).tolist(), "names": ["a", "b"]},
        "/v1/labels": {"labels": [{"sample": "a", "label": "Dress"}]},
        "/v1/classes": {"name": "Hat"},
        "/v1/forget": {"source": "nobody"},
        "/v1/withdraw": {"samples": ["a"]},
        "/v1/rollback": {},
        "/v1/freeze": {"frozen": False},
        "/v1/pause": {"paused": False},
        "/v1/swap": {"bundle": "none.edge"},
    }
    for route in ALL_ROUTES:
        body = bodies.get(route.path) if route.method == "POST" else None
        said = ask(
            url, route.method, route.path.replace("{id}", "none").replace("{name}", "Hat"), body
        )
        response = written["paths"][route.path][route.method.lower()]["responses"][str(said.status)]
        if "$ref" in response:
            response = written["components"]["responses"][response["$ref"].rpartition("/")[2]]
        media = said.headers["content-type"].partition(";")[0]
        assert media in response["content"] and said.status in (200, 404, 409, 422), (
            route.path,
            said.body,
        )
        if media == "application/json":
            schema = response["content"][media]["schema"] | {"components": written["components"]}
            jsonschema.Draft202012Validator(schema).validate(said.json)


def test_what_the_schemas_of_requests_allow_is_what_the_code_reads() -> None:
    schemas = document()["components"]["schemas"]
    for route in ALL_ROUTES:
        if route.body is not None:
            schema = schemas[route.body.__name__]
            fields = msgspec.structs.fields(route.body)
            assert schema["additionalProperties"] is False and set(schema["properties"]) == {
                field.encode_name for field in fields
            }
            assert set(schema["required"]) == {
                field.encode_name for field in fields if field.required
            }
