"""Pictures from outside: cheap ones are read at once, all others in a child with limits for each.

The child starts with the first picture that needs it, reads one at a time, and ends after a minute
without one. What it sends back is one sample of the bundle or one line of why not, and no more of
it is read.
"""

from __future__ import annotations

import io
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgeadapt._sample_files import FORMATS, read_image
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.decoding import limited_child as confined
from edgeadapt.daemon.decoding import picture_cost
from edgeadapt.errors import InputError, RuntimeUnavailable

LONGEST_S, MOST_MIB = 5.0, 384  # for one picture; of the machine's memory at most a quarter
_START_S, _IDLE_S = 30.0, 60.0
_READY, _READ, _REFUSED = b"R", b"+", b"-"
_MOST_REASON = 2000  # bytes


def read_picture(
    name: str, spec: InputSpec, source: bytes | BinaryIO, formats: Sequence[str] = FORMATS
) -> NDArray[Any]:
    """One sample of shape ``spec.shape``.

    Args:
        name: what messages call it.
        source: an encoded picture, or a file that is open at its start.
        formats: as Pillow calls them.

    Raises:
        InputError: not an image, damaged, of a form that the bundle does not take, or it has too
            many pixels or scans, or needs too much time or memory.
        RuntimeUnavailable: no child can be started.
        ImportError: there is no Pillow.
    """
    if (
        not isinstance(source, bytes)
        and os.fstat(source.fileno()).st_size <= picture_cost.LIGHT_BYTES
    ):
        source = source.read(picture_cost.LIGHT_BYTES + 1)
    if isinstance(source, bytes):
        if picture_cost.is_light(source):
            return read_image(name, spec, io.BytesIO(source), formats=formats)
        if why := picture_cost.excess(source):
            raise InputError(f"{name}: {why}")
    return READER.read(name, spec, source, formats)


class _Request(Struct, frozen=True):
    """A picture. ``size``: bytes of it that follow; without it a descriptor comes along.

    ``longest_s``: to compute for.
    """

    name: str
    spec: InputSpec
    formats: tuple[str, ...]
    longest_s: float
    size: int | None = None


class PictureReader:
    """One child, started when it is needed; thread-safe, one picture at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._child: _Child | None = None

    def read(
        self, name: str, spec: InputSpec, source: bytes | BinaryIO, formats: Sequence[str] = FORMATS
    ) -> NDArray[Any]:
        """See ``read_picture``; whatever it costs, it is read in the child."""
        import PIL  # noqa: F401 - the child would only end

        with self._turn:
            for _ in range(2):
                try:
                    self._child = self._child or _Child()
                except OSError as error:
                    why = str(error) or type(error).__name__
                    raise RuntimeUnavailable(f"no process to read pictures: {why}") from None
                try:
                    return self._child.read(name, spec, source, formats)
                except _GoneError:  # it was idle, or somebody ended it, before it took the picture
                    self._child.end()
                    self._child = None
                except _EndedError as error:
                    self._child.end()
                    self._child = None
                    raise InputError(f"{name}: {error}") from None
            raise RuntimeUnavailable("the process that reads pictures ends as soon as it is asked")

    def close(self) -> None:
        """End the child, and what it reads; the next picture starts another."""
        if (child := self._child) is not None:
            child.process.kill()


class _GoneError(Exception):
    """The child had ended before it was asked."""


class _EndedError(Exception):
    """The child did not survive a picture, or had to be ended for it."""


class _Child:
    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        most_bytes = min(MOST_MIB << 20, confined.physical_memory() // 4)
        with theirs:
            self.process: subprocess.Popen[bytes] = confined.start(
                __name__, (str(most_bytes),), theirs
            )
        self._until = time.monotonic() + _START_S
        try:
            self._received(1)
        except _GoneError:
            raise ConnectionError("it ended at once") from None
        except BaseException:
            self.end()
            raise

    def read(
        self, name: str, spec: InputSpec, source: bytes | BinaryIO, formats: Sequence[str]
    ) -> NDArray[Any]:
        data, descriptors = (source, []) if isinstance(source, bytes) else (b"", [source.fileno()])
        request = _Request(
            name, spec, tuple(formats), LONGEST_S, None if descriptors else len(data)
        )
        header = msgspec.msgpack.encode(request)
        self._until = time.monotonic() + LONGEST_S
        try:
            self._ours.settimeout(LONGEST_S)
            if self.process.poll() is not None:
                raise BrokenPipeError
            socket.send_fds(self._ours, [len(header).to_bytes(4, "big")], descriptors)
        except OSError:
            raise _GoneError from None
        try:
            self._ours.sendall(header + data)
            status = self._received(1)
            if status == _READ:
                return self._sample(spec)
            return self._refusal()
        except TimeoutError:
            raise _EndedError(
                f"not read within {LONGEST_S:g} s: scale it down, or save it anew"
            ) from None
        except OSError as error:
            raise _EndedError(
                f"it ended the process that reads pictures: {error or type(error).__name__}"
            ) from None

    def _sample(self, spec: InputSpec) -> NDArray[Any]:
        dtype = np.dtype(spec.dtype)
        data = self._received(math.prod(spec.shape) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(spec.shape)

    def _refusal(self) -> NDArray[Any]:
        size = min(_MOST_REASON, int.from_bytes(self._received(2), "big"))
        raise InputError(self._received(size).decode("utf-8", "replace"))

    def _received(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._ours.settimeout(left)
            block = self._ours.recv(min(1 << 20, size - len(data)))
            if not block:
                if (status := self.process.wait(5.0)) == 0:
                    raise _GoneError
                raise ConnectionError(f"status {status}")
            data += block
        return data

    def end(self) -> None:
        self.process.kill()
        self._ours.close()
        self.process.wait()


READER = PictureReader()


# -- in the child ---------------------------------------------------------------------------------
def _serve(theirs: socket.socket, most_bytes: int) -> None:
    from PIL import Image

    Image.init()  # before the limit, so that it is for pictures alone
    confined.confine(most_bytes)
    theirs.sendall(_READY)
    while (asked := _next(theirs)) is not None:
        request, source = asked
        confined.limit_time(request.longest_s)
        with source:
            theirs.sendall(_reply(request, source, most_bytes))


def _reply(request: _Request, source: BinaryIO, most_bytes: int) -> bytes:
    name = request.name
    try:
        return _READ + read_image(name, request.spec, source, formats=request.formats).tobytes()
    except InputError as error:
        why = str(error)
    except MemoryError:
        why = f"{name}: needs more than {most_bytes >> 20} MiB of memory: scale it down"
    reason = why.encode()[:_MOST_REASON]
    return _REFUSED + len(reason).to_bytes(2, "big") + reason


def _next(theirs: socket.socket) -> tuple[_Request, BinaryIO] | None:
    """None once nobody asks any more."""
    theirs.settimeout(_IDLE_S)
    try:
        first, descriptors, _, _ = socket.recv_fds(theirs, 4, 1)
    except TimeoutError:
        return None
    theirs.settimeout(None)
    if not first:
        return None
    first += _exactly(theirs, 4 - len(first))
    request = msgspec.msgpack.decode(_exactly(theirs, int.from_bytes(first, "big")), type=_Request)
    if descriptors:
        return request, os.fdopen(descriptors[0], "rb")
    return request, io.BytesIO(_exactly(theirs, request.size or 0))


def _exactly(theirs: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    at = 0
    while at < size:
        if not (count := theirs.recv_into(memoryview(data)[at:])):
            raise EOFError
        at += count
    return bytes(data)


if __name__ == "__main__":
    _serve(socket.socket(fileno=0), int(sys.argv[1]))
