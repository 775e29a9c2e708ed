"""What is worth knowing and no error: the newest are kept, each is logged."""

from __future__ import annotations

import logging
from collections import deque

log = logging.getLogger("edgeadapt")
_KEPT = 100


class Notes:
    """The newest notes, oldest first."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque(maxlen=_KEPT)

    def add(self, text: str) -> None:
        log.info("placement: %s", text)
        self._texts.append(text)

    def texts(self) -> list[str]:
        return list(self._texts)


__all__ = ["Notes"]
