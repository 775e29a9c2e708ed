"""Small files that ask for much: each is refused before the memory or the time is spent, or spends
little.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.commands.sample_source import open_source, read_labels
from edgeadapt.errors import InputError, RecipeError
from fuzz.limits import modestly, within

_FRAMES = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), colour="gray", resize="bilinear")


def npy(header: str, values: bytes = b"", stated: int | None = None) -> bytes:
    line = header.encode() + b"\n"
    return (
        b"\x93NUMPY\1\0"
        + struct.pack("<H", len(line) if stated is None else stated)
        + line
        + values
    )


def described(shape: str, dtype: str = "'|u1'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def promising(size: int) -> bytes:
    """An archive whose only member says that it expands to ``size`` bytes."""
    data = bytearray(zipped(x=npy(described("(3, 4, 4)"), bytes(48))))
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 24, size)
    return bytes(data)


class _Touch:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            promising(3 << 30),
            "x.npy: 3221225472 bytes, the limit is 1073741824; split it, or give a folder",
        ),
        (
            zipped(x=npy(described("(10000000000, 4, 4)"), bytes(48))),
            r"uint8\[10000000000, 4, 4\] has 160000000000 bytes, the member holds 48",
        ),
        (
            zipped(x=npy(described("(4611686018427387904, 4)"), b"")),
            "has 18446744073709551616 bytes, the member holds 0",
        ),
        (zipped(x=npy(described("(99999999999, 0)"))), "has no array x, or an empty one"),
        (
            zipped(x=npy(described("(3000000,)"), bytes(3_000_000))),
            "x has 3000000 samples, the limit is 1000000",
        ),
        (zipped(x=npy(described("(-1, 4)"), bytes(4))), "the member holds 4"),
        (zipped(x=npy("{" * 3000)), "cannot be read as .npz: "),
        (zipped(x=npy(described("(3,)"), bytes(3), stated=60_000)), "cannot be read as .npz: "),
        (zipped(x=zipped(x=npy(described("(3,)"), bytes(3)))), "cannot be read as .npz: "),
        (
            zipped(zipfile.ZIP_BZIP2, x=npy(described("(60000000,)"), bytes(60_000_000))),
            "x.npy: compression method 12",
        ),
        (zipped(x=npy(described("(3,)", "'<M8[s]'"), bytes(24))), "holds datetime64"),
    ],
    ids=[
        "promises 3 GiB",
        "a header of 160 GB",
        "2**64 bytes",
        "samples of no size",
        "three million samples",
        "negative",
        "nested",
        "header cut off",
        "a zip in it",
        "bzip2",
        "dates",
    ],
)
def test_an_archive_that_asks_for_too_much_is_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with modestly(), pytest.raises(InputError, match=message):
        open_source(path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    path, victim = tmp_path / "x.npz", tmp_path / "victim"
    for header in (described("(1,)", "'|O'"), described("(3,)")):
        path.write_bytes(zipped(x=npy(header, pickle.dumps(_Touch(victim)))))
        with pytest.raises(InputError, match=r"never pickled objects|the member holds"):
            open_source(path)
    path.write_bytes(zipped(x=pickle.dumps(_Touch(victim))))
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
        open_source(path)
    assert not victim.exists()


def test_arrays_that_numpy_writes_are_read_whatever_their_order_and_byte_order(
    tmp_path: Path,
) -> None:
    for x in (
        np.asfortranarray(np.arange(48, dtype=np.uint8).reshape(3, 4, 4)),
        np.arange(48, dtype=">f4").reshape(3, 16),
        np.ones((3, 2), np.float64),
    ):
        for save in (np.savez, np.savez_compressed):
            save(
                tmp_path / "x.npz", x=x, y=np.array(["é", "b", "c"], ">U3"), other=np.array([None])
            )
            source = open_source(tmp_path / "x.npz")
            assert source.x is not None
            np.testing.assert_array_equal(source.x, x)
            assert source.y == ("é", "b", "c") and source.names == ("0", "1", "2")


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(65_535, 65_535), "cannot be read as an image: DecompressionBombError"),
        (
            png(9_000, 9_000),
            "9000 x 9000 pixels; the limits are 36000000 in all and 16384 a side: scale it down",
        ),
        (png(1, 2_000_000, bytes(4_000_000)), "1 x 2000000 pixels"),
        (png(0, 5), "cannot be read as an image"),
        (png(64, 64, b"short"), "cannot be read as an image"),
        (
            (
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x)"
                b" print\nshowpage\n"
            ),
            "none of PNG, JPEG",
        ),
    ],
    ids=["4 gigapixels", "81 megapixels", "one pixel wide", "empty", "cut off", "PostScript"],
)
def test_an_image_that_asks_for_too_much_is_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_bytes(data)
    with modestly(), pytest.raises(InputError, match=message):
        open_source(tmp_path).read(slice(0, 1), _FRAMES)


def test_a_pipe_a_folder_and_a_dangling_link_among_images_are_refused_at_once(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder").mkdir()
    for name, target in (
        ("a.png", tmp_path / "pipe.png"),
        ("b.png", tmp_path / "folder"),
        ("c.png", tmp_path / "none"),
    ):
        folder = tmp_path / name.removesuffix(".png")
        folder.mkdir()
        (folder / name).symlink_to(target)
        with pytest.raises(InputError, match=r"not a regular file|No such file"):
            within(2.0, lambda folder=folder: open_source(folder).read(slice(0, 1), _FRAMES))
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(InputError, match=r"x\.npz: not a regular file"):
        within(2.0, lambda: open_source(tmp_path / "x.npz"))


def test_labels_of_odd_numbers_are_refused_in_one_short_line(tmp_path: Path) -> None:
    from edgeadapt.commands.sample_source import Source

    source = Source(("a", "b"), (), None, ())
    for field in ("9" * 5000, "-1", "2", "²", "1e0"):
        (tmp_path / "labels.csv").write_text(f"{field},Coat\n", encoding="utf-8")
        with modestly(), pytest.raises(InputError, match="line 1: no sample") as told:
            read_labels(tmp_path / "labels.csv", source)
        assert len(str(told.value)) < 500
    (tmp_path / "labels.csv").write_text("01,Coat\n١,Bag\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.csv", source) == {1: "Bag"}


_SECTIONS = '[data]\nkind = "fashion-mnist"\n[export]\nname = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_SECTIONS + "[encoder.options]\nx = " + "[" * 50_000, "cannot be read as TOML"),
        (_SECTIONS + "[encoder.options]\nx = " + "{a = " * 20_000, "cannot be read as TOML"),
        ("seed = " + "9" * 100_000 + "\n" + _SECTIONS, "cannot be read as TOML"),
        (_SECTIONS + "a." * 100_000 + "a = 1", "line 5 has more than 200 dots"),
        (_SECTIONS + "#" * 300_000, "more than 262144 bytes"),
        (_SECTIONS + "[train]\nlr = inf\n", "train.lr = inf"),
        (_SECTIONS + "[train]\nlr = nan\n", "train.lr = nan"),
        ('[data]\nkind = "fashion-mnist"\n[export]\nname = "a\\n"\n', "export.name"),
    ],
    ids=["brackets", "tables", "digits", "dots", "long", "infinite", "not a number", "line break"],
)
def test_a_recipe_that_asks_for_too_much_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from edgeadapt.host.recipe import load_recipe

    (tmp_path / "r.toml").write_text(text)
    with modestly(), pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.toml")
    with modestly(), pytest.raises(RecipeError, match="more than 262144 bytes"):
        load_recipe("/dev/zero")
