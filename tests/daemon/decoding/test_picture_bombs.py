"""Small pictures that cost much: they are refused within bounds, beside requests that go on."""

from __future__ import annotations

import http.client
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeadapt._sample_files import read_image
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.schema import ControlSection, FolderSource
from edgeadapt.daemon.decoding import picture_reader
from edgeadapt.daemon.decoding.picture_cost import is_light
from edgeadapt.daemon.decoding.picture_reader import READER, PictureReader
from edgeadapt.demo.sample import Sample
from edgeadapt.errors import InputError

Image = pytest.importorskip("PIL.Image")
Made = Callable[..., Any]
SPEC = InputSpec(
    layout="NHWC", dtype="uint8", shape=(32, 24, 3), range=(0, 255), colour="rgb", resize="bilinear"
)


def encoded(picture: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {}) | options)
    return file.getvalue()


def many_scans(count: int, side: int) -> bytes:
    """A flat progressive JPEG whose last scan comes so many times again, 36 bytes a time."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda"))
    return data[:last] + data[last:-2] * count + data[-2:]


def photo(width: int, height: int, mode: str = "RGB") -> Any:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def peak_mib_during(call: Callable[[], Any]) -> float:
    """How far the resident memory of this process rises while something is called."""

    def read(key: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.partition(f"{key}:")[2].split()[0])

    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    call()
    return (read("VmHWM") - before) / 1024


def post(url: str, body: bytes, media: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url[len("http://") :], timeout=30)
    try:
        connection.request("POST", "/v1/predict", body, {"content-type": media})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def reader() -> Iterator[PictureReader]:
    made = PictureReader()
    yield made
    made.close()


# -- the daemon -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("scans", "side"), [(2000, 3500), (90, 5000)], ids=["refused", "read"])
def test_jpegs_of_many_scans_block_no_honest_request(
    scans: int, side: int, serve: Made, settings: Made, sample: Sample
) -> None:
    pytest.importorskip("uvicorn")
    service = serve(settings(control=ControlSection(listen="127.0.0.1:0", timeout_s=1.0)))
    url = service.control.url
    bomb = many_scans(scans, side)
    honest = encoded(Image.fromarray(sample.x[0]), "PNG")
    json = b'{"x": ' + str(sample.x[0].tolist()).encode() + b"}"
    told: list[tuple[int, bytes]] = []
    attackers = [
        threading.Thread(target=lambda: told.append(post(url, bomb, "image/jpeg")))
        for _ in range(10)
    ]
    for thread in attackers:
        thread.start()
    time.sleep(0.2)
    started = time.monotonic()
    for _ in range(3):
        assert post(url, honest, "image/png")[0] == post(url, json, "application/json")[0] == 200
    assert time.monotonic() - started < 0.8
    for thread in attackers:
        thread.join(20)
    expected = (
        {422} if scans > 100 else {200, 503}
    )  # the last ones waited for as long as a request may
    assert len(told) == 10 and {status for status, _ in told} <= expected
    assert scans <= 100 or all(b"2005 scans, the limit is 100" in body for _, body in told)


def test_a_picture_of_many_pixels_takes_no_memory_of_the_daemon(serve: Made) -> None:
    pytest.importorskip("uvicorn")
    url = serve().control.url
    wide = encoded(Image.new("I;16", (5000, 4000)), "PNG", compress_level=6)
    assert len(wide) < 100_000
    post(url, encoded(photo(64, 64), "PNG"), "image/png")
    assert peak_mib_during(lambda: post(url, wide, "image/png")) < 40


def test_a_tiny_webp_of_huge_size_in_a_folder_takes_no_memory_of_the_daemon(
    serve: Made, settings: Made, tmp_path: Path, until: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_reader, "LONGEST_S", 60.0)  # its memory is asked for, not its time
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "huge.webp").write_bytes(huge_webp())

    def serve_it() -> None:
        service = serve(settings(source=(FolderSource(path=tmp_path / "in", name="door"),)))
        until(lambda: service.status()["loop"]["answered"] == 1, 60.0)

    assert peak_mib_during(serve_it) < 150


def huge_webp() -> bytes:
    """A lossless picture of 5000 x 5000 pixels of one colour.

    The tree of every channel has one symbol, so that no pixel has a bit.
    """
    bits, count = 0, 0
    fields = ((0x2F, 8), (4999, 14), (4999, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1))
    for value, width in (
        fields + ((1, 1), (0, 1), (0, 1), (0, 1)) * 5
    ):  # a tree of one symbol, five times
        bits, count = bits | value << count, count + width
    data = bits.to_bytes((count + 7) // 8 + 8, "little")
    data += b"\0" * (len(data) % 2)
    chunk = b"VP8L" + len(data).to_bytes(4, "little") + data
    return b"RIFF" + (len(chunk) + 4).to_bytes(4, "little") + b"WEBP" + chunk


# -- what is cheap --------------------------------------------------------------------------------
def test_small_png_and_jpeg_are_cheap_and_everything_else_is_not() -> None:
    small = photo(640, 480)
    cheap = [
        encoded(small, "PNG"),
        encoded(small, "JPEG"),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("L"), "JPEG"),
    ]
    assert [is_light(data) for data in cheap] == [True] * 4
    wide = encoded(photo(1600, 1200), "JPEG")
    texts = b"".join([cheap[0][:33], *[b"\0\0\0\0zTXt\0\0\0\0"] * 100, cheap[0][33:]])
    dear = [
        wide,
        encoded(photo(1600, 1200), "PNG"),
        many_scans(40, 64),
        texts,
        encoded(small, "WEBP"),
        encoded(small, "GIF"),
        cheap[1][:20],
        b"",
        b"\x89PNG",
    ]
    assert [is_light(data) for data in dear] == [False] * 9


@pytest.mark.parametrize("rest", [b"\xff", b"\xff\xe0\0\2", b"\xff\xda", b"zTXt"])
@pytest.mark.parametrize("start", [b"\xff\xd8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1"])
def test_to_tell_what_is_cheap_costs_next_to_nothing(start: bytes, rest: bytes) -> None:
    data = start + rest * ((4 << 20) // len(rest) - 20)
    began = time.perf_counter()
    is_light(data)
    assert time.perf_counter() - began < 0.1


# -- the child ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("WEBP", "RGB"),
        ("TIFF", "L"),
        ("JPEG", "CMYK"),
    ],
)
def test_the_child_reads_a_picture_as_this_process_does(
    kind: str, mode: str, reader: PictureReader, tmp_path: Path
) -> None:
    data = encoded(photo(1600, 1040, mode), kind)
    expected = read_image("it", SPEC, io.BytesIO(data))
    np.testing.assert_array_equal(reader.read("it", SPEC, data), expected)
    (tmp_path / "it").write_bytes(data)
    with open(tmp_path / "it", "rb") as file:
        np.testing.assert_array_equal(reader.read("it", SPEC, file), expected)


def test_a_large_honest_picture_needs_no_more_than_the_limit(reader: PictureReader) -> None:
    data = encoded(Image.new("RGB", (6000, 5900), (200, 30, 7)), "JPEG")
    assert np.abs(reader.read("large", SPEC, data).astype(int) - (200, 30, 7)).max() <= 2


def test_what_takes_too_long_is_ended_and_the_next_picture_is_read(
    reader: PictureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = encoded(photo(320, 240), "PNG")
    expected = reader.read("good", SPEC, good)
    monkeypatch.setattr(picture_reader, "LONGEST_S", 0.05)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"slow: not read within 0\.05 s"):
        reader.read("slow", SPEC, many_scans(90, 5000))
    assert time.monotonic() - started < 1.0
    monkeypatch.undo()
    np.testing.assert_array_equal(reader.read("good", SPEC, good), expected)


def test_what_needs_too_much_memory_is_refused_and_the_next_picture_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture_reader, "MOST_MIB", 40)
    reader = PictureReader()
    try:
        with pytest.raises(InputError, match="memory"):
            reader.read("large", SPEC, encoded(Image.new("RGB", (5000, 4000)), "PNG"))
        assert reader.read("good", SPEC, encoded(photo(320, 240), "PNG")).shape == SPEC.shape
    finally:
        reader.close()


def test_a_child_that_crashed_or_went_idle_is_replaced(reader: PictureReader) -> None:
    good = encoded(photo(320, 240), "PNG")
    expected = reader.read("good", SPEC, good)
    first = reader._child.process
    first.kill()
    first.wait(5)
    np.testing.assert_array_equal(reader.read("good", SPEC, good), expected)
    assert reader._child.process.pid != first.pid


def test_a_damaged_picture_is_refused_by_the_child_in_the_words_of_this_process(
    reader: PictureReader,
) -> None:
    for data in (
        encoded(photo(1600, 1200), "PNG")[:5000],
        b"nothing",
        encoded(Image.new("1", (9000, 9000)), "PNG"),
    ):
        with pytest.raises(InputError) as here:
            read_image("it", SPEC, io.BytesIO(data))
        with pytest.raises(InputError) as there:
            reader.read("it", SPEC, data)
        assert str(here.value) == str(there.value)


def test_small_pictures_start_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> NDArray[Any]:
        raise AssertionError("a child was asked")

    monkeypatch.setattr(READER, "read", refused)
    assert (
        picture_reader.read_picture("small", SPEC, encoded(photo(640, 480), "JPEG")).shape
        == SPEC.shape
    )
