"""Every operation of the description, fuzzed by schemathesis over a real socket: what is sent fits
the schemas or just misses them, and what comes back fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

schemathesis = pytest.importorskip(
    "schemathesis", reason="schemathesis is not installed: pip install 'edgeadapt[dev]'"
)
pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn
pytest.importorskip("edgeadapt.daemon.monitoring.metrics")  # with prometheus_client

from process import Daemon  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from edgeadapt.demo.sample import load_sample  # noqa: E402

DESCRIPTION = Path(__file__).parents[3] / "docs" / "format" / "daemon.openapi.json"
TOKEN = "a-token-of-the-tests"
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
)

schema = schemathesis.openapi.from_path(str(DESCRIPTION))

OPERATIONS = {
    operation.label: operation
    for operation in (found.ok() for found in schema.get_all_operations())
}


@schemathesis.serializer("application/x-npy")
def as_it_is(context: Any, value: Any) -> Any:
    """Bytes of any kind: the schema cannot say what a ``.npy`` is."""
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon with a token that has met samples, asks questions and has a history."""
    folder = tmp_path_factory.mktemp("fuzzed")
    with Daemon(
        folder,
        '[policy]\nnew_classes = "add"\n[loop]\nbatch = 8\n',
        control="max_body_mib = 1\n",
        token=TOKEN,
    ) as daemon:
        x = load_sample().x
        for start in range(0, 256, 64):
            names = [str(n) for n in range(start, start + 64)]
            assert (
                daemon.ask(
                    "POST",
                    "/v1/observe",
                    {"x": (255 - x[start : start + 64]).tolist(), "names": names},
                ).status
                == 200
            )
        labels = [{"sample": str(n), "label": "Coat"} for n in range(8)]
        assert daemon.ask("POST", "/v1/labels", {"labels": labels}).json["received"] == 8
        yield daemon.url
        health = daemon.ask("GET", "/healthz").json
        assert health["ok"] and health["problems"] == [] and "Traceback" not in daemon.log


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_operation_keeps_to_the_description_whatever_is_sent(label: str, url: str) -> None:
    operation, statuses = OPERATIONS[label], set[int]()
    takes_something = bool(operation.body or operation.query or operation.path_parameters)
    modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if takes_something else [])]

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]))
    def keeps_to_it(case: Any) -> None:
        statuses.add(
            case.call_and_validate(
                base_url=url,
                headers={"authorization": f"Bearer {TOKEN}"},
                checks=CHECKS,
                timeout=60,
            ).status_code
        )

    keeps_to_it()
    assert statuses and (400 in statuses or 422 in statuses or 404 in statuses) == takes_something


@pytest.mark.parametrize("label", OPERATIONS)
def test_without_the_token_every_operation_is_refused_as_described(label: str, url: str) -> None:
    @settings(
        max_examples=1,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[label].as_strategy())
    def is_refused(case: Any) -> None:
        assert (
            case.call_and_validate(base_url=url, checks=CHECKS[:-1], timeout=60).status_code == 401
        )

    is_refused()
