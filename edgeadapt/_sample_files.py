"""Files that hold samples, from wherever they come: an image, or arrays in an ``.npz``. What a file
asks for is checked before it gets it.
"""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# by content: Pillow would try fifty, and start Ghostscript for one of them
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
_MAX_PIXELS, _MAX_SIDE = 36_000_000, 16_384
# unpacked: a small file can promise anything
_MOST_BYTES, _MAX_SAMPLES = {"x": 1 << 30, "y": 1 << 26}, 1_000_000
_BLOCK = 1 << 20


def is_image(name: str) -> bool:
    """By the name of the file; hidden files are none."""
    return name.lower().endswith(IMAGES) and not name.startswith(".")


def check_regular(path: Path) -> None:
    """Refuse pipes and devices, which would be waited for, and folders.

    Raises:
        InputError: not a regular file.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file")


def read_image(
    file: Path | str,
    spec: InputSpec,
    opened: BinaryIO | None = None,
    *,
    formats: Sequence[str] = FORMATS,
) -> NDArray[Any]:
    """One sample of shape ``spec.shape``.

    Args:
        opened: the file, if it is open already; ``file`` is what messages call it.
        formats: that it may be of, as Pillow calls them.

    Raises:
        InputError: not an image, damaged, too large, or of a form that the bundle does not take.
        MemoryError: there is not enough of it.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(opened or file, formats=list(formats)) as picture:
            width, height = picture.size
            if width * height > _MAX_PIXELS or max(width, height) > _MAX_SIDE:
                raise InputError(
                    f"{file}: {width} x {height} pixels; the limits are {_MAX_PIXELS} in all and"
                    f" {_MAX_SIDE} a side: scale it down"
                )
            frame = _pixels(picture, "L" if spec.colour == "gray" else "RGB")
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"{file}: cannot be read as an image: none of {', '.join(formats)}"
        ) from error
    except Exception as error:  # on damaged files the decoders raise a dozen types between them
        raise InputError(
            f"{file}: cannot be read as an image: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    return prepare(frame, spec)


def _pixels(picture: Any, mode: str) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8. A large picture is converted in strips: whole, it would be there
    four times.
    """
    width, height = picture.size
    if width * height <= _STRIP:
        return np.asarray(picture.convert(mode))
    picture.load()
    frame = np.empty((height, width) if mode == "L" else (height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        frame[top:bottom] = np.asarray(picture.crop((0, top, width, bottom)).convert(mode))
    return frame


_STRIP = 1 << 20  # pixels


def read_samples(path: Path) -> tuple[NDArray[Any], tuple[str | int, ...]]:
    """``x`` of an ``.npz``, one sample a row, and ``y``: a class name or a class id for each, or
    nothing.

    Raises:
        InputError: not such a file; the message names it.
    """
    check_regular(path)
    arrays = read_arrays(path, _MOST_BYTES)
    if "x" not in arrays or not arrays["x"].shape or not arrays["x"].size:
        raise InputError(f"{path}: has no array x, or an empty one")
    count = len(arrays["x"])
    if count > _MAX_SAMPLES:
        raise InputError(f"{path}: x has {count} samples, the limit is {_MAX_SAMPLES}; split it")
    y = arrays.get("y", np.zeros(0, np.int64))
    if y.ndim != 1 or y.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: y holds one class id or class name for each sample, got"
            f" {y.dtype}{list(y.shape)}"
        )
    if len(y) not in (0, count):
        raise InputError(f"{path}: x has {count} samples and y {len(y)}")
    if (
        y.dtype.kind == "U"
        and y.dtype.itemsize
        and y.astype(y.dtype.newbyteorder("=")).view(np.uint32).max(initial=0) > sys.maxunicode
    ):
        raise InputError(f"{path}: y holds text that is not Unicode")
    return arrays["x"], tuple(y.tolist())


def read_arrays(path: Path, most: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Some arrays of an ``.npz``. What a member says of its size is checked before memory is taken
    for it.

    Args:
        most: name of an array -> the most bytes that it may have, unpacked. Those that are not
            there are left out, and so are all others.

    Raises:
        InputError: damaged, too large, or holding objects; the message names the file and the
            array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            return {
                name: _array(archive, archive.getinfo(f"{name}.npy"), limit)
                for name, limit in most.items()
                if f"{name}.npy" in present
            }
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    # on damaged files zipfile and numpy raise a dozen types between them
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as .npz: {type(error).__name__}: {error}"
        ) from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> NDArray[Any]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{entry.filename}: compression method {entry.compress_type}; numpy writes stored and"
            " deflated arrays"
        )
    if entry.file_size > most:
        raise InputError(
            f"{entry.filename}: {entry.file_size} bytes, the limit is {most}; split it, or give a"
            " folder of images"
        )
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise InputError(
                f"{entry.filename}: version {version} of the .npy format is not read here"
            )
        shape, is_fortran, dtype = _HEADERS[version](member)
        if dtype.hasobject or dtype.names is not None or dtype.kind not in "biufUS":
            raise InputError(
                f"{entry.filename}: holds {dtype}; arrays of numbers or text are read here, never"
                " pickled objects"
            )
        size, held = math.prod(shape) * dtype.itemsize, entry.file_size - member.tell()
        if size != held or min(shape, default=0) < 0:
            raise InputError(
                f"{entry.filename}: {dtype}{list(shape)} has {size} bytes, the member holds {held}"
            )
        values = bytearray(size)
        for start in range(0, size, _BLOCK):
            block = member.read(min(_BLOCK, size - start))
            if len(block) != min(_BLOCK, size - start):
                raise InputError(
                    f"{entry.filename}: ends after {start + len(block)} of {size} bytes"
                )
            values[start : start + len(block)] = block
    flat = np.frombuffer(values, dtype, math.prod(shape))
    return flat.reshape(shape, order="F" if is_fortran else "C")


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
