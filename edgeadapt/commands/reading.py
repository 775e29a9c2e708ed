"""What ``run`` reads: a folder of images or an ``.npz``, and a file of labels."""

from __future__ import annotations

import csv
import math
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # by content: Pillow would try fifty, and start Ghostscript for one of them
_MAX_PIXELS, _MAX_SIDE = 36_000_000, 16_384  # a frame is resized as float32: 16 bytes a pixel
_MAX_ARRAY_BYTES, _MAX_SAMPLES = {"x": 1 << 30, "y": 1 << 26}, 1_000_000  # unpacked: a small file can promise anything
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Source:
    """Samples in order: how each is called, how to read some, and their true classes where known."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    x: NDArray[Any] | None
    y: tuple[str | int, ...]

    def read(self, rows: slice, spec: InputSpec) -> NDArray[Any]:
        return self.x[rows] if self.x is not None else np.stack([_image(file, spec) for file in self.files[rows]])

    def right(self, labels: tuple[str, ...], rows: slice, classes: tuple[str, ...]) -> list[bool]:
        """Which predictions equal the truth; empty if it is not known. A whole number in ``y`` is a class id."""
        truth = self.y[rows]
        names = [classes[t] if isinstance(t, int) and 0 <= t < len(classes) else str(t) for t in truth]
        return [label == name for label, name in zip(labels, names, strict=True)] if truth else []


def open_source(path: Path) -> Source:
    if path.is_dir():
        files = tuple(sorted(file for file in path.iterdir() if file.suffix.lower() in _IMAGES and not file.name.startswith(".")))
        if not files:
            raise InputError(f"{path}: no images; suffixes read here: {', '.join(_IMAGES)}")
        for file in files:
            _check_regular(file)  # a pipe would be waited for
        return Source(tuple(file.name for file in files), files, None, ())
    if path.suffix != ".npz":
        raise InputError(f"{path}: a source is a folder of images or an .npz with an array x")
    _check_regular(path)
    arrays = _arrays(path)
    if "x" not in arrays or not arrays["x"].shape or not arrays["x"].size:
        raise InputError(f"{path}: has no array x, or an empty one")
    count = len(arrays["x"])
    if count > _MAX_SAMPLES:
        raise InputError(f"{path}: x has {count} samples, the limit is {_MAX_SAMPLES}; split it")
    y = arrays.get("y", np.zeros(0, np.int64))
    if y.ndim != 1 or y.dtype.kind not in "iuU":
        raise InputError(f"{path}: y holds one class id or class name for each sample, got {y.dtype}{list(y.shape)}")
    if len(y) not in (0, count):
        raise InputError(f"{path}: x has {count} samples and y {len(y)}")
    if y.dtype.kind == "U" and y.dtype.itemsize and y.astype(y.dtype.newbyteorder("=")).view(np.uint32).max(initial=0) > sys.maxunicode:
        raise InputError(f"{path}: y holds text that is not Unicode")
    return Source(tuple(str(i) for i in range(count)), (), arrays["x"], tuple(y.tolist()))


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file")


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays ``x`` and ``y`` of an ``.npz``. What a member says of its size is checked before memory is taken for it."""
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            return {n: _array(archive, archive.getinfo(f"{n}.npy"), most) for n, most in _MAX_ARRAY_BYTES.items() if f"{n}.npy" in present}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # on damaged files zipfile and numpy raise a dozen types between them
        raise InputError(f"{path}: cannot be read as .npz: {type(error).__name__}: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> NDArray[Any]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{entry.filename}: compression method {entry.compress_type}; numpy writes stored and deflated arrays")
    if entry.file_size > most:
        raise InputError(f"{entry.filename}: {entry.file_size} bytes, the limit is {most}; split it, or give a folder of images")
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise InputError(f"{entry.filename}: version {version} of the .npy format is not read here")
        shape, is_fortran, dtype = _HEADERS[version](member)
        if dtype.hasobject or dtype.names is not None or dtype.kind not in "biufUS":
            raise InputError(f"{entry.filename}: holds {dtype}; arrays of numbers or text are read here, never pickled objects")
        size, held = math.prod(shape) * dtype.itemsize, entry.file_size - member.tell()
        if size != held or min(shape, default=0) < 0:
            raise InputError(f"{entry.filename}: {dtype}{list(shape)} has {size} bytes, the member holds {held}")
        values = bytearray(size)
        for start in range(0, size, _BLOCK):
            block = member.read(min(_BLOCK, size - start))
            if len(block) != min(_BLOCK, size - start):
                raise InputError(f"{entry.filename}: ends after {start + len(block)} of {size} bytes")
            values[start : start + len(block)] = block
    array: NDArray[Any] = np.frombuffer(values, dtype, math.prod(shape)).reshape(shape, order="F" if is_fortran else "C")
    return array


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _image(file: Path, spec: InputSpec) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > _MAX_PIXELS or max(width, height) > _MAX_SIDE:
                raise InputError(f"{file}: {width} x {height} pixels; the limits are {_MAX_PIXELS} in all and {_MAX_SIDE} a side: scale it down")
            frame = np.asarray(picture.convert("L" if spec.colour == "gray" else "RGB"))
    except InputError:
        raise
    except Exception as error:  # on damaged files the decoders raise a dozen types between them
        raise InputError(f"{file}: cannot be read as an image: {type(error).__name__}: {error}") from error
    return prepare(frame, spec)


def read_labels(path: Path, source: Source) -> dict[int, str]:
    """Row -> label.

    Raises:
        InputError: a line is not ``index-or-filename,label``, or names no sample; the message has its number.
    """
    by_name = {name: row for row, name in enumerate(source.names)}
    return dict(_label_line(path, number, fields, by_name) for number, fields in _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, fields in enumerate(csv.reader(file), 1):
                if fields and not fields[0].lstrip().startswith("#"):
                    yield number, [field.strip() for field in fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error


def _label_line(path: Path, number: int, fields: list[str], by_name: dict[str, int]) -> tuple[int, str]:
    if len(fields) != 2 or not fields[1]:
        raise InputError(f"{path}, line {number}: expected index-or-filename,label; got {','.join(fields)[:200]!r}")
    row = by_name.get(fields[0])
    if row is None and fields[0].isdecimal() and len(fields[0]) < 20 and int(fields[0]) < len(by_name):
        row = int(fields[0])
    if row is None:
        raise InputError(f"{path}, line {number}: no sample {fields[0][:200]!r} in the source of {len(by_name)}")
    return row, fields[1]


__all__ = ["Source", "open_source", "read_labels"]
