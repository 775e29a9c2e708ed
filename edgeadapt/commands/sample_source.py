"""What ``run`` reads: a folder of images or an ``.npz``, and a file of labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt._sample_files import IMAGES, check_regular, is_image, read_image, read_samples
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError

# in a header
_SAMPLE = ("sample", "filename", "file", "name", "image", "path", "index", "id", "row", "")
_LABEL = ("label", "labels", "class", "category", "target", "y", "answer")


@dataclass(frozen=True, eq=False)
class Source:
    """Samples in order: how each is called, how to read some, and their true classes where
    known.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    x: NDArray[Any] | None
    y: tuple[str | int, ...]

    def read(self, rows: slice, spec: InputSpec) -> NDArray[Any]:
        return (
            self.x[rows]
            if self.x is not None
            else np.stack([read_image(file, spec) for file in self.files[rows]])
        )

    def read_whole(
        self, rows: slice, spec: InputSpec
    ) -> tuple[list[int], NDArray[Any] | None, dict[str, str]]:
        """Which rows can be read, their values, None if none can, and why the others cannot, by
        name.
        """
        if self.x is not None:
            return list(range(rows.start, rows.stop)), self.x[rows], {}
        found: dict[int, NDArray[Any]] = {}
        broken: dict[str, str] = {}
        for row in range(rows.start, rows.stop):
            try:
                found[row] = read_image(self.files[row], spec)
            except InputError as error:
                broken[self.names[row]] = str(error)
        return list(found), np.stack(list(found.values())) if found else None, broken

    def right(
        self, labels: tuple[str, ...], rows: list[int], classes: tuple[str, ...]
    ) -> list[bool]:
        """Which predictions equal the truth; empty if it is not known. A whole number in ``y`` is a
        class id.
        """
        truth = [self.y[row] for row in rows] if self.y else []
        names = [
            classes[t] if isinstance(t, int) and 0 <= t < len(classes) else str(t) for t in truth
        ]
        return [label == name for label, name in zip(labels, names, strict=True)] if truth else []


def open_source(path: Path) -> Source:
    if path.is_dir():
        files = tuple(sorted(file for file in path.iterdir() if is_image(file.name)))
        if not files:
            raise InputError(f"{path}: no images; suffixes read here: {', '.join(IMAGES)}")
        for file in files:
            check_regular(file)  # a pipe would be waited for
        return Source(tuple(file.name for file in files), files, None, ())
    if path.suffix != ".npz":
        raise InputError(f"{path}: a source is a folder of images or an .npz with an array x")
    x, y = read_samples(path)
    return Source(tuple(str(i) for i in range(len(x))), (), x, y)


def read_labels(path: Path, source: Source) -> dict[int, str]:
    """Row -> label. A first line ``filename,label`` is a header, unless a sample is called so.

    Raises:
        InputError: a line is not ``index-or-filename,label``, or names no sample; the message has
            its number.
    """
    by_name = {name: row for row, name in enumerate(source.names)}
    lines = list(_lines(path))
    if lines and _is_header(lines[0][1]) and lines[0][1][0] not in by_name:
        del lines[0]
    return dict(_label_line(path, number, fields, by_name) for number, fields in lines)


def _is_header(fields: list[str]) -> bool:
    return len(fields) == 2 and fields[0].lower() in _SAMPLE and fields[1].lower() in _LABEL


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, fields in enumerate(csv.reader(file), 1):
                if fields and not fields[0].lstrip().startswith("#"):
                    yield number, [field.strip() for field in fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error


def _label_line(
    path: Path, number: int, fields: list[str], by_name: dict[str, int]
) -> tuple[int, str]:
    if len(fields) != 2 or not fields[1]:
        raise InputError(
            f"{path}, line {number}: expected index-or-filename,label; got"
            f" {','.join(fields)[:200]!r}"
        )
    row = by_name.get(fields[0])
    if (
        row is None
        and fields[0].isdecimal()
        and len(fields[0]) < 20
        and int(fields[0]) < len(by_name)
    ):
        row = int(fields[0])
    if row is None:
        raise InputError(
            f"{path}, line {number}: no sample {fields[0][:200]!r} in the source of {len(by_name)}"
        )
    return row, fields[1]


__all__ = ["Source", "open_source", "read_labels"]
