"""What enters is checked once, here; inside, code trusts its own arrays."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError, InputWarning, UnknownClassError
from edgeadapt.results import describe

_DTYPES = {name: np.dtype(name) for name in ("float32", "uint8")}  # what an encoder may take
LONGEST_CLASS_NAME = 255
LONGEST_NAME_BYTES = 1024
"""Characters of a class name that a learner takes; every commit, answer and page repeats it."""
_LONGEST_NAME = 100  # characters of a class name that are compared and shown


def to_numpy(value: Any) -> NDArray[Any]:
    """Take numpy arrays, sequences, and anything with ``__dlpack__`` (a torch or CuPy array on the
    host).
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (TypeError, RuntimeError, BufferError) as error:
            raise InputError(
                f"cannot take {type(value).__name__} through DLPack: {error}; move it to the host"
                " first"
            ) from error
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"not an array: {error}") from error


def check_batch(value: Any, spec: InputSpec) -> NDArray[Any]:
    """A batch for the encoder: (N, *spec.shape), N >= 1, of spec.dtype, finite, within spec.range.

    One sample without the batch axis is accepted and becomes a batch of one.

    Raises:
        InputError: with the offending shape, dtype or value.
    """
    x = value if type(value) is np.ndarray else to_numpy(value)
    wanted = spec.shape
    if x.shape == wanted:
        x = x[None]
    elif x.shape[1:] != wanted:
        raise InputError(
            f"an input batch has shape (N, {', '.join(map(str, wanted))}), layout {spec.layout};"
            f" got {x.shape}{_layout_hint(x.shape, spec)}"
        )
    if not len(x):
        raise InputError(f"the batch is empty: shape {x.shape}")
    if x.dtype != _DTYPES[spec.dtype]:
        if spec.dtype == "float32" and x.dtype in (np.float64, np.float16):
            x = x.astype(np.float32)
        else:
            raise InputError(
                f"inputs are {spec.dtype}, got {x.dtype}; edgeadapt.prepare(frame, spec) converts a"
                " frame"
            )
    if spec.dtype == "float32":
        check_finite(x, "input")
        if spec.range is not None:
            low, high = float(x.min()), float(x.max())
            if low < spec.range[0] or high > spec.range[1]:
                raise InputError(
                    f"inputs lie in {spec.range[0]:g}..{spec.range[1]:g}, got {low:g}..{high:g}"
                )
    return np.ascontiguousarray(x)


def _layout_hint(shape: tuple[int, ...], spec: InputSpec) -> str:
    if spec.layout == "NHWC" and len(shape) == 4 and (shape[2], shape[3], shape[1]) == spec.shape:
        return "; this looks like NCHW: transpose(0, 2, 3, 1)"
    if spec.layout == "NCHW" and len(shape) == 4 and (shape[3], shape[1], shape[2]) == spec.shape:
        return "; this looks like NHWC: transpose(0, 3, 1, 2)"
    return ""


