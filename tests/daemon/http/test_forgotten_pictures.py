"""Pictures after ``forget``: what the daemon goes on showing, what a browser may keep, and what
stands in the log.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn

from http_client import ask

from edgeadapt.daemon.messages import LabelArrival
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import Sample

Made = Callable[..., Any]


def picture_of(service: Service, stream: str, sample: str = "") -> Any:
    return ask(
        service.control.url,
        "GET",
        f"/v1/latest/image?stream={stream}{'&id=' + sample if sample else ''}",
    )


@pytest.mark.parametrize("by", ["samples", "source", "classes"])
def test_the_page_shows_no_picture_of_what_was_forgotten_until_another_sample_comes(
    by: str, serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    service = serve(settings())
    (seen,) = service.observe(sample.x[:1], stream="door", names=["face.png"])
    until(lambda: picture_of(service, "door").status == 200)
    until(lambda: service.status()["latest"].get("door", {}).get("picture"))
    service.label([(seen.id, "Coat")], source="anna")
    what = {"samples": [seen.id], "source": "anna", "classes": ["Coat"]}[by]
    assert service.forget(**{by: what}).removed == 1
    assert (
        picture_of(service, "door").status == 404
        and picture_of(service, "door", seen.id).status == 404
    )
    assert not service.status()["latest"]["door"]["picture"] and not service.context.loop.recent
    service.observe(sample.x[1:2], stream="door")
    until(lambda: picture_of(service, "door").status == 200)


def test_no_answer_with_a_picture_or_a_number_may_be_kept_by_a_browser(
    serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    service = serve(settings())
    for start in range(0, 64, 32):
        service.observe(sample.x[sample.y >= 6][start : start + 32], stream="door")
        service.checkpoint()
    until(lambda: service.questions(1) and picture_of(service, "door").status == 200)
    question = service.questions(1)[0].id
    for path in (
        f"/v1/questions/{question}/image",
        "/v1/latest/image?stream=door",
        "/v1/questions",
        "/v1/status",
        "/v1/history",
        "/v1/questions/none/image",
    ):
        said = ask(service.control.url, "GET", path)
        assert said.headers["cache-control"] == "no-store" and "etag" not in said.headers, path
    service.forget(samples=[question])
    assert ask(service.control.url, "GET", f"/v1/questions/{question}/image").status == 404


def test_the_log_has_no_picture_no_feature_and_no_token_at_its_most_talkative(
    serve: Made, settings: Made, sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        service = serve(settings())
        url, x = service.control.url, sample.x[0]
        seen = ask(
            url,
            "POST",
            "/v1/observe",
            {"x": [x.tolist()], "names": ["one"]},
            {"Authorization": "Bearer a token of nobody"},
        ).json
        ask(
            url,
            "POST",
            "/v1/predict",
            b"\x89PNG\r\n\x1a\n" + x.tobytes(),
            {"Content-Type": "image/png"},
        )
        ask(url, "POST", "/v1/observe", {"x": [x.tolist(), "half"]})
        ask(
            url,
            "POST",
            "/v1/labels",
            {"labels": [{"sample": seen["answers"][0]["id"], "label": "Coat"}], "source": "anna"},
        )
        ask(url, "POST", "/v1/forget", {"source": "anna"})
        service.stop()
    row = ", ".join(map(str, x[14].tolist()))
    for secret in (
        row,
        base64.b64encode(x.tobytes())[:40].decode(),
        repr(x.tobytes()[:40])[2:-1],
        "a token of nobody",
    ):
        assert secret not in caplog.text
    assert max((len(record.getMessage()) for record in caplog.records), default=0) < 2000


def test_a_flood_of_refused_labels_and_unanswered_requests_leaves_a_few_lines_in_the_log(
    serve: Made, settings: Made, sample: Sample, until: Made, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(settings())
    (seen,) = service.observe(sample.x[:1], names=["one"])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for number in range(500):
            service.context.labels.put(
                LabelArrival(seen.id, f"no class {number}" + "x" * 300, "belt")
            )
        for _ in range(100):
            ask(
                service.control.url,
                "POST",
                "/v1/labels",
                b"{",
                {"Content-Type": "application/json"},
            )
        until(lambda: service.status()["labels"]["refused"] == 500)
    assert len(caplog.records) < 20 and len(caplog.text) < 10_000
    assert any("no class 0" in record.getMessage() for record in caplog.records)
