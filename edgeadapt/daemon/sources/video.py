"""Frames of a camera, a video file, a network stream or a GStreamer pipeline.

Of what is live only the newest frame counts: a thread reads and forgets, and the next frame is handed over when one before it was
answered, so that a slow loop sees fewer frames, not older ones. A file waits for the loop instead, and loses none.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.arrival import Answer, Arrival, Deliver
from edgeadapt.daemon.settings import VideoSource
from edgeadapt.daemon.sources.beat import Beat
from edgeadapt.daemon.sources.frames import require_frames
from edgeadapt.errors import InputError

log = logging.getLogger("edgeadapt.daemon")
_STALLED_S = 10.0  # without a frame
_LIVE_AHEAD, _FILE_AHEAD = 2, 32  # frames that are handed over and not answered
_UNANSWERED_S = 10.0  # then they count as answered
_LAUNCH, _FRAMES = "gst-launch-1.0", "edgeadapt_frames"


class VideoFrames:
    """Frames are called by their number, from 0 on; of a file its own, of what is live those that came since the daemon started.

    Args:
        settings: where the frames come from; ``real_time`` matters to files alone.

    Raises:
        InputError: the bundle takes no images, what reads the video is missing, or a pipeline has a quote that is not closed.
    """

    def __init__(self, settings: VideoSource, spec: InputSpec) -> None:
        require_frames(settings.name, spec)
        self.name, self.stream = settings.name, settings.stream
        self._settings, self._spec, self._next = settings, spec, 0
        self._is_real_time = settings.real_time
        if settings.pipeline:
            _words(settings.pipeline)
            if shutil.which(_LAUNCH) is None:
                raise InputError(
                    f"source {self.name!r} needs {_LAUNCH}, which is not installed; Debian and Ubuntu have it in gstreamer1.0-tools"
                )
        elif importlib.util.find_spec("cv2") is None:
            raise InputError(f"source {self.name!r} needs OpenCV, which is not installed: pip install 'edgeadapt[video]'")

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Bring frames until the end of the file or of a pipeline that plays one; when it is run again, from where it was.

        Raises:
            InputError: the camera or file cannot be read. ConnectionError: what is live ended, or no frame came for 10 s; run it again.
        """
        if self._settings.file is not None and camera_of(self._settings.file) is None:
            self._play(self._settings.file, deliver, stop)
        else:
            self._follow(deliver, stop)

    def _arrival(self, frame: NDArray[np.uint8], colour: str, number: int, at: tuple[float, float], ahead: _Ahead | None) -> Arrival:
        x = prepare(frame, self._spec, colour=colour)
        return Arrival(self.stream, self.name, x, name=str(number), at=at[0], came=at[1], reply=None if ahead is None else ahead.answered)

    # -- live -----------------------------------------------------------------------------------------
    def _open(self) -> _Reader:
        if self._settings.pipeline:
            return _Pipeline(self._settings.pipeline)
        device = camera_of(self._settings.file) if self._settings.file is not None else None
        return _Capture(device or self._settings.url, "camera" if device is not None else "stream")

    def _follow(self, deliver: Deliver, stop: threading.Event) -> None:
        ahead, newest = _Ahead(_LIVE_AHEAD), _Newest(self._open, self._settings.every, self._next)
        try:
            while not stop.is_set():
                if not ahead.has_room(0.05):
                    continue
                found = newest.take(0.05)
                if found is not None:
                    frame, colour, number, at = found
                    arrival = self._arrival(frame, colour, number, at, ahead)
                    ahead.begin()
                    if not deliver(arrival):
                        ahead.answered()
                elif newest.has_ended:
                    newest.check()
                    return
        finally:
            newest.stop()
            self._next = newest.number

    # -- a file ---------------------------------------------------------------------------------------
    def _play(self, file: Path, deliver: Deliver, stop: threading.Event) -> None:
        if not os.path.isfile(file):
            raise InputError(f"source {self.name!r}: {file} is {'no regular file' if os.path.exists(file) else 'not there'}")
        capture = _Capture(str(file), "video")
        try:
            self._play_from(capture, file, deliver, stop)
        finally:
            capture.close()

    def _play_from(self, capture: _Capture, file: Path, deliver: Deliver, stop: threading.Event) -> None:
        beat = Beat(capture.rate_hz, stop) if self._is_real_time else None
        ahead, number, is_first = _Ahead(_FILE_AHEAD), 0, True
        while not stop.is_set():
            is_wanted = number >= self._next and number % self._settings.every == 0
            try:
                frame = capture.read(is_wanted)
            except ConnectionError:
                break
            if frame is not None:
                if beat is not None:
                    if not is_first and not beat.wait(self._settings.every):
                        return
                elif not ahead.waits(stop):
                    return
                ahead.begin()
                if not deliver(self._arrival(frame, "bgr", number, (time.time(), time.monotonic()), ahead)):
                    ahead.answered()
                self._next, is_first = number + 1, False
            number += 1
        if number == 0 and not stop.is_set():
            raise InputError(f"source {self.name!r}: {file} holds no frames that can be read")
        if not stop.is_set() and number < 0.9 * capture.frames:
            log.warning("source %s: %s ends after %d of %d frames", self.name, file, number, capture.frames)


class _Reader(Protocol):
    colour: Literal["rgb", "bgr"]

    def read(self, is_wanted: bool) -> NDArray[np.uint8] | None:
        """The next frame, (H, W, 3); None if it is not wanted. Raises ConnectionError, or EOFError at an end that was to be expected."""

    def interrupt(self) -> None:
        """End a ``read`` that waits, if that can be done; from another thread."""

    def close(self) -> None: ...


