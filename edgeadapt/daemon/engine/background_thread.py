"""Calls that may hang: each on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger("edgeadapt.daemon")


def in_background(call: Callable[[], Any], what: str) -> threading.Thread:
    """Call on a thread of its own, which may be left alone with it. What it raises is logged."""

    def run() -> None:
        try:
            call()
        except Exception as error:
            log.error("%s did not end well: %s: %s", what, type(error).__name__, error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    return thread


__all__ = ["in_background"]
