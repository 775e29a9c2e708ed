"""Labels as people have them, names or numbers, as the numbers that everything inside takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, UnknownClassError
from edgeadapt.inputs import unknown_class_message


def class_numbers(labels: Any, classes: Sequence[str]) -> NDArray[np.int64]:
    """(N,) int64, the place of every label in ``classes``.

    Args:
        labels: (N,) names, or whole numbers, which are places already; a list, an array, a column.
        classes: distinct names.

    Raises:
        InputError: not one dimension, names mixed with numbers, or a number that is no place.
        UnknownClassError: a name that is no class; the message has the closest one.

    >>> class_numbers(["scratch", "ok", "ok"], ["ok", "scratch"])
    array([1, 0, 0])
    """
    given = np.asarray(labels)
    if given.ndim == 1 and np.issubdtype(given.dtype, np.integer):
        if len(given) and not (given.min() >= 0 and given.max() < len(classes)):
            raise InputError(
                f"labels are names, or numbers that index the {len(classes)} classes, "
                f"got {given.min()}..{given.max()}"
            )
        return given.astype(np.int64)
    if not are_names(given):
        raise InputError(
            "labels are class names, or numbers that index the classes, one for each input, "
            f"got {given.dtype} {given.shape}"
        )
    place = {name: number for number, name in enumerate(classes)}
    try:
        return np.array([place[str(name)] for name in given], np.int64)
    except KeyError as error:
        close = unknown_class_message(str(error.args[0]), classes).partition("; learner")[0]
        raise UnknownClassError(
            f"a label names an {close}; classes: {', '.join(classes)[:200]}"
        ) from None


def class_names(labels: Any) -> tuple[str, ...]:
    """The distinct names among labels, sorted.

    Raises:
        InputError: labels that are no names: numbers do not say what they are called.
    """
    given = np.asarray(labels)
    if not are_names(given):
        raise InputError(
            "labels are numbers: name the classes that they index, "
            f"got {given.dtype} {given.shape} and no classes"
        )
    return tuple(sorted({str(name) for name in given}))


def are_names(labels: NDArray[Any]) -> bool:
    """(N,) text and nothing else; an array of objects may hold it, as a column of a table does."""
    if labels.ndim != 1 or not len(labels):
        return False
    return labels.dtype.kind == "U" or (
        labels.dtype.kind == "O" and all(isinstance(name, str) for name in labels)
    )


__all__ = ["are_names", "class_names", "class_numbers"]
