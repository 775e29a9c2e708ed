"""From a camera frame to a model input: the one implementation, used by calibration, demo, bench
and daemon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError


def prepare(frame: Any, spec: InputSpec, *, colour: str | None = None) -> NDArray[Any]:
    """Bring one frame into the form a bundle's encoder takes.

    Args:
        frame: (H, W), (H, W, 1) or (H, W, 3) array, uint8 in 0..255 or float in 0..1, or a Pillow
            image.
        spec: the bundle's ``manifest.input``.
        colour: order of the frame's channels, ``"rgb"`` (the default) or ``"bgr"``, as OpenCV has
            it.

    Returns:
        One sample of shape ``spec.shape`` and dtype ``spec.dtype``, without a batch axis.

    Raises:
        InputError: the frame is not an image or cannot be converted.
    """
    if spec.layout in ("NC", "features"):
        raise InputError(
            f"this bundle takes {spec.layout} vectors of shape {spec.shape}, not frames"
        )
    if colour not in (None, "rgb", "bgr"):
        raise InputError(f"colour is 'rgb' or 'bgr', got {colour!r}")
    try:
        image = np.asarray(frame)
    except ValueError as error:
        raise InputError(
            f"a frame is (H, W), (H, W, 1) or (H, W, 3), got no array: {error}"
        ) from error
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise InputError(f"a frame is (H, W), (H, W, 1) or (H, W, 3), got shape {np.shape(frame)}")
    if image.shape[2] == 4:
        image = image[..., :3]
    if image.dtype != np.uint8:
        image = _to_bytes(image)
    if colour == "bgr" and image.shape[2] == 3:
        image = image[..., ::-1]
    image = _to_colour(image, spec.colour)
    height, width = _size(spec)
    if image.shape[:2] != (height, width):
        if spec.resize == "none":
            raise InputError(
                f"this bundle takes {height} x {width} frames and does not resize, got"
                f" {image.shape[0]} x {image.shape[1]}"
            )
        image = resize_bilinear(image, height, width)
    if image.shape[2] != _channels(spec):
        raise InputError(
            f"this bundle takes {_channels(spec)} channels without a colour order, got a frame of"
            f" {image.shape[2]}"
        )
    sample = image if spec.dtype == "uint8" else _to_range(image, spec)
    if spec.layout == "NHW":
        return np.ascontiguousarray(sample[..., 0])
    if spec.layout == "NCHW":
        return np.ascontiguousarray(sample.transpose(2, 0, 1))
    return np.ascontiguousarray(sample)


def _size(spec: InputSpec) -> tuple[int, int]:
    if spec.layout == "NCHW":
        return spec.shape[1], spec.shape[2]
    return spec.shape[0], spec.shape[1]


def _channels(spec: InputSpec) -> int:
    if spec.layout == "NHW":
        return 1
    return spec.shape[0] if spec.layout == "NCHW" else spec.shape[2]


def _to_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    if not np.issubdtype(image.dtype, np.floating) and not np.issubdtype(image.dtype, np.bool_):
        raise InputError(f"a frame is uint8 in 0..255 or float in 0..1, got dtype {image.dtype}")
    low, high = float(np.min(image)), float(np.max(image))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("the frame has values that are not finite")
    if low < 0.0 or high > 1.0:
        raise InputError(
            f"a float frame lies in 0..1, got {low:g}..{high:g}; divide by 255 or pass uint8"
        )
    return np.asarray(np.round(image * 255.0), np.uint8)


def _to_colour(image: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    if colour == "gray" and image.shape[2] == 3:
        luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return np.asarray(np.round(luma), np.uint8)[..., None]
    if colour in ("rgb", "bgr") and image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if colour == "bgr":
        return image[..., ::-1]
    return image


def _to_range(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    low, high = spec.range if spec.range is not None else (0.0, 255.0)
    scaled = image.astype(np.float32) * ((high - low) / 255.0) + low
    return np.asarray(scaled, np.float32)


def resize_bilinear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize (H, W, C) uint8 with half-pixel centres; shrinking averages over the footprint first
    (no aliasing).
    """
    # columns: as float32 a whole picture takes four times its memory
    step = max(1, _BLOCK // (image.shape[0] * image.shape[2]))
    blocks = [
        _resize_axis(image[:, at : at + step].astype(np.float32), height, 0)
        for at in range(0, image.shape[1], step)
    ]
    x = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
    x = _resize_axis(x, width, 1)
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


_BLOCK = 1 << 22  # values


def _resize_axis(x: NDArray[np.float32], size: int, axis: int) -> NDArray[np.float32]:
    """A triangle filter whose support widens with the shrink factor: linear interpolation when
    growing.
    """
    old = x.shape[axis]
    if old == size:
        return x
    scale = old / size
    support = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(old)[None, :] - centres[:, None]) / support)
    weights /= weights.sum(axis=1, keepdims=True)
    moved = np.tensordot(weights.astype(np.float32), x, axes=(1, axis))
    return np.moveaxis(moved, 0, axis)
