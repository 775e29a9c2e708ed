"""What frames are read with: OpenCV for files, cameras and network streams, the system's
``gst-launch-1.0`` for pipelines.
"""

from __future__ import annotations

import math
import os
import re
import select
import shlex
import signal
import stat
import subprocess
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

_STALLED_S = 10.0  # without a frame
LAUNCH, _FRAMES = "gst-launch-1.0", "edgeadapt_frames"


class Reader(Protocol):
    colour: Literal["rgb", "bgr"]

    def read(self, is_wanted: bool) -> NDArray[np.uint8] | None:
        """The next frame, (H, W, 3); None if it is not wanted. Raises ConnectionError, or EOFError
        at an end that was to be expected.
        """

    def interrupt(self) -> None:
        """End a ``read`` that waits, if that can be done; from another thread."""

    def close(self) -> None: ...


class Capture:
    """What OpenCV reads: a device, a URL or a file. A network that is silent for 10 s is an end.

    Raises:
        InputError: it cannot be opened.
    """

    colour: Literal["rgb", "bgr"] = "bgr"

    def __init__(self, what: str, kind: Literal["camera", "stream", "video"]) -> None:
        import cv2

        self._what = f"{kind} {_without_password(what)}"
        if kind == "stream":
            patience_ms = int(1e3 * _STALLED_S)
            times = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                patience_ms,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                patience_ms,
            ]
            self._capture: Any = cv2.VideoCapture(what, cv2.CAP_FFMPEG, times)
        else:
            self._capture = cv2.VideoCapture(
                what, cv2.CAP_V4L2 if kind == "camera" else cv2.CAP_ANY
            )
        if not self._capture.isOpened():
            raise InputError(f"the {self._what} cannot be opened")
        self.frames: float = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._rate_hz: float = self._capture.get(cv2.CAP_PROP_FPS)

    @property
    def rate_hz(self) -> float:
        if not (math.isfinite(self._rate_hz) and 0.0 < self._rate_hz < 1e5):
            raise InputError(
                f"the {self._what} does not say how many frames a second it has: it cannot be"
                " played in real time"
            )
        return self._rate_hz

    def read(self, is_wanted: bool) -> NDArray[np.uint8] | None:
        if not self._capture.grab():
            raise ConnectionError(f"the {self._what} brings no more frames")
        if not is_wanted:
            return None
        is_whole, frame = self._capture.retrieve()
        return frame if is_whole else None

    def interrupt(self) -> None:
        """OpenCV cannot be interrupted."""

    def close(self) -> None:
        self._capture.release()


