"""A signal in a file: one row a reading, one column a channel; ``.csv``, or ``.npz`` with an array
x.
"""

from __future__ import annotations

import csv
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt._sample_files import check_regular, read_arrays
from edgeadapt.errors import InputError

_MOST_BYTES = 1 << 28  # of float32, or of text
_LINES = 1024  # between two looks at whether it should stop


def read_signal(path: Path, stop: threading.Event) -> NDArray[np.float32]:
    """(T, C) float32. A ``.csv`` may have a line of names first; empty lines, and lines that begin
    with #, are skipped.

    Raises:
        InputError: missing, damaged, too large, or not such a table; the message has file and line.
    """
    check_regular(path)
    signal = _read_csv(path, stop) if path.suffix == ".csv" else _read_npz(path)
    if 0 in signal.shape and not stop.is_set():
        raise InputError(f"{path}: holds no readings")
    return signal


def _read_npz(path: Path) -> NDArray[np.float32]:
    x = read_arrays(path, {"x": _MOST_BYTES}).get("x")
    if x is None or x.ndim not in (1, 2) or x.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: a signal is an array x of numbers, (readings, channels)"
            + (f"; got {x.dtype}{list(x.shape)}" if x is not None else "")
        )
    # what float32 cannot hold is not finite, and is refused as such with its window
    with np.errstate(over="ignore"):
        return x.reshape(len(x), -1).astype(np.float32)


def _read_csv(path: Path, stop: threading.Event) -> NDArray[np.float32]:
    values, width = array("f"), 0
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(
                f"{path}: {path.stat().st_size} bytes, the limit is {_MOST_BYTES}; split it, or"
                " give an .npz"
            )
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, fields in enumerate(csv.reader(file), 1):
                if number % _LINES == 0 and stop.is_set():
                    break
                if not fields or fields[0].lstrip().startswith("#"):
                    continue
                row = _numbers(fields)
                if row is None and width == 0:
                    width = len(fields)  # the names of the channels
                    continue
                if row is None or len(row) != (width or len(row)):
                    raise InputError(
                        f"{path}, line {number}: {width or 'some'} numbers are expected, got"
                        f" {','.join(fields)[:200]!r}"
                    )
                width = len(row)
                values.extend(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    return np.frombuffer(values, np.float32).reshape(-1, max(width, 1))


def _numbers(fields: Sequence[str]) -> list[float] | None:
    try:
        return [float(field) for field in fields]
    except ValueError:
        return None


__all__ = ["read_signal"]
