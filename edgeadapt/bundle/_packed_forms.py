"""How a weight file keeps a tensor: in fewer bytes where the very same values come back.

    half       float32 whose every value float16 has too: as float16
    triangle   a symmetric matrix, whole or packed by ``packed_gram.py``: its upper triangle,
               row after row
    slots      zero in every class slot that no class of the factory has: without these slots

Nothing says which form was taken: it follows from the type and shape in the file, beside those of
the manifest. A tensor that would lose a bit in a form does not take it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.packed_gram import mirrored, packed_runs, packed_width
from edgeadapt.bundle.schema import TensorSpec

Array = NDArray[Any]
Shape = tuple[int, ...]


def packed(spec: TensorSpec, classes: int, value: Array) -> Array:
    """The smallest form of a value of this tensor that gives its bits back.

    Args:
        spec: what the manifest says of it. classes: that the factory knows.
    """
    plain = np.asarray(value, order="C")
    best = plain
    for shape in _shapes(spec, classes):
        smaller = _reshaped(spec, plain, shape)
        if smaller.size < best.size and _same(unpacked(spec, smaller), plain):
            best = smaller
    if best.dtype == np.float32:
        with np.errstate(over="ignore"):
            half = best.astype(np.float16)
        if _same(half.astype(np.float32), best):
            return half
    return best


def unpacked(spec: TensorSpec, value: Array) -> Array:
    """The tensor as the manifest declares it, from any of its forms."""
    array = value.astype(spec.dtype, copy=False)
    if array.shape == spec.shape:
        return array
    if array.ndim == len(spec.shape) and spec.class_axis is not None:
        whole = np.zeros(spec.shape, spec.dtype)
        whole[_first(spec, array.shape[spec.class_axis])] = array
        return whole
    return _from_triangle(spec, array)


def forms(spec: TensorSpec, classes: int) -> set[tuple[str, Shape]]:
    """Types and shapes that a file may keep this tensor in."""
    dtypes = (spec.dtype, "float16") if spec.dtype == "float32" else (spec.dtype,)
    return {(dtype, shape) for dtype in dtypes for shape in (spec.shape, *_shapes(spec, classes))}


def _shapes(spec: TensorSpec, classes: int) -> list[Shape]:
    """Of the smaller forms that a tensor of this shape can have."""
    found: list[Shape] = []
    if spec.class_axis is not None and classes < spec.shape[spec.class_axis]:
        axis = spec.class_axis
        found.append((*spec.shape[:axis], classes, *spec.shape[axis + 1 :]))
    width = _width(spec)
    if width > 1:
        found.append((width * (width + 1) // 2,))
    return found


def _width(spec: TensorSpec) -> int:
    """n of a tensor that can be a symmetric matrix (n, n), whole or packed; else 0."""
    if spec.kind != "evidence" or spec.class_axis is not None:
        return 0
    if len(spec.shape) == 2:
        return spec.shape[0] if spec.shape[0] == spec.shape[1] else 0
    return packed_width(spec.shape[0]) if len(spec.shape) == 1 else 0


def _reshaped(spec: TensorSpec, plain: Array, shape: Shape) -> Array:
    """What is left of a value in a form of this shape."""
    if spec.class_axis is not None:
        return np.ascontiguousarray(plain[_first(spec, shape[spec.class_axis])])
    if plain.ndim == 2:
        return np.concatenate([plain[row, row:] for row in range(len(plain))])
    pieces, at, width = [], 0, _width(spec)
    for start, end in packed_runs(width):
        run = plain[at : (at := at + (end - start) * (width - start))].reshape(end - start, -1)
        pieces += [run[row, row:] for row in range(end - start)]
    return np.concatenate(pieces)


def _from_triangle(spec: TensorSpec, triangle: Array) -> Array:
    width = _width(spec)
    runs = packed_runs(width) if len(spec.shape) == 1 else [(0, width)]
    whole = np.empty(spec.shape, spec.dtype)
    flat, at, taken = whole.reshape(-1), 0, 0
    for start, end in runs:
        run = flat[at : (at := at + (end - start) * (width - start))].reshape(end - start, -1)
        for row in range(end - start):
            length = width - start - row
            run[row, row:] = triangle[taken : (taken := taken + length)]
        run[:, : end - start] = mirrored(run[:, : end - start])
    return whole


def _first(spec: TensorSpec, count: int) -> tuple[slice, ...]:
    """The first slots of the class axis."""
    assert spec.class_axis is not None
    return (*[slice(None)] * spec.class_axis, slice(count))


def _same(one: Array, other: Array) -> bool:
    """Bit for bit: of zeros too, which have a sign."""
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()