class _Ahead:
    """Counts frames that were handed over and not answered. An answer that never comes does not stop the source for good."""

    def __init__(self, most: int) -> None:
        self._most, self._count, self._since = most, 0, time.monotonic()
        self._changed = threading.Condition()

    def has_room(self, timeout_s: float) -> bool:
        with self._changed:
            if self._changed.wait_for(lambda: self._count < self._most, timeout_s):
                return True
            if time.monotonic() - self._since < _UNANSWERED_S:
                return False
            self._count = 0
            return True

    def waits(self, stop: threading.Event) -> bool:
        """Until there is room; False if it was stopped."""
        while not stop.is_set():
            if self.has_room(0.05):
                return True
        return False

    def begin(self) -> None:
        with self._changed:
            self._count, self._since = self._count + 1, time.monotonic()

    def answered(self, answer: Answer | None = None) -> None:
        with self._changed:
            self._count, self._since = max(0, self._count - 1), time.monotonic()
            self._changed.notify()


class _Newest:
    """Reads on a thread of its own, as fast as frames come, and keeps the newest.

    Attributes:
        number: of the next frame. has_ended: no more will come, for the reason that ``check`` raises, if there is one.
    """

    def __init__(self, open_reader: Any, every: int, number: int) -> None:
        self.number, self.has_ended = number, False
        self._open, self._every = open_reader, every
        self._newest: tuple[NDArray[np.uint8], str, int, tuple[float, float]] | None = None
        self._reader: _Reader | None = None
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="video", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> tuple[NDArray[np.uint8], str, int, tuple[float, float]] | None:
        """Frame, order of its channels, number and (seconds since the epoch, monotonic seconds)."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self.has_ended, timeout_s)
            newest, self._newest = self._newest, None
            return newest

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """A read that hangs is left alone: it ends by itself."""
        self._is_stopping = True
        if (reader := self._reader) is not None:
            reader.interrupt()
        self._thread.join(0.3)

    def _run(self) -> None:
        try:
            self._reader = reader = self._open()
            try:
                while not self._is_stopping:
                    frame = reader.read(self.number % self._every == 0)
                    with self._changed:
                        if frame is not None:
                            self._newest = (frame, reader.colour, self.number, (time.time(), time.monotonic()))
                            self._changed.notify()
                        self.number += 1
            finally:
                reader.close()
        except EOFError:
            pass
        except Exception as error:
            self._failure = error
        finally:
            with self._changed:
                self.has_ended = True
                self._changed.notify()


class _Capture:
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
            times = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, patience_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, patience_ms]
            self._capture: Any = cv2.VideoCapture(what, cv2.CAP_FFMPEG, times)
        else:
            self._capture = cv2.VideoCapture(what, cv2.CAP_V4L2 if kind == "camera" else cv2.CAP_ANY)
        if not self._capture.isOpened():
            raise InputError(f"the {self._what} cannot be opened")
        self.frames: float = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._rate_hz: float = self._capture.get(cv2.CAP_PROP_FPS)

    @property
    def rate_hz(self) -> float:
        if not (math.isfinite(self._rate_hz) and 0.0 < self._rate_hz < 1e5):
            raise InputError(f"the {self._what} does not say how many frames a second it has: it cannot be played in real time")
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


class _Pipeline:
    """A GStreamer pipeline, run by the system's own tool: frames come through a pipe, their size through what it says."""

    colour: Literal["rgb", "bgr"] = "rgb"

    def __init__(self, text: str) -> None:
        words, is_in_time = _words(text)
        self._pipe, theirs = os.pipe()
        command = [
            _LAUNCH, "-v", "--", *words, "!", "videoconvert", "!", "capsfilter", f"name={_FRAMES}", "caps=video/x-raw,format=RGB",
            "!", "fdsink", f"fd={theirs}", f"sync={str(is_in_time).lower()}",
        ]  # fmt: skip
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(theirs,), start_new_session=True,
                env={**os.environ, "LC_ALL": "C.UTF-8", "GST_DEBUG_NO_COLOR": "1"},
            )  # fmt: skip
        except OSError as error:
            os.close(self._pipe)
            raise InputError(f"{_LAUNCH} cannot be started: {error}") from error
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
            raise ConnectionError(f"the pipeline does not say how large its frames are: {self._complaint()}")
        height, width = self._sizes[0]
        if len(self._sizes) > 1:
            raise ConnectionError(
                f"the pipeline changed the size of its frames from {width} x {height} to {self._sizes[-1][1]} x {self._sizes[-1][0]}"
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
            raise ConnectionError(f"the pipeline brought no frame for {_STALLED_S:g} s: {self._complaint()}")
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
        first = next((row for row, line in enumerate(said) if line.startswith(("ERROR", "WARNING"))), max(0, len(said) - 3))
        return _without_password(" ".join(said[first:]))[:400] or "it said nothing"


_SIZE = re.compile(rf"{_FRAMES}\.GstPad:src: caps = .*?width=\(int\)(?P<width>\d+), height=\(int\)(?P<height>\d+)")
_APPSINK = re.compile(r"\s*!\s*appsink(?P<options>(\s[^!]*)?)$")


def _words(pipeline: str) -> tuple[list[str], bool]:
    """The pipeline as the arguments of a command, without the ``appsink`` at its end, and whether frames come when they are due."""
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
    """The device of a camera: a character device, anything in ``/dev`` (it may come back), or ``camera:0``; None for a file."""
    if (numbered := re.fullmatch(r"camera:(\d{1,3})", file.name)) and not file.exists():
        return f"/dev/video{int(numbered[1])}"
    with suppress(OSError):
        if stat.S_ISCHR(file.stat().st_mode):
            return str(file)
    return str(file) if str(file).startswith("/dev/") and not os.path.isfile(file) else None


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://***@", text)


__all__ = ["VideoFrames", "camera_of"]
