"""Pictures out and in: a kept input as a PNG, and one of anybody's as an input.

What comes from outside is read with the limits of the daemon: time, memory, pixels, scans.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt._sample_files import check_regular
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.decoding.images import as_picture, png_of
from edgeadapt.daemon.decoding.picture_reader import read_picture
from edgeadapt.errors import InputError


def written(raw: NDArray[Any], spec: InputSpec) -> bytes | None:
    """PNG of one input, None if it is no picture. Floats become 8 bits."""
    frame = as_picture(raw, spec)
    return None if frame is None else png_of(frame)


def is_whole(png: bytes, raw: NDArray[Any], spec: InputSpec) -> bool:
    """True if the PNG, read as any picture is, gives the same input bit for bit."""
    try:
        found = read(png, spec, "the picture")
    except (InputError, ImportError):  # without Pillow the input goes into the side file too
        return False
    return bool(found.dtype == raw.dtype and np.array_equal(found, raw))


def read(picture: Path | bytes, spec: InputSpec, where: str) -> NDArray[Any]:
    """One input (*spec.shape).

    Raises:
        InputError: see ``read_picture``; or there is no such file.
    """
    if isinstance(picture, bytes):
        return read_picture(where, spec, picture)
    check_regular(picture)
    if not picture.is_file():
        raise InputError(f"{picture}: there is no such file")
    with open(picture, "rb") as file:
        return read_picture(str(picture), spec, file)


__all__ = ["is_whole", "read", "written"]
