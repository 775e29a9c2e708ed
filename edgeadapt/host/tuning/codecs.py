"""How the numbers of a delta are written: whole floats, or a few bits each.

Source: Jie et al., ICCV 2023, arXiv 2307.16867: a value is the nearest of ``2^b`` codes
for a standard normal, times the standard deviation plus the mean of its tensor. Codes are the
medians of their cells and boundaries lie halfway between codes, which makes the mean absolute error
least: at one bit +-0.6745. Differs: both moments are stored as float32 and nothing is added to the
deviation, so that tensors of one value come back exactly; sizes need not fill whole bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

Values = NDArray[np.float32]


class Codec(Protocol):
    """Tensors as bytes and back."""

    def encode(self, value: NDArray[Any]) -> bytes:
        """The bytes of a tensor of any shape.

        Raises:
            InputError: a value is not finite, or too large for the codec.
        """
        ...

    def decode(self, data: bytes, shape: tuple[int, ...]) -> Values:
        """The tensor that the bytes stand for, the same bits on every machine.

        Raises:
            InputError: another length than :meth:`nbytes`, or bytes that :meth:`encode` never
                makes.
        """
        ...

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Length of what :meth:`encode` returns."""
        ...


@dataclass(frozen=True)
class Floats:
    """Every value as it is, in 4 bytes, or rounded to the nearest float16, in 2."""

    name: str
    dtype: str

    def encode(self, value: NDArray[Any]) -> bytes:
        with np.errstate(over="ignore"):
            written = np.asarray(value, dtype=np.float32).astype(self.dtype)
        if not np.isfinite(written).all():
            raise InputError(f"{self.name} cannot hold a value that is not finite, or that large")
        return written.tobytes()

    def decode(self, data: bytes, shape: tuple[int, ...]) -> Values:
        _check_length(self, data, shape)
        found = np.frombuffer(data, self.dtype).astype(np.float32).reshape(shape)
        if not np.isfinite(found).all():
            raise InputError(f"{self.name}: damaged, a value is not finite")
        return found

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Codes:
    """``bits`` a value, the first of a byte in its lowest bits, behind mean and deviation."""

    name: str
    bits: int

    def encode(self, value: NDArray[Any]) -> bytes:
        flat = np.asarray(value, dtype=np.float32).astype(np.float64).ravel()
        if not np.isfinite(flat).all():
            raise InputError(f"{self.name} cannot hold a value that is not finite")
        moments = np.array([flat.mean(), flat.std()] if flat.size else [0.0, 0.0]).astype("<f4")
        table = self._table(moments).astype(np.float64)
        if not np.isfinite(table).all():
            raise InputError(f"{self.name} cannot hold values as large as {np.abs(flat).max():g}")
        codes = np.searchsorted((table[1:] + table[:-1]) / 2, flat).astype(np.uint8)
        padded = np.zeros(-(-flat.size * self.bits // 8) * 8 // self.bits, np.uint8)
        padded[: flat.size] = codes
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        packed = np.bitwise_or.reduce(padded.reshape(-1, len(shifts)) << shifts, axis=1)
        return moments.tobytes() + packed.astype(np.uint8).tobytes()

    def decode(self, data: bytes, shape: tuple[int, ...]) -> Values:
        _check_length(self, data, shape)
        moments = np.frombuffer(data[:8], "<f4")
        if not (np.isfinite(moments).all() and moments[1] >= 0):
            raise InputError(f"{self.name}: damaged, mean and deviation are {moments.tolist()}")
        table = self._table(moments)
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        packed = np.frombuffer(data[8:], np.uint8)
        codes = ((packed[:, None] >> shifts) & (2**self.bits - 1)).ravel()
        count = math.prod(shape)
        if codes[count:].any():
            raise InputError(f"{self.name}: damaged, bits behind the last value are set")
        found = table[codes[:count]].reshape(shape)
        if not np.isfinite(found).all():
            raise InputError(f"{self.name}: damaged, a value is not finite")
        return found

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return -(-math.prod(shape) * self.bits // 8) + 8

    def _table(self, moments: NDArray[np.float32]) -> Values:
        """The values of all codes, increasing: one product and one sum in float32."""
        mean, deviation = moments.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return codebook(self.bits) * deviation + mean


CODECS: dict[str, Codec] = {
    "float32": Floats("float32", "<f4"),
    "float16": Floats("float16", "<f2"),
    "8bit": Codes("8bit", 8),
    "4bit": Codes("4bit", 4),
    "2bit": Codes("2bit", 2),
    "1bit": Codes("1bit", 1),
}


def codec(name: str) -> Codec:
    """The codec of this name.

    Raises:
        InputError: there is none.
    """
    if name not in CODECS:
        raise InputError(f"no codec {name!r}; there are {', '.join(CODECS)}")
    return CODECS[name]


def whole_codec(values: Iterable[NDArray[Any]]) -> str:
    """Of parameters that are trained whole: float16, or float32 where one is too large for it. A
    classifier of features that hardly vary has weights beyond 65504.
    """
    most = max((float(np.abs(value).max(initial=0.0)) for value in values), default=0.0)
    return "float16" if most < 65504 else "float32"


@cache
def codebook(bits: int) -> Values:
    """The ``2^bits`` codes for a standard normal, increasing and symmetric.

    The smallest positive code decides all others; it is bisected. Rounded to 1e-6, so that no
    machine's exponential shows.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        first = (low + high) / 2
        low, high = (low, first) if _positive(first, bits) is None else (first, high)
    positive = [round(code, 6) for code in _positive(low, bits) or ()]
    return np.array([-code for code in reversed(positive)] + positive, np.float32)


def _positive(first: float, bits: int) -> list[float] | None:
    """The positive codes from the first on, each the median of its cell in front of it; None if
    the first is too large for that.
    """
    codes, lower = [first], 0.5  # the mass above the cell's lower boundary
    while True:
        upper = math.erfc(codes[-1] / math.sqrt(2)) - lower
        if upper < 0 or len(codes) == 2 ** (bits - 1):
            return None if upper < 0 else codes
        boundary = -NormalDist().inv_cdf(upper) if upper else math.inf
        codes.append(2 * boundary - codes[-1])
        lower = upper


def _check_length(kind: Codec, data: bytes, shape: tuple[int, ...]) -> None:
    if len(data) != kind.nbytes(shape):
        raise InputError(
            f"{len(data)} bytes for a tensor {shape}, which has {kind.nbytes(shape)}: damaged, or"
            " of another codec"
        )


__all__ = ["CODECS", "Codec", "Codes", "Floats", "codebook", "codec", "whole_codec"]
