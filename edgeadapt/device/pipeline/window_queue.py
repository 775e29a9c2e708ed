"""The streams a learner observes, and their full windows on the way to the worker. Both are
bounded, whatever the caller does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Any

from edgeadapt.bundle.schema import PolicySpec
from edgeadapt.device.adaptation.domain_manager import DomainManager
from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.detection.steadiness import WindowStats
from edgeadapt.device.detection.window import StreamWindow, WindowView
from edgeadapt.device.inference.state import SOURCE
from edgeadapt.device.resources.budget import Meter
from edgeadapt.device.resources.worker import Worker
from edgeadapt.inputs import check_name, check_text
from edgeadapt.results import Action

_MOST = 256  # streams; the one observed least recently goes, and starts afresh if it comes back
# windows of one stream, and of all: whoever invents names must not fill the memory while the worker
# is behind or paused
_WAITING, _WAITING_IN_ALL = 8, 64


class WindowQueue:
    """Found by name; thread-safe."""

    def __init__(
        self, policy: PolicySpec, conditions: DomainManager, worker: Worker, meter: Meter
    ) -> None:
        self._policy = policy
        self._conditions = conditions
        self._worker = worker
        self._meter = meter
        self.found: OrderedDict[str, Stream] = OrderedDict()  # the least recently observed first
        # one task of the worker for each; the oldest first
        self._waiting: deque[tuple[Stream, WindowView, Any, bool]] = deque()
        self._lock = threading.Lock()
        self.deferred = 0  # windows whose place a newer one took

    def observed(self, name: str) -> Stream:
        """The stream of this name, made if it is new."""
        if type(name) is not str or name not in self.found:
            check_name(name, "a stream")
        with self._lock:
            stream = self.found.get(name)
            if stream is None:
                stream = self.found[name] = Stream(
                    name,
                    StreamWindow(
                        self._policy.shift, self._policy.novelty, sum(self._policy.shift.groups)
                    ),
                )
                if len(self.found) > _MOST:
                    self.found.popitem(last=False)
            else:
                self.found.move_to_end(name)
        return stream

    def domain_of(self, name: str) -> str:
        """The condition a stream is in."""
        stream = self.found.get(check_text(name, "a stream"))
        return SOURCE if stream is None else stream.state.domain

    def queue_window(self, stream: Stream, is_factory_path: bool) -> Action:
        """Have the worker analyse a stream's full window. The caller holds the stream's lock."""
        is_stuck = stream.window.is_stuck
        residuals = stream.window.residuals() if is_factory_path else None
        full = (stream, stream.window.take(), residuals, is_stuck)
        with self._lock:
            own = [index for index, (of, *_) in enumerate(self._waiting) if of is stream]
            is_behind = len(own) == _WAITING or len(self._waiting) == _WAITING_IN_ALL
            if len(own) == _WAITING:  # the newest takes the place of the stream's last one
                self._waiting[own[-1]] = full
            else:
                if is_behind:  # or of the one that waited longest
                    self._waiting.popleft()
                self._waiting.append(full)
            self.deferred += is_behind
        if not is_behind:
            self._worker.submit(self._sense)
        return Action("probe", stream.name, stream.state.domain, why="a window is full")

    def _sense(self) -> None:
        with self._lock:
            window = self._waiting.popleft()
        stream, stats = window[0], WindowStats.of(window[1])
        # under a condition the factory encoder sees the window once more; else that has been done
        is_dear = stream.state.domain != SOURCE
        if (
            is_dear
            and stream.last_window is not None
            and stats.same_distribution_as(stream.last_window)
            and not self._meter.has_room("sense")
        ):
            return
        domain = stream.state.domain
        with self._meter.spending("sense"):
            self._conditions.window(*window)
        # while a change of condition is pending every window is analysed
        stream.last_window = stats if is_dear and stream.state.is_settled_in(domain) else None
