"""Questions that wait for an answer."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence

from edgeadapt.results import Question


class Questions:
    """What the learner wants to know, oldest first; an answered or dropped one disappears."""

    def __init__(self, per_day: int) -> None:
        self._per_day = per_day
        self._open: OrderedDict[str, Question] = OrderedDict()
        # monotonic seconds: a clock that is set neither gives a second day nor takes one
        self._asked: deque[float] = deque()
        self._lock = threading.Lock()

    def ask(self, questions: Sequence[Question]) -> int:
        """Add questions as far as the daily limit allows; returns how many."""
        now = time.monotonic()
        with self._lock:
            self._asked = deque(at for at in self._asked if now - 86_400 <= at)
            added = 0
            for question in questions:
                if len(self._asked) >= self._per_day:
                    break
                if question.id not in self._open:
                    self._open[question.id] = question
                    self._asked.append(now)
                    added += 1
            # nobody answers: the newest are worth more
            while len(self._open) > max(1, self._per_day):
                self._open.popitem(last=False)
        return added

    def next(self, limit: int, can_be_answered: Callable[[str], bool]) -> list[Question]:
        """The oldest open questions; those whose sample is no longer pending are dropped."""
        with self._lock:
            for sample in [sample for sample in self._open if not can_be_answered(sample)]:
                del self._open[sample]
            return list(self._open.values())[:limit]

    def close(self, samples: Iterable[str]) -> list[str]:
        """Take questions off the list; returns the ids that were on it."""
        with self._lock:
            return [sample for sample in samples if self._open.pop(sample, None) is not None]

    def drop_stream(self, stream: str, why: str) -> None:
        with self._lock:
            for sample in [
                q.id for q in self._open.values() if q.stream == stream and q.why == why
            ]:
                del self._open[sample]
