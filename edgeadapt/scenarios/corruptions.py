"""Nineteen image corruptions at five severities, in numpy, seeded and independent of the image
size.

Fifteen are for reporting and follow the families of Hendrycks and Dietterich (ICLR 2019, arXiv
1903.12261); four (``TUNING``) are for choosing settings and never appear in a report. The
definitions are ours: spatial parameters are fractions of the image height, so the same severity
means the same at 28 and at 96 pixels, and marks are not comparable with ImageNet-C. Severity 3 of
noise, contrast, fog and brightness equals sigma .18, gain .25, field .9 + .25 and +.35.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
_Float = NDArray[np.float32]
_Corruption = Callable[[_Float, float, np.random.Generator], _Float]

SEVERITIES: dict[str, tuple[float, float, float, float, float]] = {
    "gaussian_noise": (0.06, 0.11, 0.18, 0.26, 0.36),  # standard deviation, in units of the range
    "shot_noise": (60, 25, 12, 6, 3),  # photons at full brightness
    "impulse_noise": (0.02, 0.05, 0.10, 0.17, 0.27),  # share of pixels set to black or white
    "defocus_blur": (0.030, 0.045, 0.060, 0.080, 0.105),  # radius of the disc, of the height
    "glass_blur": (0.020, 0.035, 0.050, 0.070, 0.100),  # displacement, of the height
    "motion_blur": (0.10, 0.16, 0.22, 0.30, 0.40),  # length, of the height
    "zoom_blur": (0.06, 0.12, 0.18, 0.26, 0.36),  # largest zoom - 1
    "snow": (0.10, 0.20, 0.30, 0.40, 0.55),  # share of flakes and veil
    "frost": (0.25, 0.40, 0.55, 0.70, 0.85),  # opacity of the crystals
    "fog": (0.30, 0.60, 0.90, 1.30, 1.80),  # amplitude of the smooth field
    "brightness": (0.10, 0.22, 0.35, 0.48, 0.62),  # offset
    "contrast": (0.60, 0.40, 0.25, 0.15, 0.08),  # gain around the image mean
    "elastic_transform": (0.02, 0.035, 0.05, 0.07, 0.10),  # displacement, of the height
    "pixelate": (1.4, 1.7, 2.0, 2.8, 4.0),  # factor
    "jpeg_compression": (8, 16, 32, 64, 128),  # quantiser step at the lowest frequency, of 255
    "speckle_noise": (0.15, 0.25, 0.40, 0.60, 0.85),
    "gaussian_blur": (0.018, 0.030, 0.043, 0.060, 0.085),  # sigma, of the height
    "spatter": (0.06, 0.12, 0.20, 0.30, 0.42),  # share covered by drops
    "saturate": (1.4, 1.8, 2.4, 3.4, 5.0),  # gain before clipping (grey) or of the chroma (colour)
}
TUNING: tuple[str, ...] = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
REPORTING: tuple[str, ...] = tuple(name for name in SEVERITIES if name not in TUNING)


def corrupt(images: Images, name: str, severity: int = 3, seed: int = 0) -> Images:
    """Corrupt a batch.

    Args:
        images: (N, H, W) or (N, H, W, C) uint8.
        name: one of ``SEVERITIES``; ``"clean"`` returns the images unchanged.
        severity: 1 (mild) to 5.
        seed: the same images, name, severity and seed give the same result.

    Returns:
        An array of the same shape and dtype.

    Raises:
        ValueError: an unknown name or a severity outside 1 to 5.
    """
    if name == "clean":
        return images
    if name not in SEVERITIES:
        raise ValueError(f"no corruption called {name!r}; there are {', '.join(SEVERITIES)}")
    if not 1 <= severity <= 5:
        raise ValueError(f"severity is 1 to 5, got {severity}")
    rng = np.random.default_rng([seed, severity, list(SEVERITIES).index(name)])
    x = images.astype(np.float32) / 255.0
    squeeze = x.ndim == 3
    if squeeze:
        x = x[..., None]
    y = _CORRUPTIONS[name](x, float(SEVERITIES[name][severity - 1]), rng)
    y = np.clip(np.round(y * 255.0), 0, 255).astype(np.uint8)
    return y[..., 0] if squeeze else y


def _gaussian_kernel(sigma: float) -> _Float:
    radius = max(1, int(np.ceil(3 * sigma)))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def _along(x: _Float, kernel: _Float, axis: int) -> _Float:
    """Correlate with a 1-D kernel along one axis, edges replicated."""
    radius = len(kernel) // 2
    pad = [(0, 0)] * x.ndim
    pad[axis] = (radius, len(kernel) - 1 - radius)
    wide = np.pad(x, pad, mode="edge")
    size = x.shape[axis]
    out, part = np.zeros_like(x), np.empty_like(x)
    before = (slice(None),) * axis
    for i, weight in enumerate(kernel):
        out += np.multiply(wide[(*before, slice(i, i + size))], weight, out=part)
    return out


def _blur(x: _Float, sigma: float) -> _Float:
    kernel = _gaussian_kernel(sigma)
    return _along(_along(x, kernel, 1), kernel, 2)


def _smooth_field(shape: tuple[int, int, int], sigma: float, rng: np.random.Generator) -> _Float:
    """One smooth random field per image, scaled to 0..1, (N, H, W, 1)."""
    field = _blur(rng.random((*shape, 1), dtype=np.float32), sigma)
    low = field.min(axis=(1, 2), keepdims=True)
    return (field - low) / np.maximum(field.max(axis=(1, 2), keepdims=True) - low, 1e-6)


def _sample(x: _Float, rows: _Float, columns: _Float) -> _Float:
    """Bilinear read at fractional positions (N, H, W), edges clamped."""
    count, height, width, _ = x.shape
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    r0, c0 = np.floor(rows).astype(int), np.floor(columns).astype(int)
    r1, c1 = np.minimum(r0 + 1, height - 1), np.minimum(c0 + 1, width - 1)
    fr, fc = (rows - r0)[..., None], (columns - c0)[..., None]
    n = np.arange(count)[:, None, None]
    top = x[n, r0, c0] * (1 - fc) + x[n, r0, c1] * fc
    bottom = x[n, r1, c0] * (1 - fc) + x[n, r1, c1] * fc
    return (top * (1 - fr) + bottom * fr).astype(np.float32)


def _grid(x: _Float) -> tuple[_Float, _Float]:
    rows, columns = np.meshgrid(
        np.arange(x.shape[1], dtype=np.float32),
        np.arange(x.shape[2], dtype=np.float32),
        indexing="ij",
    )
    return np.broadcast_to(rows, x.shape[:3]).copy(), np.broadcast_to(columns, x.shape[:3]).copy()


def _zoom(x: _Float, factor: float) -> _Float:
    rows, columns = _grid(x)
    centre_r, centre_c = (x.shape[1] - 1) / 2, (x.shape[2] - 1) / 2
    return _sample(
        x, centre_r + (rows - centre_r) / factor, centre_c + (columns - centre_c) / factor
    )


def _gaussian_noise(x: _Float, sigma: float, rng: np.random.Generator) -> _Float:
    return x + rng.normal(0, sigma, x.shape).astype(np.float32)


def _shot_noise(x: _Float, photons: float, rng: np.random.Generator) -> _Float:
    return (rng.poisson(x * photons) / photons).astype(np.float32)


def _impulse_noise(x: _Float, share: float, rng: np.random.Generator) -> _Float:
    draw = rng.random(x.shape[:3])[..., None]
    return np.where(draw < share / 2, 0.0, np.where(draw > 1 - share / 2, 1.0, x)).astype(
        np.float32
    )


def _defocus_blur(x: _Float, radius: float, rng: np.random.Generator) -> _Float:
    pixels = max(radius * x.shape[1], 0.6)
    reach = int(np.ceil(pixels))
    offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    cover = [float(np.clip(pixels + 0.5 - np.hypot(i, j), 0, 1)) for i, j in offsets]
    wide = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)], mode="edge")
    out = np.zeros_like(x)
    for (i, j), weight in zip(offsets, cover, strict=True):
        out += (
            weight * wide[:, reach + i : reach + i + x.shape[1], reach + j : reach + j + x.shape[2]]
        )
    return out / np.float32(sum(cover))


def _glass_blur(x: _Float, reach: float, rng: np.random.Generator) -> _Float:
    rows, columns = _grid(x)
    pixels = max(reach * x.shape[1], 0.7)
    moved = _sample(
        x,
        rows + rng.uniform(-pixels, pixels, rows.shape),
        columns + rng.uniform(-pixels, pixels, rows.shape),
    )
    return _blur(moved, 0.4)


def _motion_blur(x: _Float, length: float, rng: np.random.Generator) -> _Float:
    steps = max(3, round(length * x.shape[1]))
    angle = rng.uniform(0, np.pi, (x.shape[0], 1, 1))
    rows, columns = _grid(x)
    offsets = np.linspace(-0.5, 0.5, steps) * length * x.shape[1]
    out = np.zeros_like(x)
    for offset in offsets:
        out += _sample(x, rows + offset * np.sin(angle), columns + offset * np.cos(angle))
    return out / np.float32(steps)


def _zoom_blur(x: _Float, largest: float, rng: np.random.Generator) -> _Float:
    factors = np.linspace(1.0, 1.0 + largest, 6)
    return np.mean([_zoom(x, float(f)) for f in factors], axis=0, dtype=np.float32)


def _snow(x: _Float, share: float, rng: np.random.Generator) -> _Float:
    flakes = (rng.random((*x.shape[:3], 1)) < share * 0.5).astype(np.float32)
    flakes = np.clip(_along(flakes, np.full(3, 1 / 3, np.float32), 1) * 2, 0, 1)
    veiled = x * (1 - 0.4 * share) + 0.4 * share
    return np.maximum(veiled, flakes * 0.95).astype(np.float32)


def _frost(x: _Float, opacity: float, rng: np.random.Generator) -> _Float:
    rough = _smooth_field(x.shape[:3], 0.03 * x.shape[1], rng)
    crystals = np.clip((rough - 0.35) * 2.2, 0, 1)
    return x * (1 - opacity * crystals) + opacity * crystals * (0.75 + 0.25 * rough)


def _fog(x: _Float, amplitude: float, rng: np.random.Generator) -> _Float:
    veil = amplitude * _smooth_field(x.shape[:3], 0.14 * x.shape[1], rng) + 0.25
    peak = x.max(axis=(1, 2, 3), keepdims=True)
    return ((x + veil) * np.maximum(peak, 0.2) / (np.maximum(peak, 0.2) + amplitude + 0.25)).astype(
        np.float32
    )


def _brightness(x: _Float, offset: float, rng: np.random.Generator) -> _Float:
    return x + np.float32(offset)


def _contrast(x: _Float, gain: float, rng: np.random.Generator) -> _Float:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * np.float32(gain) + mean


def _elastic_transform(x: _Float, reach: float, rng: np.random.Generator) -> _Float:
    rows, columns = _grid(x)
    scale = 2 * reach * x.shape[1]
    fields = [
        (_smooth_field(x.shape[:3], 0.1 * x.shape[1], rng)[..., 0] - 0.5) * scale for _ in range(2)
    ]
    return _sample(x, rows + fields[0], columns + fields[1])


def _pixelate(x: _Float, factor: float, rng: np.random.Generator) -> _Float:
    height, width = x.shape[1:3]
    small_h, small_w = max(1, round(height / factor)), max(1, round(width / factor))
    row, column = np.arange(height) * small_h // height, np.arange(width) * small_w // width
    rows = np.stack([x[:, row == i].mean(axis=1) for i in range(small_h)], 1)
    cells = np.stack([rows[:, :, column == j].mean(axis=2) for j in range(small_w)], 2)
    return cells[:, row][:, :, column]


def _jpeg_compression(x: _Float, step: float, rng: np.random.Generator) -> _Float:
    """Quantise the 8 x 8 cosine transform with a step that grows with frequency."""
    height, width = x.shape[1:3]
    wide = np.pad(x, [(0, 0), (0, -height % 8), (0, -width % 8), (0, 0)], mode="edge")
    k = np.arange(8)
    basis = np.sqrt(np.where(k == 0, 1, 2) / 8)[:, None] * np.cos(
        np.pi * (2 * k[None] + 1) * k[:, None] / 16
    )
    blocks = wide.reshape(x.shape[0], wide.shape[1] // 8, 8, wide.shape[2] // 8, 8, x.shape[3])
    spectrum = np.einsum("ua,nhawbc,vb->nhuwvc", basis, blocks, basis)
    quantum = (step / 255.0 * (1 + 0.5 * (k[:, None] + k[None])))[None, None, :, None, :, None]
    back = np.einsum("ua,nhuwvc,vb->nhawbc", basis, np.round(spectrum / quantum) * quantum, basis)
    return back.reshape(wide.shape)[:, :height, :width].astype(np.float32)


def _speckle_noise(x: _Float, sigma: float, rng: np.random.Generator) -> _Float:
    return x + x * rng.normal(0, sigma, x.shape).astype(np.float32)


def _gaussian_blur(x: _Float, sigma: float, rng: np.random.Generator) -> _Float:
    return _blur(x, max(sigma * x.shape[1], 0.3))


def _spatter(x: _Float, share: float, rng: np.random.Generator) -> _Float:
    field = _smooth_field(x.shape[:3], 0.05 * x.shape[1], rng)
    level = np.quantile(field, 1 - share, axis=(1, 2), keepdims=True)
    return np.where(field > level, 0.65 * np.float32(1) + 0.1 * x, x).astype(np.float32)


def _saturate(x: _Float, gain: float, rng: np.random.Generator) -> _Float:
    if x.shape[3] == 1:
        return x * np.float32(gain)
    grey = x.mean(axis=3, keepdims=True)
    return (x - grey) * np.float32(gain) + grey


_CORRUPTIONS: dict[str, _Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "spatter": _spatter,
    "saturate": _saturate,
}
