"""A kept input as a PNG that people and other tools can look at, and whether it holds all of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt._sample_files import read_image
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError


def png_of(raw: NDArray[Any], spec: InputSpec) -> bytes | None:
    """PNG of one input (*spec.shape), None if it is no picture. Floats become 8 bits."""
    frame = _frame(raw, spec)
    if frame is None:
        return None
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(frame).save(written, "PNG")
    return written.getvalue()


def is_whole(png: bytes, raw: NDArray[Any], spec: InputSpec) -> bool:
    """True if the PNG, read as any picture is, gives the same input bit for bit."""
    try:
        read = read_image("the picture", spec, io.BytesIO(png))
    except InputError:
        return False
    return bool(read.dtype == raw.dtype and np.array_equal(read, raw))


def _frame(raw: NDArray[Any], spec: InputSpec) -> NDArray[np.uint8] | None:
    """(H, W) or (H, W, 3) uint8 in RGB order."""
    if spec.layout not in ("NHWC", "NCHW", "NHW") or raw.ndim not in (2, 3):
        return None
    frame = raw.transpose(1, 2, 0) if spec.layout == "NCHW" and raw.ndim == 3 else raw
    if frame.ndim == 3 and frame.shape[2] not in (1, 3):
        return None
    if frame.dtype != np.uint8:
        low, high = spec.range or (float(frame.min()), float(frame.max()))
        scaled = (frame.astype(np.float64) - low) * (255.0 / max(high - low, 1e-12))
        frame = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[..., 0]
    if frame.ndim == 3 and spec.colour == "bgr":
        frame = frame[..., ::-1]
    return np.ascontiguousarray(frame)


__all__ = ["is_whole", "png_of"]
