"""Inputs as people see them."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import InputSpec


def as_picture(frame: NDArray[Any], spec: InputSpec) -> NDArray[np.uint8] | None:
    """An input as a picture, (H, W) or (H, W, 3) uint8, RGB; None if it is none."""
    if spec.layout not in ("NHWC", "NCHW", "NHW") or frame.shape != spec.shape:
        return None
    image = frame.transpose(1, 2, 0) if spec.layout == "NCHW" else frame
    if image.dtype != np.uint8:
        low, high = spec.range or (0.0, 255.0)
        image = np.clip(np.round((image - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 3 and image.shape[2] != 3:
        return None
    return np.ascontiguousarray(
        image[..., ::-1] if image.ndim == 3 and spec.colour == "bgr" else image
    )


def png_of(frame: NDArray[np.uint8]) -> bytes:
    """(H, W), (H, W, 1) or (H, W, 3) uint8 as PNG: no package of pictures is needed to show one."""
    height, width = frame.shape[:2]
    rows = np.ascontiguousarray(frame, np.uint8).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    parts = (
        (
            b"IHDR",
            struct.pack(
                ">IIBBBBB", width, height, 8, 2 if rows.shape[1] == 3 * width else 0, 0, 0, 0
            ),
        ),
        (b"IDAT", zlib.compress(raw, 6)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


__all__ = ["as_picture", "png_of"]
