"""Map-style data sets, read into one array: ``len(dataset)`` and ``dataset[i] -> (input,
label)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.data.import_object import imported
from edgeadapt.host.data.labelled import require_memory
from edgeadapt.host.data.sensors import SensorData

# what decoders raise
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
)


def load_dataset_factory(
    spec: str,
    groups: str | None = None,
    /,
    *,
    size: int | tuple[int, int] | None = None,
    colour: str | None = None,
    **options: Any,
) -> ImageData | SensorData:
    """A map-style data set that a function of the user's own makes.

    Args:
        spec: ``"module:function"``, called with ``options``, which may have a ``groups`` of their
            own.
        groups, size, colour: as in ``collect``.

    Raises:
        InputError: nothing of that name, arguments that it refuses, or a data set that ``collect``
            refuses.
    """
    factory = imported(spec, "data set")
    try:
        dataset = factory(**options)
    except TypeError as error:
        raise InputError(f"data set {spec!r} refused its arguments {options}: {error}") from error
    return collect(dataset, f"data set {spec!r}", size=size, colour=colour, groups=groups)


def collect(
    dataset: Any,
    name: str,
    *,
    size: int | tuple[int, int] | None = None,
    colour: str | None = None,
    groups: str | None = None,
) -> ImageData | SensorData:
    """Read every sample of a map-style data set into one array.

    A sample is ``(input, label)``: a Pillow image, a uint8 array (H, W), (H, W, 1 or 3) or tensor
    (1 or 3, H, W), or for sensors a floating-point signal (C, L) or vector (F,); and a whole number
    from 0 on. Names are those of ``dataset.classes``, else the numbers.

    Args:
        name: for messages.
        size: (height, width) of images in pixels, or one number for both; None takes that of the
            first image, which all must then have.
        colour: ``"rgb"`` or ``"gray"``; None as the first image is.
        groups: the attribute of the data set with the group of every sample; None is ``"groups"``
            where it is there, ``""`` none.

    Raises:
        InputError: not map-style, empty, more than memory can hold, or a sample that cannot be
            used; the message has its number.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise InputError(
            f"{name}: needs len(dataset) and dataset[i]; got a {type(dataset).__name__}, which is"
            " no map-style data set"
        )
    if colour not in (None, "rgb", "gray"):
        raise InputError(f"{name}: colour is 'rgb' or 'gray', got {colour!r}")
    count = len(dataset)
    if not count:
        raise InputError(f"{name}: has no samples")
    first, _ = _sample(dataset, 0, name)
    convert = _as_values if _is_sensor(first) else _as_pixels(first, size, colour)
    example = _converted(convert, first, 0, name)
    require_memory(count * example.nbytes, f"{name}: {count:,} samples of shape {example.shape}")
    x, y = np.empty((count, *example.shape), example.dtype), np.empty(count, np.int64)
    for row, (given, label) in _samples(dataset, count, name):
        value = _converted(convert, given, row, name)
        if value.shape != example.shape:
            hint = "give size=" if value.dtype == np.uint8 else "cut them to one length"
            raise InputError(
                f"{name}: sample {row} has shape {value.shape}, the first {example.shape}; {hint}"
            )
        x[row], y[row] = value, label
    # the second: of a Subset
    classes = getattr(dataset, "classes", None) or getattr(
        getattr(dataset, "dataset", None), "classes", None
    )
    names = tuple(
        str(c if isinstance(c, str) else c[0] if isinstance(c, tuple) else c)
        for c in classes or range(int(y.max()) + 1)
    )
    given_groups = (
        getattr(dataset, "groups" if groups is None else groups, None) if groups != "" else None
    )
    if groups and given_groups is None:
        raise InputError(f"{name}: has no attribute {groups!r} for groups")
    try:
        of_row = None if given_groups is None else np.asarray(given_groups)
        return (
            ImageData(x, y, names, of_row)
            if x.dtype == np.uint8
            else SensorData(x, y, names, of_row)
        )
    except (InputError, ValueError) as error:  # the second: groups of unlike lengths
        raise InputError(f"{name}: {error}") from error


def _samples(dataset: Any, count: int, name: str) -> Iterator[tuple[int, tuple[Any, int]]]:
    for row in range(count):
        yield row, _sample(dataset, row, name)


def _sample(dataset: Any, row: int, name: str) -> tuple[Any, int]:
    try:
        sample = dataset[row]
    except _UNREADABLE as error:
        raise InputError(
            f"{name}: sample {row} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise InputError(
            f"{name}: sample {row} is no pair (input, label), got {type(sample).__name__}"
        )
    given, label = sample
    if isinstance(label, (Tensor, np.ndarray, np.generic)) and label.shape in ((), (1,)):
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int):
        raise InputError(f"{name}: the label of sample {row} is no whole number but {label!r:.80}")
    return given, label


def _is_sensor(given: Any) -> bool:
    is_float = (
        given.is_floating_point()
        if isinstance(given, Tensor)
        else isinstance(given, np.ndarray) and given.dtype.kind == "f"
    )
    return is_float and given.ndim in (1, 2)


def _as_values(given: Any) -> NDArray[np.float32]:
    if not _is_sensor(given):
        raise InputError(
            "is no floating-point signal (C, L) or vector, as the first is, but"
            f" {_described(given)}"
        )
    return (
        given.detach().cpu().float().numpy()
        if isinstance(given, Tensor)
        else given.astype(np.float32)
    )


def _described(given: Any) -> str:
    return (
        f"{given.dtype} {tuple(given.shape)}"
        if isinstance(given, (Tensor, np.ndarray))
        else type(given).__name__
    )


def _as_pixels(
    first: Any, size: int | tuple[int, int] | None, colour: str | None
) -> Callable[[Any], NDArray[np.uint8]]:
    """Converts a sample to uint8 (H, W) or (H, W, 3), of one size and colour."""
    from PIL import Image

    height, width = (size, size) if isinstance(size, int) else size or (0, 0)

    def picture(given: Any) -> Image.Image:
        if isinstance(given, Image.Image):
            return given
        if getattr(given, "dtype", None) not in (np.uint8, torch.uint8):
            raise InputError(
                "is no Pillow image, uint8 array, or floating-point signal (C, L) or vector, but"
                f" {_described(given)}; leave out transforms such as ToTensor"
            )
        if isinstance(given, Tensor):
            given = (
                (given.permute(1, 2, 0) if given.dim() == 3 and given.shape[0] in (1, 3) else given)
                .cpu()
                .numpy()
            )
        return Image.fromarray(
            np.ascontiguousarray(
                given[..., 0] if given.ndim == 3 and given.shape[2] == 1 else given
            )
        )

    def convert(given: Any) -> NDArray[np.uint8]:
        image = picture(given)
        image = image if image.mode == mode else image.convert(mode)
        if size is not None and image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image, np.uint8)

    mode = {"rgb": "RGB", "gray": "L"}[colour] if colour else ""
    if not mode:
        try:
            mode = "L" if picture(first).mode in ("1", "L", "LA", "I", "I;16", "F") else "RGB"
        except _UNREADABLE:
            mode = "RGB"  # the sample is refused when it is converted, where its number is known
    return convert


def _converted(
    convert: Callable[[Any], NDArray[Any]], given: Any, row: int, name: str
) -> NDArray[Any]:
    try:
        return convert(given)
    except InputError as error:
        raise InputError(f"{name}: sample {row} {error}") from error
    except _UNREADABLE as error:
        raise InputError(
            f"{name}: sample {row} cannot be converted: {type(error).__name__}: {error}"
        ) from error


__all__ = ["collect", "load_dataset_factory"]
