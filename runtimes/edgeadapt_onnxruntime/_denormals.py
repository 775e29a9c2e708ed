"""Steps flush denormals to zero, and the caller's thread keeps its own way with them.

A second moment that decays becomes denormal, and a step of AdamW takes eight times as long. ONNX
Runtime's option for it sets the mode of the thread that opens a session, for good, and of all
threads that it starts later: an application that opens a learner would lose its own small numbers.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

_SIZE = 256  # bytes; more than any fenv_t of glibc or musl
# of fenv_t: where the control word lies, and its bits: FTZ and DAZ of MXCSR, FZ of FPCR
_FLUSH = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}

Call = Callable[[ctypes.Array[ctypes.c_char]], int]


@cache
def _functions() -> tuple[Call, Call] | None:
    """``fegetenv`` and ``fesetenv``; None where their layout is not known: there nothing is
    changed, and nothing kept.
    """
    if sys.platform != "linux" or platform.machine() not in _FLUSH:
        return None
    process = ctypes.CDLL(None)  # Python itself is linked with the mathematics library
    read, write = getattr(process, "fegetenv", None), getattr(process, "fesetenv", None)
    return None if read is None or write is None else (read, write)


@contextmanager
def kept() -> Iterator[None]:
    """Whatever happens inside, the thread's mode is the one it had."""
    if (functions := _functions()) is None:
        yield
        return
    read, write = functions
    before = ctypes.create_string_buffer(_SIZE)
    read(before)
    try:
        yield
    finally:
        write(before)


@contextmanager
def flushed() -> Iterator[None]:
    """Denormals are zero inside."""
    if (functions := _functions()) is None:
        yield
        return
    read, write = functions
    before = ctypes.create_string_buffer(_SIZE)
    read(before)
    offset, bits = _FLUSH[platform.machine()]
    during = ctypes.create_string_buffer(before.raw, _SIZE)
    word = ctypes.c_uint32.from_buffer(during, offset)
    word.value |= bits
    write(during)
    try:
        yield
    finally:
        write(before)


__all__ = ["flushed", "kept"]