def check_features(
    features: Mapping[str, Any], dim: int, tap_dim: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features computed elsewhere: ``{"z": (N, dim)}`` and, where the bundle has taps, ``"taps":
    (N, tap_dim)``.
    """
    if not isinstance(features, Mapping) or "z" not in features:
        raise InputError(f"features are a mapping with the key 'z', got {describe(features)}")
    unknown = sorted(set(features) - {"z", "taps"})
    if unknown:
        raise InputError(f"unknown feature {unknown[0]!r}; a bundle takes 'z' and 'taps'")
    z = _matrix(features["z"], "z", dim)
    if tap_dim == 0:
        return z, np.zeros((len(z), 0), np.float32)
    if "taps" not in features:
        raise InputError(f"this bundle also needs features['taps'] of shape (N, {tap_dim})")
    taps = _matrix(features["taps"], "taps", tap_dim)
    if len(taps) != len(z):
        raise InputError(f"'z' has {len(z)} rows and 'taps' {len(taps)}")
    return z, taps


def _matrix(value: Any, name: str, width: int) -> NDArray[np.float32]:
    array = to_numpy(value)
    if array.ndim == 1 and array.shape[0] == width:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != width:
        raise InputError(f"features[{name!r}] has shape (N, {width}), got {array.shape}")
    if len(array) == 0:
        raise InputError(f"features[{name!r}] is empty: shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"features[{name!r}] is a float array, got {array.dtype}")
    array = np.ascontiguousarray(array, np.float32)
    check_finite(array, f"features[{name!r}]")
    return array


def check_finite(array: NDArray[Any], what: str) -> None:
    """Refuse NaN and infinities, naming the first one."""
    if not np.isfinite(np.sum(array)) and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{what} has the value {array[where]} at {where}")


def check_labels(
    labels: Any, count: int, classes: Mapping[str, int], *, refuse_unknown: bool = True
) -> tuple[str, ...]:
    """Class names for a batch: strings, or class ids of the learner. Unknown names pass only
    without ``refuse_unknown``.

    Raises:
        InputError: not one label per input.
        UnknownClassError: with the closest known name.
    """
    names = _listed(labels, count)
    if len(names) != count:
        more = " or more" if len(names) > count else ""
        raise InputError(f"{count} inputs need {count} labels, got {len(names)}{more}")
    by_slot = {slot: name for name, slot in classes.items()}
    result = []
    for name in names:
        if isinstance(name, (bool, np.bool_)) or not isinstance(name, (str, int, np.integer)):
            raise InputError(f"a label is a class name or a class id, got {name!r}")
        if not isinstance(name, str):
            slot = int(name)
            if slot not in by_slot:
                ids = f"; ids are {min(by_slot)}..{max(by_slot)}" if by_slot else ""
                raise UnknownClassError(f"no class has the id {slot}{ids}")
            name = by_slot[slot]
        elif refuse_unknown and name not in classes:
            raise UnknownClassError(unknown_class_message(name, classes))
        result.append(check_text(name, "a label"))
    return tuple(result)


def _listed(labels: Any, count: int) -> list[Any]:
    """The labels in their order, at most one too many; what has no order, or would be taken for
    numbers, is refused.
    """
    if isinstance(labels, (str, int, np.integer)):
        return [labels]
    if isinstance(labels, np.ndarray):
        listed = labels.tolist()
        return listed if isinstance(listed, list) else [listed]
    if not _is_list(labels):
        raise InputError(f"labels are a list of class names or class ids, got {describe(labels)}")
    return list(islice(labels, count + 1))


def _is_list(values: Any) -> bool:
    is_other = isinstance(values, (bytes, bytearray, memoryview, Mapping, Set))
    return isinstance(values, Iterable) and not is_other


def check_text(value: Any, what: str) -> str:
    """A text that can be stored: class names, ids, sources and streams.

    Raises:
        InputError: not a text, or one with half a character in it (a lone surrogate), which UTF-8
            cannot hold.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} is a text, got {describe(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} is a text that UTF-8 can hold, got {value!r}") from None
    return str(value)


def check_name(value: Any, what: str) -> str:
    """A text that is kept with every label or window: an id, a source, a stream.

    Raises:
        InputError: as ``check_text``, or of more than 1,024 bytes in UTF-8.
    """
    name = check_text(value, what)
    if (size := len(name.encode())) > LONGEST_NAME_BYTES:
        raise InputError(
            f"{what} has at most {LONGEST_NAME_BYTES} bytes in UTF-8, got {size}: {name[:40]!r}..."
        )
    return name


def check_texts(values: Any, what: str) -> list[str]:
    """One text or a list of them, such as sample ids; each as :func:`check_text` takes it."""
    if isinstance(values, str):
        return [check_text(values, what)]
    if not _is_list(values):
        raise InputError(f"{what} is a text or a list of texts, got {describe(values)}")
    return [check_text(value, what) for value in values]


def check_count(value: Any, what: str) -> int:
    """A whole number from 0 to 2**53.

    Raises:
        InputError: another type, negative or larger.
    """
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if not is_whole or not 0 <= value <= 1 << 53:
        raise InputError(f"{what} is a whole number from 0 on, got {value!r:.80}")
    return int(value)


def check_number(value: Any, what: str) -> float:
    """A number, infinity included.

    Raises:
        InputError: another type, or not a number.
    """
    is_bool = isinstance(value, (bool, np.bool_))
    kinds = (int, float, np.integer, np.floating)
    if is_bool or not isinstance(value, kinds) or value != value:
        raise InputError(f"{what} is a number, got {value!r:.80}")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{what} is a number that a float can hold") from None


def unknown_class_message(name: str, classes: Sequence[str] | Mapping[str, int]) -> str:
    # time grows with the square of lengths
    close = difflib.get_close_matches(
        name[:_LONGEST_NAME], [known[:_LONGEST_NAME] for known in classes], n=1, cutoff=0.4
    )
    hint = f"closest: {close[0]!r}; " if close else ""
    shown = repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "...")
    return f"unknown class {shown}; {hint}learner.add_class({shown}) adds it"


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


class FirstFrames:
    """Compares the first inputs with the calibration moments and names a swapped channel order or a
    missing factor.
    """

    def __init__(self, spec: InputSpec, frames: int = 64) -> None:
        self._spec = spec
        self._left = frames if spec.mean and spec.layout in ("NHWC", "NCHW", "NHW") else 0
        self._sum = np.zeros(len(spec.mean))
        self._count = 0

    @property
    def is_active(self) -> bool:
        return self._left > 0

    def add(self, x: NDArray[Any]) -> None:
        axes = (0, 1, 2) if self._spec.layout != "NCHW" else (0, 2, 3)
        self._sum += np.atleast_1d(x.mean(axis=axes, dtype=np.float64)) * len(x)
        self._count += len(x)
        self._left -= len(x)
        if self._left <= 0:
            self._compare()

    def _compare(self) -> None:
        mean, wanted = self._sum / self._count, np.array(self._spec.mean)
        spread = np.maximum(np.array(self._spec.std), 1e-6)
        plain = float(np.abs((mean - wanted) / spread).mean())
        suspects = {
            "multiply the inputs by 255": mean * 255.0,
            "divide the inputs by 255": mean / 255.0,
        }
        if len(wanted) == 3:
            suspects["swap the colour channels (rgb <-> bgr)"] = mean[::-1]
        for advice, candidate in suspects.items():
            if plain > 0.3 and float(np.abs((candidate - wanted) / spread).mean()) < 0.4 * plain:
                warnings.warn(
                    f"the first {self._count} inputs have channel means"
                    f" {np.round(mean, 3).tolist()}, calibration had"
                    f" {np.round(wanted, 3).tolist()}; they would fit better after: {advice}",
                    InputWarning,
                    stacklevel=6,  # who called Learner.observe
                )
                return
