"""A signal from a file, cut into windows that come when a sensor would have brought them.

window_k = signal[k hop : k hop + window],   due (k hop + window) / rate_hz s after the start
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.stream_sections import SensorSource
from edgeadapt.daemon.io.sources.rate_timer import RateTimer
from edgeadapt.daemon.io.sources.signal_file import read_signal
from edgeadapt.daemon.messages import Arrival, Deliver
from edgeadapt.errors import InputError


class SensorWindows:
    """Windows are called by the reading they begin with: ``0``, ``hop``, ``2 hop``, ... Readings at
    the end that fill no window are left.

    Raises:
        InputError: the bundle takes something else than signals or vectors of that length.
    """

    def __init__(self, settings: SensorSource, spec: InputSpec) -> None:
        self.name, self.stream, self.path = settings.name, settings.stream, settings.path
        window = settings.window
        if (
            spec.layout != "NC"
            or spec.dtype != "float32"
            or (window not in spec.shape and window != 1)
        ):
            raise InputError(
                f"source {self.name!r} brings windows of {window} readings, and the bundle takes"
                f" {spec.dtype} {spec.layout} of shape {spec.shape}"
            )
        self._spec, self._window, self._hop = spec, window, settings.hop or window
        self._rate_hz = settings.rate_hz
        self._next = 0

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Play; when it is run again, from where it was.

        Raises:
            InputError: the file cannot be read, or its channels do not fit the bundle.
        """
        signal = read_signal(self.path, stop)
        if stop.is_set():
            return
        self._shaped(signal[: self._window])
        timer, ahead = RateTimer(self._rate_hz, stop), self._window
        while self._next + self._window <= len(signal):
            if not timer.wait(ahead):
                return
            x = self._shaped(signal[self._next : self._next + self._window])
            deliver(Arrival(self.stream, self.name, x, name=str(self._next)))
            self._next, ahead = self._next + self._hop, self._hop

    def _shaped(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """(window, C) as the bundle takes it: (C, window), (window, C), or a vector where one of
        the two is 1.
        """
        length, channels = window.shape
        if length < self._window:
            raise InputError(
                f"{self.path}: holds {length} readings, less than a window of {self._window}"
            )
        if self._spec.shape == (channels, length):
            return np.ascontiguousarray(window.T)
        if self._spec.shape == (length, channels) or (
            1 in window.shape and self._spec.shape == (window.size,)
        ):
            return window.reshape(self._spec.shape)
        raise InputError(
            f"{self.path}: windows are {length} readings of {channels} channels, and the bundle"
            f" takes {self._spec.layout} of shape {self._spec.shape}"
        )


__all__ = ["SensorWindows"]
