"""The HTTP interface through real sockets, over an open learner."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import stat
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_client import Said, ask, connected
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kiosk import TOKEN, Control, Kiosk, Metrics, images, kiosk, sample, serving  # noqa: F401

from edgeadapt import prepare
from edgeadapt.bundle import read_bundle
from edgeadapt.daemon.decoding.images import png_of
from edgeadapt.daemon.http import route as api
from edgeadapt.daemon.http.openapi import ALL_ROUTES
from edgeadapt.daemon.messages import Answer
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.errors import (
    BudgetError,
    BundleError,
    CapacityError,
    EdgeadaptError,
    InputError,
    RecipeError,
    RuntimeUnavailable,
    StateError,
    StorageError,
)


@pytest.fixture(scope="module")
def url(kiosk: Kiosk) -> Iterator[str]:
    with serving(kiosk, max_body_mib=1.0) as found:
        yield found


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The first chunk of a picture that claims to be large, and an empty end."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rest = b"IDAT" + zlib.compress(b"\0")
    chunks = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (header, rest, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


NPY, PNG = {"Content-Type": "application/x-npy"}, {"Content-Type": "image/png"}


# -- what can be asked -----------------------------------------------------------------------------
def test_a_batch_is_answered_as_the_learner_answers_it_however_it_is_sent(
    kiosk: Kiosk, url: str
) -> None:
    x = images(8)
    expected = kiosk.learner.predict(x)
    fortran, wide = np.asfortranarray(x), npy(x, (2, 0))
    for body, headers in (({"x": x.tolist()}, {}), (npy(x), NPY), (npy(fortran), NPY), (wide, NPY)):
        answers = ask(url, "POST", "/v1/predict", body, headers).json["answers"]
        assert [one["label"] for one in answers] == list(expected.labels)
        np.testing.assert_allclose(
            [one["confidence"] for one in answers], expected.probs.max(axis=1), rtol=1e-5
        )
    features = {"z": expected.embedding, "taps": np.zeros((8, kiosk.manifest.tap_dim), np.float32)}
    said = ask(
        url,
        "POST",
        "/v1/predict",
        {"features": {name: values.tolist() for name, values in features.items()}},
    )
    assert [one["label"] for one in said.json["answers"]] == list(
        kiosk.learner.predict(features=features).labels
    )
    one = ask(url, "POST", "/v1/predict", {"x": x[0].tolist()}).json["answers"]
    assert len(one) == 1 and one[0]["label"] == expected.labels[0]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_is_prepared_as_everywhere_else(kind: str, kiosk: Kiosk, url: str) -> None:
    from PIL import Image

    large = np.kron(images(1)[0], np.ones((5, 7), np.uint8))
    file = io.BytesIO()
    Image.fromarray(np.stack([large] * 3, axis=-1)).save(file, kind)
    file.seek(0)
    decoded = np.asarray(Image.open(file).convert("L"))
    expected = kiosk.learner.predict(prepare(decoded, kiosk.manifest.input))
    said = ask(
        url,
        "POST",
        f"/v1/predict?stream=door%20{kind}",
        file.getvalue(),
        {"Content-Type": f"image/{kind}; q=1"},
    )
    (answer,) = said.json["answers"]
    assert answer["label"] == expected.labels[0] and answer["stream"] == f"door {kind}"
    assert abs(answer["confidence"] - expected.probs.max()) < 1e-5


def test_samples_are_observed_and_labelled_by_id_or_by_name(kiosk: Kiosk, url: str) -> None:
    x = images(3, 20)
    before = kiosk.learner.counters()["observed"]
    seen = ask(
        url, "POST", "/v1/observe", {"x": x.tolist(), "names": ["a", "b", ""], "stream": "belt"}
    ).json["answers"]
    assert kiosk.learner.counters()["observed"] == before + 3 and [one["name"] for one in seen] == [
        "a",
        "b",
        "",
    ]
    assert {one["stream"] for one in seen} == {"belt"} and all(one["id"] for one in seen)
    named = ask(url, "POST", "/v1/observe?name=c&stream=belt", npy(images(1, 30)), NPY).json[
        "answers"
    ]
    assert named[0]["name"] == "c"
    labels = [
        {"sample": "a", "label": "Dress"},
        {"sample": seen[2]["id"], "label": "Coat"},
        {"sample": "c", "label": "Dress"},
    ]
    told = ask(url, "POST", "/v1/labels", {"labels": labels, "source": "tests"})
    assert (
        told.status == 200
        and told.json["received"] == 3
        and told.json["labels"][0]["id"] == seen[0]["id"]
    )
    kiosk.learner.settle()
    assert sum(ask(url, "GET", "/v1/status").json["learner"]["evidence"].values()) == 3
    assert kiosk.learner.forget(source="tests").removed == 3


def test_questions_come_with_their_picture(kiosk: Kiosk, url: str) -> None:
    from PIL import Image

    unknown = sample().x[sample().y >= 6][:64]
    for start in range(0, 64, 32):
        kiosk.learner.observe(unknown[start : start + 32], stream="unknown")
        kiosk.learner.settle()
    questions = ask(url, "GET", "/v1/questions?limit=2").json["questions"]
    assert 1 <= len(questions) <= 2
    said = ask(url, "GET", questions[0]["image"])
    assert said.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(said.body)))
    np.testing.assert_array_equal(shown, kiosk.frame_of(questions[0]["id"]))
    gone = ask(url, "GET", "/v1/questions/0123456789abcdef/image")
    assert gone.status == 404 and gone.kind == "NotFound"


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_a_picture_of_any_form_survives_being_written(shape: tuple[int, ...]) -> None:
    from PIL import Image

    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(png_of(frame)))), frame.squeeze()
    )


@pytest.mark.parametrize("name", ["Hat", "shoes/left", "été 100%", "a?b#c"])
def test_a_class_of_any_name_comes_and_goes(name: str, kiosk: Kiosk, url: str) -> None:
    from urllib.parse import quote

    assert name in ask(url, "POST", "/v1/classes", {"name": name}).json["classes"]
    assert name in kiosk.learner.classes and ask(url, "GET", "/v1/classes").json["classes"] == list(
        kiosk.learner.classes
    )
    assert name not in ask(url, "DELETE", f"/v1/classes/{quote(name, safe='')}").json["classes"]
    again = ask(url, "DELETE", f"/v1/classes/{quote(name, safe='')}")
    assert again.status == 422 and again.kind == "UnknownClassError"


def test_changes_are_told_rolled_back_and_made_durable(kiosk: Kiosk, url: str) -> None:
    start = ask(url, "POST", "/v1/checkpoint").json["commit"]
    assert ask(url, "POST", "/v1/classes", {"name": "Ball"}).status == 200
    history = ask(url, "GET", "/v1/history?limit=3").json["history"]
    assert (
        len(history) <= 3
        and history[0]["number"] == kiosk.learner.history(1)[0].number
        and "class" in history[0]["kind"]
    )
    assert (
        ask(url, "POST", "/v1/rollback", {"to": start}).json == {"commit": start}
        and "Ball" not in kiosk.learner.classes
    )
    assert isinstance(ask(url, "GET", "/v1/decisions").json["decisions"], list)
    for what in ("frozen", "paused"):
        for value in (True, False):
            assert ask(
                url, "POST", f"/v1/{'freeze' if what == 'frozen' else 'pause'}", {what: value}
            ).json == {what: value}
            assert getattr(kiosk, f"is_{what}") is value


def test_an_unsigned_or_missing_bundle_is_refused(url: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none.edge", tmp_path):
        said = ask(url, "POST", "/v1/swap", {"bundle": str(path)})
        assert (said.status, said.kind) == (422, "BundleError")
    if not read_bundle(bundle_path()).signed_by:
        assert ask(url, "POST", "/v1/swap", {"bundle": str(bundle_path())}).kind == "BundleError"


def test_probes_say_200_while_the_loop_moves_and_503_when_it_does_not(
    kiosk: Kiosk, url: str
) -> None:
    assert [ask(url, "GET", path).status for path in ("/healthz", "/readyz")] == [200, 200]
    kiosk.is_moving = False
    try:
        assert [ask(url, "GET", path).status for path in ("/healthz", "/readyz")] == [503, 503]
        assert ask(url, "GET", "/readyz").json == {"ready": False, "reason": "the loop has ended"}
    finally:
        kiosk.is_moving = True


# -- what is refused -------------------------------------------------------------------------------
ROW = [[0] * 28] * 28
REFUSED: list[tuple[str, str, str, Any, Mapping[str, str], int, str]] = [
    ("nothing there", "GET", "/v2/predict", None, {}, 404, "NotFound"),
    ("a slash more", "GET", "/v1/status/", None, {}, 404, "NotFound"),
    ("wrong method", "GET", "/v1/predict", None, {}, 405, "MethodNotAllowed"),
    ("not JSON", "POST", "/v1/predict", b"{", {}, 400, "MalformedJSON"),
    (
        "not UTF-8",
        "POST",
        "/v1/labels",
        b'{"labels":[{"sample":"\xff","label":"Coat"}]}',
        {},
        400,
        "MalformedJSON",
    ),
    (
        "half a character",
        "POST",
        "/v1/labels",
        b'{"labels":[{"sample":"\\ud800","label":"Coat"}]}',
        {},
        400,
        "MalformedJSON",
    ),
    (
        "deep JSON",
        "POST",
        "/v1/predict",
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        {},
        400,
        "MalformedJSON",
    ),
    (
        "deep lists",
        "POST",
        "/v1/predict",
        b'{"x":' + b"[" * 9 + b"1" + b"]" * 9 + b"}",
        {},
        422,
        "InputError",
    ),
    ("no body", "POST", "/v1/predict", b"", {}, 400, "MalformedJSON"),
    ("no type", "POST", "/v1/predict", b"{}", {"Content-Type": ""}, 415, "UnsupportedMediaType"),
    (
        "a form",
        "POST",
        "/v1/freeze",
        b"frozen=true",
        {"Content-Type": "application/x-www-form-urlencoded"},
        415,
        "UnsupportedMediaType",
    ),
    ("a picture where none is read", "POST", "/v1/labels", b"", PNG, 415, "UnsupportedMediaType"),
    ("an unknown field", "POST", "/v1/predict", {"x": ROW, "steam": "a"}, {}, 422, "InputError"),
    ("an unknown parameter", "GET", "/v1/history?limits=3", None, {}, 422, "InputError"),
    ("a parameter twice", "GET", "/v1/history?limit=3&limit=4", None, {}, 422, "InputError"),
    ("a parameter that is no number", "GET", "/v1/history?limit=many", None, {}, 422, "InputError"),
    ("a parameter out of range", "GET", "/v1/history?limit=1000000", None, {}, 422, "InputError"),
    ("a query that is none", "GET", "/v1/history?limit", None, {}, 400, "MalformedQuery"),
    ("a query not in UTF-8", "GET", "/v1/history?limit=%ff", None, {}, 400, "MalformedQuery"),
    ("neither x nor features", "POST", "/v1/predict", {}, {}, 422, "InputError"),
    (
        "x and features",
        "POST",
        "/v1/predict",
        {"x": ROW, "features": {"z": [[0.0] * 96]}},
        {},
        422,
        "InputError",
    ),
    ("x is text", "POST", "/v1/predict", {"x": "aaaa"}, {}, 422, "InputError"),
    (
        "text among numbers",
        "POST",
        "/v1/predict",
        {"x": [*ROW[1:], [*ROW[0][1:], "1"]]},
        {},
        422,
        "InputError",
    ),
    (
        "true among numbers",
        "POST",
        "/v1/predict",
        {"x": [*ROW[1:], [*ROW[0][1:], True]]},
        {},
        422,
        "InputError",
    ),
    (
        "rows of other lengths",
        "POST",
        "/v1/predict",
        {"x": [*ROW[1:], ROW[0][1:]]},
        {},
        422,
        "InputError",
    ),
    ("another shape", "POST", "/v1/predict", {"x": ROW[1:]}, {}, 422, "InputError"),
    (
        "out of range",
        "POST",
        "/v1/predict",
        {"x": [*ROW[1:], [*ROW[0][1:], 256]]},
        {},
        422,
        "InputError",
    ),
    (
        "not whole",
        "POST",
        "/v1/predict",
        {"x": [*ROW[1:], [*ROW[0][1:], 0.5]]},
        {},
        422,
        "InputError",
    ),
    (
        "infinite features",
        "POST",
        "/v1/predict",
        {"features": {"z": [1e39] * 96}},
        {},
        422,
        "InputError",
    ),
    (
        "features of another width",
        "POST",
        "/v1/predict",
        {"features": {"z": [1.0] * 95}},
        {},
        422,
        "InputError",
    ),
    (
        "names of another number",
        "POST",
        "/v1/observe",
        {"x": ROW, "names": ["a", "b"]},
        {},
        422,
        "InputError",
    ),
    ("an empty stream", "POST", "/v1/predict", {"x": ROW, "stream": ""}, {}, 422, "InputError"),
    (
        "a stream of two lines",
        "POST",
        "/v1/predict",
        {"x": ROW, "stream": "a\nb"},
        {},
        422,
        "InputError",
    ),
    (
        "a long stream",
        "POST",
        "/v1/predict",
        {"x": ROW, "stream": "a" * 101},
        {},
        422,
        "InputError",
    ),
    ("no labels", "POST", "/v1/labels", {"labels": []}, {}, 422, "InputError"),
    (
        "a number for a label",
        "POST",
        "/v1/labels",
        {"labels": [{"sample": "a", "label": 1}]},
        {},
        422,
        "InputError",
    ),
    (
        "an unknown sample",
        "POST",
        "/v1/labels",
        {"labels": [{"sample": "none", "label": "Coat"}]},
        {},
        422,
        "InputError",
    ),
    ("an unknown commit", "POST", "/v1/rollback", {"to": 1_000_000}, {}, 409, "StateError"),
    ("a commit before time", "POST", "/v1/rollback", {"to": -1}, {}, 422, "InputError"),
    ("a path of two lines", "POST", "/v1/swap", {"bundle": "a\0b"}, {}, 422, "InputError"),
    ("frozen is no boolean", "POST", "/v1/freeze", {"frozen": 1}, {}, 422, "InputError"),
    (
        "an empty array",
        "POST",
        "/v1/predict",
        npy(np.zeros((0, 28, 28), np.uint8)),
        NPY,
        422,
        "InputError",
    ),
    (
        "too many samples",
        "POST",
        "/v1/predict",
        npy(np.zeros((257, 28, 28), np.uint8)),
        NPY,
        422,
        "InputError",
    ),
    (
        "another dtype",
        "POST",
        "/v1/predict",
        npy(np.zeros((1, 28, 28), np.int64)),
        NPY,
        422,
        "InputError",
    ),
    (
        "objects",
        "POST",
        "/v1/predict",
        (
            b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1, 28,"
            b" 28), }        \ngarbage"
        ),
        NPY,
        422,
        "InputError",
    ),
    (
        "more promised than there is",
        "POST",
        "/v1/predict",
        npy(images(1))[:-1],
        NPY,
        422,
        "InputError",
    ),
    ("more than promised", "POST", "/v1/predict", npy(images(1)) + b"\0", NPY, 422, "InputError"),
    ("no array", "POST", "/v1/predict", b"\x93NUMPY\x09\x00", NPY, 422, "InputError"),
    ("a huge picture", "POST", "/v1/predict", png_header(16_000, 16_000), PNG, 422, "InputError"),
    ("a long picture", "POST", "/v1/predict", png_header(20_000, 1), PNG, 422, "InputError"),
    ("half a picture", "POST", "/v1/predict", png_header(28, 28)[:40], PNG, 422, "InputError"),
    (
        "a GIF that says PNG",
        "POST",
        "/v1/predict",
        b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;",
        PNG,
        422,
        "InputError",
    ),
    ("a large body", "POST", "/v1/predict", b"x" * ((1 << 20) + 1), NPY, 413, "TooLarge"),
    ("another host", "GET", "/v1/status", None, {"Host": "evil.example"}, 403, "ForeignHost"),
    (
        "a host that starts well",
        "GET",
        "/v1/status",
        None,
        {"Host": "127.0.0.1.evil.example"},
        403,
        "ForeignHost",
    ),
    (
        "a page of another site",
        "POST",
        "/v1/freeze",
        {"frozen": True},
        {"Origin": "https://evil.example"},
        403,
        "ForeignOrigin",
    ),
    (
        "a page of another port",
        "POST",
        "/v1/freeze",
        {"frozen": True},
        {"Origin": "http://127.0.0.1:1"},
        403,
        "ForeignOrigin",
    ),
    ("a page of nowhere", "GET", "/v1/status", None, {"Origin": "null"}, 403, "ForeignOrigin"),
    (
        "an image of another site",
        "GET",
        "/v1/status",
        None,
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        403,
        "ForeignOrigin",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case[0].replace(" ", "-") for case in REFUSED])
def test_it_is_refused_with_the_status_that_fits(case: Any, kiosk: Kiosk, url: str) -> None:
    _, method, path, body, headers, status, kind = case
    before = kiosk.learner.counters()["observed"], len(kiosk.learner.history(1000)), kiosk.is_frozen
    said = ask(url, method, path, body, headers)
    assert (said.status, said.kind) == (status, kind), said.body
    assert (
        said.headers["content-type"] == "application/json"
        and said.headers["cache-control"] == "no-store"
    )
    assert (
        kiosk.learner.counters()["observed"],
        len(kiosk.learner.history(1000)),
        kiosk.is_frozen,
    ) == before


def test_a_method_that_is_not_allowed_names_those_that_are(url: str) -> None:
    assert set(ask(url, "PUT", "/v1/classes").headers["allow"].split(", ")) >= {"GET", "POST"}
    assert ask(url, "OPTIONS", "/v1/classes").status == 405
    head = ask(url, "HEAD", "/v1/classes")
    assert head.status == 200 and head.body == b""


def test_a_page_of_its_own_may_ask(url: str) -> None:
    origin = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
    assert ask(url, "POST", "/v1/pause", {"paused": False}, origin).status == 200
    assert (
        ask(url, "GET", "/v1/status", None, {"Host": f"localhost:{url.rpartition(':')[2]}"}).status
        == 200
    )


def test_a_body_without_a_length_is_counted_while_it_comes(url: str) -> None:
    sent = []

    def blocks() -> Iterator[bytes]:
        for _ in range(64):
            sent.append(1 << 15)
            yield b"x" * (1 << 15)

    assert (
        ask(url, "POST", "/v1/predict", blocks(), {**NPY, "Transfer-Encoding": "chunked"}).kind
        == "TooLarge"
    )


def test_long_json_is_refused_before_it_is_read_and_told_what_to_send(kiosk: Kiosk) -> None:
    with serving(kiosk, max_body_mib=8.0) as url:
        said = ask(
            url, "POST", "/v1/predict", b'{"x":[' + b"[]," * (api.MAX_JSON_BYTES // 3) + b"[]]}"
        )
        assert (said.status, said.kind) == (413, "TooLarge") and "application/x-npy" in said.json[
            "error"
        ]
        assert (
            ask(url, "POST", "/v1/predict", b'{"x":[' + b"[]," * 1_000_000 + b"[]]}").status == 422
        )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError, 422),
        (BundleError, 422),
        (StateError, 409),
        (CapacityError, 409),
        (StorageError, 507),
        (BudgetError, 429),
        (RuntimeUnavailable, 503),
        (EdgeadaptError, 422),
    ],
)
def test_each_named_error_has_its_status(
    error: type[EdgeadaptError], status: int, kiosk: Kiosk
) -> None:
    class Failing(Kiosk):
        def checkpoint(self) -> int:
            raise error("the disk, say")

    with serving(Failing(kiosk.learner)) as url:
        said = ask(url, "POST", "/v1/checkpoint")
    assert (said.status, said.kind, said.json["error"]) == (status, error.__name__, "the disk, say")
    assert ("retry-after" in said.headers) == (status in (429, 503))


def test_a_fault_has_a_number_that_the_log_has_too_and_says_nothing_else(
    kiosk: Kiosk, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Kiosk):
        def status(self) -> dict[str, Any]:
            raise ZeroDivisionError("a secret")

    with (
        serving(Failing(kiosk.learner)) as url,
        caplog.at_level(logging.ERROR, "edgeadapt.daemon.http"),
    ):
        said = ask(url, "GET", "/v1/status")
    assert (said.status, said.kind) == (500, "InternalError") and "secret" not in said.body.decode()
    assert (
        said.json["request"] in caplog.text
        and "ZeroDivisionError: a secret" in caplog.text
        and "Traceback" in caplog.text
    )


def test_a_batch_that_nobody_had_time_for_may_be_sent_again(kiosk: Kiosk) -> None:
    class Full(Kiosk):
        def observe(self, x: Any = None, **more: Any) -> list[Answer]:
            return [Answer("default", "http", 0.0, error="dropped: the inbox was full")]

    with serving(Full(kiosk.learner)) as url:
        said = ask(url, "POST", "/v1/observe", {"x": ROW})
    assert (said.status, said.kind, said.headers["retry-after"]) == (503, "Dropped", "1")


# -- who may ask -----------------------------------------------------------------------------------
@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.org:80"])
def test_others_may_not_reach_it_without_a_token(listen: str, kiosk: Kiosk) -> None:
    with pytest.raises(RecipeError, match="token"):
        Control(kiosk, listen)


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", ":80", "127.0.0.1:x"]
)
def test_an_address_that_is_none_is_refused(listen: str, kiosk: Kiosk) -> None:
    with pytest.raises(RecipeError, match=r"control\.listen"):
        Control(kiosk, listen)


def test_with_a_token_every_path_needs_it(kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeadapt.daemon.http.connection_shares._LONGEST_WAIT_S", 0.0)
    with serving(kiosk, "0.0.0.0:0", token=TOKEN) as url:
        near = url.replace("0.0.0.0", "127.0.0.1")
        for route in ALL_ROUTES:
            for headers in (
                {},
                {"Authorization": "Bearer another"},
                {"Authorization": f"Basic {TOKEN}"},
                {"Authorization": TOKEN},
            ):
                said = ask(
                    near, route.method, route.path.replace("{", "").replace("}", ""), None, headers
                )
                assert (said.status, said.kind, said.headers["www-authenticate"]) == (
                    401,
                    "Unauthorized",
                    "Bearer",
                )
        right = {"Authorization": f"bearer {TOKEN}", "Host": "edge-7.example"}
        assert ask(near, "GET", "/v1/status", None, right).status == 200
        assert ask(near, "GET", "/nowhere", None, right).status == 404
        assert (
            ask(near, "GET", "/v1/status", None, {**right, "Origin": "https://evil.example"}).status
            == 403
        )


def test_a_unix_socket_is_for_owner_and_group_and_leaves_nothing(
    kiosk: Kiosk, tmp_path: Path
) -> None:
    path = tmp_path / "daemon.sock"
    with serving(kiosk, f"unix:{path}") as url:
        assert url == f"unix:{path}" and stat.S_IMODE(path.stat().st_mode) == 0o660
        assert ask(url, "GET", "/v1/classes").json["classes"] == list(kiosk.learner.classes)
        assert ask(url, "POST", "/v1/predict", npy(images()), NPY).status == 200
        assert ask(url, "GET", "/v1/status", None, {"Host": "evil.example"}).kind == "ForeignHost"
        with pytest.raises(RecipeError, match="in use"), serving(kiosk, f"unix:{path}"):
            pass
        assert ask(url, "GET", "/healthz").status == 200
    assert not path.exists()


def test_a_unix_socket_that_a_killed_process_left_is_taken_over_and_a_file_is_not(
    kiosk: Kiosk, tmp_path: Path
) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with serving(kiosk, f"unix:{path}") as url:
        assert ask(url, "GET", "/healthz").status == 200
    path.write_text("precious")
    with pytest.raises(RecipeError, match="in use"), serving(kiosk, f"unix:{path}"):
        pass
    assert path.read_text() == "precious"


def test_a_port_in_use_is_named(kiosk: Kiosk, url: str) -> None:
    with pytest.raises(RecipeError, match="in use"):
        Control(kiosk, url[len("http://") :]).start()


# -- time and load ---------------------------------------------------------------------------------
class Stuck(Kiosk):
    """Its classes come when they are let go."""

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        self.free = threading.Event()

    def classes(self) -> tuple[str, ...]:
        self.free.wait(20)
        return super().classes()


def test_a_call_that_hangs_is_given_up_and_probes_are_still_answered(kiosk: Kiosk) -> None:
    stuck = Stuck(kiosk.learner)
    with serving(stuck, timeout_s=0.3) as url:
        found: list[Said] = []
        threads = [
            threading.Thread(target=lambda: found.append(ask(url, "GET", "/v1/classes")))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        started = time.monotonic()
        assert [ask(url, "GET", path).status for path in ("/healthz", "/readyz", "/metrics")] == [
            200,
            200,
            200,
        ]
        assert time.monotonic() - started < 0.5
        for thread in threads:
            thread.join(10)
        assert {(said.status, said.kind, said.headers["retry-after"]) for said in found} == {
            (503, "TimedOut", "1")
        } and len(found) == 12
        stuck.free.set()
        time.sleep(0.1)
        assert ask(url, "GET", "/v1/classes").status == 200


def test_requests_whose_time_was_up_keep_no_body_while_they_wait_for_a_worker(
    kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeadapt.daemon.http.endpoints._GRACE_S", 0.05)
    stuck, body = Stuck(kiosk.learner), b"x" * 2_000_000
    control = Control(stuck, "127.0.0.1:0", max_body_mib=2.0, timeout_s=0.3)
    control.start()
    try:
        with ThreadPoolExecutor(8) as eight:
            list(eight.map(lambda _: ask(control.url, "GET", "/v1/classes"), range(8)))
        tracemalloc.start()
        with ThreadPoolExecutor(3) as three:
            said = list(
                three.map(lambda _: ask(control.url, "POST", "/v1/predict", body, NPY), range(9))
            )
        assert {one.status for one in said} == {503}
        assert control._endpoints.calls._waiting.qsize() == 9
        assert tracemalloc.get_traced_memory()[0] < 2 * len(body)
    finally:
        tracemalloc.stop()
        stuck.free.set()
        control.stop()


def test_it_stops_within_a_second_whatever_hangs(kiosk: Kiosk, tmp_path: Path) -> None:
    stuck, control = Stuck(kiosk.learner), None
    control = Control(stuck, "127.0.0.1:0", timeout_s=30)
    control.start()
    url = control.url
    address = url[len("http://") :].rpartition(":")
    with (
        socket.create_connection((address[0], int(address[2]))) as idle,
        socket.create_connection((address[0], int(address[2]))) as half,
    ):
        half.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        hanging = connected(url)
        hanging.request("GET", "/v1/classes")
        time.sleep(0.2)
        started = time.monotonic()
        control.stop()
        assert time.monotonic() - started < 1.0
        assert idle.recv(1) == b""
        told = hanging.getresponse()
        assert told.status == 503 and json.loads(told.read())["kind"] == "Stopping"
    hanging.close()
    stuck.free.set()
    with pytest.raises(OSError):
        ask(url, "GET", "/healthz")
    with serving(kiosk, url[len("http://") :]) as again:
        assert again == url and ask(url, "GET", "/healthz").status == 200
    control.stop()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: loc",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal",
    ],
)
def test_a_connection_that_sends_no_whole_request_is_closed(sent: bytes, kiosk: Kiosk) -> None:
    with serving(kiosk, timeout_s=1.0) as url:
        host, _, port = url[len("http://") :].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(sent)
            started = time.monotonic()
            while slow.recv(4096):
                pass
            assert 0.5 < time.monotonic() - started < 4.0


def test_a_body_that_trickles_in_is_given_up(kiosk: Kiosk) -> None:
    with serving(kiosk, timeout_s=0.5) as url:
        connection = connected(url)
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("Content-Length", "100")
        connection.putheader("Content-Type", "application/json")
        connection.endheaders(b"{")
        response = connection.getresponse()
        assert response.status == 503 and response.headers["retry-after"]
        connection.close()


def idling(
    url: str, count: int, source: str = "127.0.0.1", said: bytes = b""
) -> list[socket.socket]:
    """Connections that send ``said`` and nothing more."""
    host, _, port = url[len("http://") :].rpartition(":")
    held = [
        socket.create_connection((host, int(port)), source_address=(source, 0))
        for _ in range(count)
    ]
    for one in held:
        one.sendall(said)
    return held


def closed(one: socket.socket) -> bool:
    one.settimeout(2)
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_idle_connections_lock_nobody_out_and_are_bounded(kiosk: Kiosk, said: bytes) -> None:
    with serving(kiosk, token=TOKEN) as url:
        held = idling(url, 140, said=said)
        for path in ("/healthz", "/readyz", "/v1/classes"):
            assert ask(url, "GET", path, headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
        if not said.endswith(b"\r\n\r\n"):
            assert closed(held[0])
        for one in held:
            one.close()


def test_the_connection_of_one_who_has_shown_the_token_stays_open_while_another_address_idles(
    kiosk: Kiosk,
) -> None:
    with serving(kiosk, token=TOKEN) as url:
        connection = connected(url)
        for _ in range(2):
            connection.request("GET", "/healthz", headers={"Authorization": f"Bearer {TOKEN}"})
            assert connection.getresponse().read()
            held = idling(url, 140, source="127.0.0.2")
        connection.close()
        for one in held:
            one.close()


def test_headers_have_to_come_within_seconds_however_long_a_request_may_take(
    kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeadapt.daemon.http.connections.HEADERS_S", 0.2)
    with serving(kiosk, timeout_s=60.0) as url:
        silent = idling(url, 1)[0]
        slow = idling(url, 1, said=b"GET /healthz HTTP/1.1\r\nHost: loc")[0]
        assert closed(silent) and closed(slow)
        for one in (silent, slow):
            one.close()


def test_many_clients_at_once_get_each_their_own_answer(kiosk: Kiosk, url: str) -> None:
    x = images(16)
    expected, wrong = list(kiosk.learner.predict(x).labels), []

    def client(row: int) -> None:
        connection = connected(url)
        for _ in range(10):
            connection.request("POST", "/v1/predict", npy(x[row : row + 1]), NPY)
            answer = json.loads(connection.getresponse().read())["answers"][0]
            if answer["label"] != expected[row]:
                wrong.append(row)
        connection.close()

    threads = [threading.Thread(target=client, args=(row,)) for row in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_a_wrong_token_is_told_later_and_later_and_so_is_a_right_one_from_there(
    kiosk: Kiosk,
) -> None:
    def took_s(url: str, token: str) -> float:
        started = time.monotonic()
        assert ask(url, "GET", "/healthz", headers={"Authorization": f"Bearer {token}"}).status == (
            200 if token == TOKEN else 401
        )
        return time.monotonic() - started

    with serving(kiosk, token=TOKEN) as url:
        for number in range(7):
            took_s(url, f"guess {number}")
        assert took_s(url, "guess 8") > 0.35 and took_s(url, TOKEN) > 0.75


@pytest.mark.parametrize(
    "token, why",
    [
        ("short", "has 5 characters"),
        ("aabbaabbabababab", "has 2 different"),
        ("password" * 2, "one piece, repeated"),
    ],
)
def test_a_token_that_can_be_guessed_is_refused_for_other_machines_and_warned_about_here(
    kiosk: Kiosk, token: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RecipeError, match=f"the token can be guessed: it .*{why}") as refused:
        Control(kiosk, "0.0.0.0:0", token=token)
    assert token not in str(refused.value)
    Control(kiosk, "127.0.0.1:0", token=token)
    assert why in caplog.text and token not in caplog.text


# -- hostile bodies --------------------------------------------------------------------------------
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_subnormal=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["x", "features", "z", "stream", "labels", "names", "to", "name"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
posts = [route for route in ALL_ROUTES if route.body is not None]


def hostile(check: Callable[..., None]) -> Any:
    calm = settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    return calm(check)


def refused_or_answered(said: Said) -> None:
    assert said.status in (200, 400, 409, 413, 415, 422), said.body
    if said.status != 200:
        assert said.kind != "InternalError"


@hostile
@given(route=st.sampled_from(posts), value=json_values)
def test_json_of_any_form_is_answered_or_refused(route: api.Route, value: Any, url: str) -> None:
    refused_or_answered(ask(url, "POST", route.path, json.dumps(value).encode()))


@hostile
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from(
        [b"", b"\x93NUMPY\x01\x00", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b'{"x":[', b"{"]
    ),
)
def test_bytes_of_any_kind_are_answered_or_refused(data: bytes, start: bytes, url: str) -> None:
    for media in ("application/json", "application/x-npy", "image/png", "image/jpeg"):
        refused_or_answered(ask(url, "POST", "/v1/predict", start + data, {"Content-Type": media}))


@hostile
@given(where=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_damaged_array_is_answered_or_refused(where: int, byte: int, url: str) -> None:
    data = bytearray(npy(images(2)))
    data[where % len(data)] = byte
    refused_or_answered(ask(url, "POST", "/v1/predict", bytes(data), NPY))


@hostile
@given(
    descr=st.sampled_from(
        ["|O", "<U9999999", "|V8", "<f8", "|u1", "<c16", "|b1", "<M8[s]", "(9999999,)u1"]
    ),
    shape=st.lists(st.integers(-3, 2**63), max_size=40),
)
def test_a_header_that_promises_anything_takes_no_memory(
    descr: str, shape: list[int], url: str
) -> None:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}".encode()
    refused_or_answered(
        ask(
            url,
            "POST",
            "/v1/predict",
            b"\x93NUMPY\x02\x00"
            + struct.pack("<I", len(header) + 1)
            + header
            + b"\n"
            + b"\0" * 784,
            NPY,
        )
    )


@hostile
@given(
    path=st.text(st.characters(codec="utf-8"), max_size=30),
    query=st.text(st.characters(codec="utf-8"), max_size=30),
)
def test_a_path_of_any_form_is_answered_or_refused(path: str, query: str, url: str) -> None:
    from urllib.parse import quote

    said = ask(url, "GET", f"/v1/questions/{quote(path, safe='')}/image?{quote(query, safe='=&')}")
    assert said.status in (400, 404, 422) and said.kind


def test_after_all_that_it_still_serves(kiosk: Kiosk, url: str) -> None:
    assert ask(url, "GET", "/healthz").status == 200 and os.getpid() == kiosk.learner._pid
    x = images(4)
    assert [
        one["label"] for one in ask(url, "POST", "/v1/predict", npy(x), NPY).json["answers"]
    ] == list(kiosk.learner.predict(x).labels)