class Pipeline:
    """A GStreamer pipeline, run by the system's own tool: frames come through a pipe, their size
    through what it says.
    """

    colour: Literal["rgb", "bgr"] = "rgb"

    def __init__(self, text: str) -> None:
        words, is_in_time = words_of(text)
        self._pipe, theirs = os.pipe()
        command = [
            LAUNCH,
            "-v",
            "--",
            *words,
            "!",
            "videoconvert",
            "!",
            "capsfilter",
            f"name={_FRAMES}",
            "caps=video/x-raw,format=RGB",
            "!",
            "fdsink",
            f"fd={theirs}",
            f"sync={str(is_in_time).lower()}",
        ]
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C.UTF-8", "GST_DEBUG_NO_COLOR": "1"},
            )
        except OSError as error:
            os.close(self._pipe)
            raise InputError(f"{LAUNCH} cannot be started: {error}") from error
        finally:
            os.close(theirs)
        self._said: deque[str] = deque(maxlen=20)
        self._sizes: list[tuple[int, int]] = []  # height and width
        self._has_size = threading.Event()
        self._is_live = False
        self._listener = threading.Thread(target=self._listen, name="video-said", daemon=True)
        self._listener.start()

    def read(self, is_wanted: bool) -> NDArray[np.uint8] | None:
        self._wait()
        if not self._has_size.wait(_STALLED_S):
            raise ConnectionError(
                f"the pipeline does not say how large its frames are: {self._complaint()}"
            )
        height, width = self._sizes[0]
        if len(self._sizes) > 1:
            raise ConnectionError(
                f"the pipeline changed the size of its frames from {width} x {height} to"
                f" {self._sizes[-1][1]} x {self._sizes[-1][0]}"
            )
        row = 3 * width + -3 * width % 4  # rows begin at multiples of four bytes
        rows = np.empty((height, row), np.uint8)
        left = memoryview(rows.reshape(-1))  # type: ignore[arg-type]  # numpy arrays are buffers
        while left:
            self._wait()
            count = os.readv(self._pipe, [left])
            if count == 0:
                self._end()
            left = left[count:]
        return rows[:, : 3 * width].reshape(height, width, 3) if is_wanted else None

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        events = poll.poll(1e3 * _STALLED_S)
        if not events:
            raise ConnectionError(
                f"the pipeline brought no frame for {_STALLED_S:g} s: {self._complaint()}"
            )
        if not events[0][1] & select.POLLIN:
            self._end()

    def _end(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1.0)
        self._listener.join(1.0)
        if self._child.returncode == 0 and not self._is_live and self._sizes:
            raise EOFError
        raise ConnectionError(f"the pipeline ended: {self._complaint()}")

    def interrupt(self) -> None:
        """Ask the process to end, so that it gives the camera back, then end its whole group."""
        for number, seconds in ((signal.SIGINT, 0.4), (signal.SIGKILL, 0.2)):
            if self._child.poll() is not None:
                break
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)

    def close(self) -> None:
        self.interrupt()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)  # what it may have started
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1.0)
        os.close(self._pipe)

    def _listen(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for raw in lines:
                line = raw.decode("utf-8", "replace").strip()
                if found := _SIZE.search(line):
                    size = (int(found["height"]), int(found["width"]))
                    if size not in self._sizes:
                        self._sizes.append(size)
                    self._has_size.set()
                self._is_live |= line.startswith("Pipeline is live")
                if line and not line.startswith("/GstPipeline:"):
                    self._said.append(line)

    def _complaint(self) -> str:
        """What it said last, from the first error on."""
        said = list(self._said)
        first = next(
            (row for row, line in enumerate(said) if line.startswith(("ERROR", "WARNING"))),
            max(0, len(said) - 3),
        )
        return _without_password(" ".join(said[first:]))[:400] or "it said nothing"


_SIZE = re.compile(
    rf"{_FRAMES}\.GstPad:src: caps = .*?width=\(int\)(?P<width>\d+), height=\(int\)(?P<height>\d+)"
)
_APPSINK = re.compile(r"\s*!\s*appsink(?P<options>(\s[^!]*)?)$")


def words_of(pipeline: str) -> tuple[list[str], bool]:
    """The pipeline as the arguments of a command, without the ``appsink`` at its end, and whether
    frames come when they are due.
    """
    text = pipeline.strip().rstrip("!").rstrip()
    found = _APPSINK.search(text)
    options = found["options"] if found else ""
    try:
        words = shlex.split(text[: found.start()] if found else text)
    except ValueError as error:
        raise InputError(f"the pipeline {pipeline!r} cannot be read: {error}") from error
    if not words:
        raise InputError(f"the pipeline {pipeline!r} has no source")
    return words, re.search(r"\bsync\s*=\s*(0|false|no)\b", options, re.IGNORECASE) is None


def camera_of(file: Path) -> str | None:
    """The device of a camera: a character device, anything in ``/dev`` (it may come back), or
    ``camera:0``; None for a file.
    """
    if (numbered := re.fullmatch(r"camera:(\d{1,3})", file.name)) and not file.exists():
        return f"/dev/video{int(numbered[1])}"
    with suppress(OSError):
        if stat.S_ISCHR(file.stat().st_mode):
            return str(file)
    return str(file) if str(file).startswith("/dev/") and not os.path.isfile(file) else None


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://***@", text)


__all__ = ["LAUNCH", "Capture", "Pipeline", "Reader", "camera_of", "words_of"]
