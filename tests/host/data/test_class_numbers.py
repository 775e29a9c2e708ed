"""Labels are names wherever a host takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeadapt import host
from edgeadapt.errors import InputError, UnknownClassError
from edgeadapt.host.data.class_numbers import class_names, class_numbers
from edgeadapt.host.data.images import ImageData, load_npz
from edgeadapt.host.exporting.samples import Samples

NAMES = ["ok", "scratch", "dent"]


@pytest.mark.parametrize(
    "labels",
    [
        ["dent", "ok", "scratch"],
        ("dent", "ok", "scratch"),
        np.array(["dent", "ok", "scratch"]),
        np.array(["dent", "ok", "scratch"], object),
        [2, 0, 1],
        np.uint8([2, 0, 1]),
    ],
)
def test_names_and_numbers_are_the_same_labels(labels: object) -> None:
    found = class_numbers(labels, NAMES)
    assert found.dtype == np.int64 and found.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "kind", "says"),
    [
        (
            ["ok", "scratsh"],
            UnknownClassError,
            "unknown class 'scratsh'; closest: 'scratch'; classes: ok, scratch, dent",
        ),
        (["ok", None], InputError, "labels are class names, or numbers"),
        ([0.0, 1.0], InputError, "labels are class names, or numbers"),
        ([[0], [1]], InputError, "labels are class names, or numbers"),
        ([0, 3], InputError, "index the 3 classes, got 0..3"),
        ([-1, 0], InputError, "index the 3 classes, got -1..0"),
    ],
)
def test_labels_that_name_no_class_are_refused(
    labels: list[object], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        class_numbers(labels, NAMES)


def test_classes_are_those_among_the_labels_unless_they_are_given() -> None:
    assert class_names(["b", "a", "b"]) == ("a", "b")
    with pytest.raises(InputError, match="labels are numbers: name the classes"):
        class_names([0, 1])


def test_an_export_takes_names_as_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[tuple[str, ...], list[int]]] = []

    class Taken(Exception):
        """Stops where the arguments have been taken."""

    def encode(source: object, samples: Samples, *more: object) -> None:
        met.append((samples.classes, samples.y.tolist()))
        raise Taken

    monkeypatch.setattr("edgeadapt.host.exporting.export.encode", encode)
    x, y = np.zeros((20, 8), np.float32), 5 * ["ok", "scratch", "ok", "dent"]
    for classes in (None, NAMES):
        with pytest.raises(Taken):
            host.export(tmp_path / "a.edge", host.Identity(8), (x, y), classes)
    assert met == [
        (("dent", "ok", "scratch"), 5 * [1, 2, 1, 0]),
        (("ok", "scratch", "dent"), 5 * [0, 1, 0, 2]),
    ]
    with pytest.raises(UnknownClassError, match="closest: 'scratch'"):
        host.export(tmp_path / "c.edge", host.Identity(8), (x, ["scratsh"] * 20), NAMES)
    with pytest.raises(InputError, match=r"got \(20, 8\) and \(3,\)"):
        host.export(tmp_path / "c.edge", host.Identity(8), (x, y[:3]))


def test_training_data_and_files_take_names(tmp_path: Path) -> None:
    x = np.zeros((3, 4, 4), np.uint8)
    images = ImageData(x, np.array(["dent", "ok", "ok"]), tuple(NAMES))
    assert images.y.tolist() == [2, 0, 0] and images.y.dtype == np.int64
    np.savez(tmp_path / "a.npz", x=x, y=np.array(["ok", "dent", "ok"]))
    found = load_npz(tmp_path / "a.npz")
    assert found.classes == ("dent", "ok") and found.y.tolist() == [1, 0, 1]
    np.savez(tmp_path / "b.npz", x=x, y=np.array(["ok", "dent", "ok"]), classes=np.array(NAMES))
    assert load_npz(tmp_path / "b.npz").y.tolist() == [0, 2, 0]
