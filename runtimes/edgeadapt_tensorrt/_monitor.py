"""What TensorRT says while it builds, and the way to make it stop: ``IProgressMonitor``, which
TensorRT has from 10.0 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeadapt.runtime import Watch


class Cancellation:
    """Whether a build was cancelled, and by what error of whoever watches."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self.is_cancelled = False
        self.error: BaseException | None = None

    def goes_on(self, phase: str, step: int, of: int) -> bool:
        """Tell whoever watches. TensorRT calls this on any of its threads and cannot pass an
        exception on, so that is kept, and cancels.
        """
        if self._watch is not None and not self.is_cancelled:
            try:
                self.is_cancelled = not self._watch(phase, step, of)
            except BaseException as error:
                self.is_cancelled, self.error = True, error
        return not self.is_cancelled


@contextmanager
def watched(trt: Any, config: Any, watch: Watch | None) -> Iterator[Cancellation]:
    """A build with this configuration is watched while the block runs.

    Raises:
        BaseException: what ``watch`` raised, once TensorRT has stopped.
    """
    cancellation = Cancellation(watch)
    if watch is None or not hasattr(trt, "IProgressMonitor"):
        yield cancellation
        return
    monitor = _make(trt, cancellation)  # has to live as long as the build
    config.progress_monitor = monitor
    yield cancellation
    del monitor
    if cancellation.error is not None:
        raise cancellation.error


def _make(trt: Any, cancellation: Cancellation) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            cancellation.goes_on(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return cancellation.goes_on(phase_name, step + 1, self._steps.get(phase_name, step + 1))

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
