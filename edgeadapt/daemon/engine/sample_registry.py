"""Which sample a label means.

A label names its sample by the learner's id, by the name its source gave it, or as ``SOURCE/NAME``.
It may come before the sample: then it is held until the sample does.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from edgeadapt.daemon.messages import LabelArrival
from edgeadapt.errors import InputError

AN_ID = re.compile("[0-9a-f]{16}")


class SampleRegistry:
    """Names of samples and labels that wait for theirs; bounded, in memory only, thread-safe.

    Args:
        names: that are remembered; the oldest go.
        held: labels that wait.
        hold_s: how long a label waits, by ``clock`` (monotonic seconds).
    """

    def __init__(
        self,
        names: int = 100_000,
        held: int = 10_000,
        hold_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.expired = 0  # labels whose sample did not come in time
        self.displaced = 0  # labels that had to make room for newer ones
        self.forgotten = 0  # names
        self._most_names, self._most_held, self._hold_s, self._clock = names, held, hold_s, clock
        # (source, name) -> id, the oldest first
        self._ids: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._sources: dict[str, tuple[str, ...]] = {}  # name -> sources that have one of it
        # source -> a tuple of it alone, which all of its names share
        self._alone: dict[str, tuple[str, ...]] = {}
        # (sample, who says so), the oldest first
        self._held: OrderedDict[tuple[str, str], tuple[float, LabelArrival]] = OrderedDict()
        self._waited_for: dict[str, dict[str, None]] = {}  # sample -> who says so
        self._naming: set[str] = set()  # sources that name their samples
        self._lock = threading.Lock()

    def came(self, source: str, name: str, sample: str) -> list[LabelArrival]:
        """A sample was observed; returns the labels that waited for it.

        Args:
            sample: the learner's id, or ``""`` for one that was answered without being observed.
        """
        key = (source, name)
        with self._lock:
            self._naming.add(source)
            if key in self._ids:
                self._forget(key)
            self._ids[key] = sample
            others = self._sources.get(name)
            self._sources[name] = (
                (*others, source) if others else self._alone.setdefault(source, (source,))
            )
            while len(self._ids) > self._most_names:
                self._forget(next(iter(self._ids)))
                self.forgotten += 1
            if not self._held:
                return []
            self._expire()
            whole = f"{source}/{name}"
            found = [
                (name, by)
                for by in self._waited_for.get(name, ())
                if by == source or by not in self._naming
            ]
            return [
                self._pop(key)
                for key in found + [(whole, by) for by in self._waited_for.get(whole, ())]
            ]

    def find(self, label: LabelArrival, *, hold: bool = False) -> str | None:
        """The id of the sample that a label means, ``""`` if it was never observed, None if no
        sample has the name (yet).

        A source that names its own samples means one of those; another may mean anybody's.

        Args:
            hold: keep the label until its sample comes, if there is none.

        Raises:
            InputError: several sources have a sample of this name.
        """
        with self._lock:
            sample = self._find(label)
            if sample is None and hold:
                self._hold(label)
            return sample

    def _find(self, label: LabelArrival) -> str | None:
        source, _, name = label.sample.partition("/")
        for key in ((label.source, label.sample), (source, name)):
            if key in self._ids:
                return self._ids[key]
        sources = self._sources.get(label.sample, ()) if label.source not in self._naming else ()
        if len(sources) > 1:
            raise InputError(
                f"{len(sources)} sources have a sample called {label.sample!r}: say"
                f" {sources[0]}/{label.sample} or {sources[1]}/{label.sample}"
            )
        return self._ids[sources[0], label.sample] if sources else None

    def _hold(self, label: LabelArrival) -> None:
        self._expire()
        key = (label.sample, label.source)
        self._held.pop(key, None)  # who says so twice means the last
        self._held[key] = (self._clock(), label)
        self._waited_for.setdefault(label.sample, {})[label.source] = None
        while len(self._held) > self._most_held:
            self._pop(next(iter(self._held)))
            self.displaced += 1

    def expire(self) -> None:
        """Drop labels that have waited too long."""
        with self._lock:
            self._expire()

    def _expire(self) -> None:
        oldest = self._clock() - self._hold_s
        while self._held:
            key, (at, _) = next(iter(self._held.items()))
            if at >= oldest:
                return
            self._pop(key)
            self.expired += 1

    def _pop(self, key: tuple[str, str]) -> LabelArrival:
        sample, by = key
        del self._waited_for[sample][by]
        if not self._waited_for[sample]:
            del self._waited_for[sample]
        return self._held.pop(key)[1]

    def _forget(self, key: tuple[str, str]) -> None:
        source, name = key
        if self._ids.pop(key, None) is None:
            return
        others = tuple(one for one in self._sources.pop(name) if one != source)
        if others:
            self._sources[name] = others

    def counters(self) -> dict[str, int]:
        """For a status line."""
        return {
            "names": len(self._ids),
            "held": len(self._held),
            "expired": self.expired,
            "displaced": self.displaced,
            "names_forgotten": self.forgotten,
        }


__all__ = ["AN_ID", "SampleRegistry"]
