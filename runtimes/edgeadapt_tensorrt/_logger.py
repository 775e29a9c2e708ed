"""One logger for the process. TensorRT keeps the first it is given and ignores every later one, so
this one fans out to whoever listens.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("edgeadapt.tensorrt")
_LINES = 200  # newest lines that a listener keeps
_WORDS = 1200  # characters of them that an error repeats

_lock = threading.Lock()
_loggers: dict[Any, Any] = {}
_listeners: list[deque[str]] = []


def process_logger(trt: Any) -> Any:
    """The one ``ILogger`` of this process for the imported TensorRT module."""
    with _lock:
        if trt not in _loggers:
            _loggers[trt] = _make(trt)
        return _loggers[trt]


@contextmanager
def listening() -> Iterator[deque[str]]:
    """Lines of TensorRT from warnings up, of all threads, while the block runs: it builds with
    threads of its own.
    """
    lines: deque[str] = deque(maxlen=_LINES)
    with _lock:
        _listeners.append(lines)
    try:
        yield lines
    finally:
        with _lock:
            del _listeners[next(at for at, held in enumerate(_listeners) if held is lines)]


def last_words(lines: deque[str]) -> str:
    """The end of what TensorRT said, as part of a message."""
    text = "; ".join(lines)
    return (
        f" TensorRT said: {text[-_WORDS:]}"
        if text
        else (
            " TensorRT said nothing; if another part of this process gave it a logger first, it"
            " said it there."
        )
    )


def _make(trt: Any) -> Any:
    class FanOut(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                line = f"{severity.name.lower()}: {message}"
                log.debug("%s", line)
                for lines in list(_listeners):
                    lines.append(line)

    return FanOut()
