"""Samples by id: pending ones that may still get a label, and questions about them."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.journal_rows import EvidenceRow
from edgeadapt.errors import InputError, StateError
from edgeadapt.results import Question

LARGEST_PENDING = 50_000
"""Observed samples that can still be labelled; the oldest batch goes first."""
_STORED_AT_ONCE = 32  # samples: after an encoder has run, one conversion costs what four do in a row
_DRAWN_AT_ONCE = 256  # ids
_RAW_BYTES = 32 << 20  # of inputs of pending samples


@dataclass(eq=False)
class PendingBatch:
    """Features of one observed batch, as they will be learned: float16, before ``correct``. Nothing but :meth:`store` changes it."""

    ids: tuple[str, ...]
    stream: str
    domain: str
    is_shifted: bool
    features: NDArray[Any]  # (N, D + T) float16; (N, D) float32 while ``taps`` waits beside it
    at: float  # monotonic seconds
    met_at: float = field(default_factory=lambda: time.time())  # seconds since the epoch
    is_foreign: bool = False
    """By an encoder adapted into a space of its own: no label is learned from these, but from the factory encoder's of the same inputs."""
    taps: NDArray[np.float32] | None = None  # (N, T) of features that are still to be stored: arrays that nobody else writes to

    def store(self) -> None:
        """Bring the features into the precision they are learned in, once."""
        if self.taps is not None:
            self.features, self.taps = as_stored(self.features, self.taps), None


class Pending:
    """Observed samples that can still be labelled; in memory only."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._batches: OrderedDict[int, PendingBatch] = OrderedDict()  # by serial, oldest first
        self._left: dict[int, int] = {}  # samples of a batch that are still pending
        self._serial = 0
        self._unstored: list[PendingBatch] = []
        self._unstored_count = 0  # samples of those
        self._raw: OrderedDict[str, NDArray[Any]] = OrderedDict()  # by sample, oldest first
        self._raw_bytes = 0
        self._where: dict[str, tuple[PendingBatch, int, int]] = {}  # sample -> (batch, row, serial of the batch)
        self._lock = threading.Lock()

    def add(self, batch: PendingBatch) -> None:
        with self._lock:
            self._take_in(batch)
            while self._batches:
                serial, oldest = next(iter(self._batches.items()))
                if oldest.at >= batch.at - self._keep_s and len(self._where) <= LARGEST_PENDING:
                    break
                for sample in oldest.ids:
                    if sample in self._where and self._where[sample][2] == serial:
                        self._let_go(sample)
                self._batches.pop(serial, None)
                self._left.pop(serial, None)

    def _take_in(self, batch: PendingBatch) -> None:
        self._serial += 1
        self._batches[self._serial] = batch
        self._left[self._serial] = len(batch.ids)
        if batch.taps is not None:
            self._unstored.append(batch)
            self._unstored_count += len(batch.ids)
            if self._unstored_count >= _STORED_AT_ONCE:
                self._store()
        for row, sample in enumerate(batch.ids):
            if sample in self._where:
                self._let_go(sample, keep_input=True)
            self._where[sample] = (batch, row, self._serial)

    def _store(self) -> None:
        for batch in self._unstored:
            batch.store()
        self._unstored, self._unstored_count = [], 0

    def _let_go(self, sample: str, *, keep_input: bool = False) -> bool:
        """Forget where a sample is, and its batch with the last of its samples; True if it was pending."""
        found = self._where.pop(sample, None)
        if not keep_input:
            self._let_input_go(sample)
        if found is None:
            return False
        serial = found[2]
        self._left[serial] -= 1
        if not self._left[serial]:
            del self._left[serial], self._batches[serial]
        return True

    def keep_inputs(self, ids: Sequence[str], inputs: NDArray[Any]) -> None:
        """Raw inputs of pending samples, the newest up to a fixed size; a label of an older sample is learned without its raw input."""
        with self._lock:
            for sample, row in zip(ids, inputs, strict=True):
                if sample in self._where:
                    self._raw[sample] = row.copy()
                    self._raw_bytes += row.nbytes
            while self._raw_bytes > _RAW_BYTES:
                self._let_input_go(next(iter(self._raw)))

    def input_of(self, sample: str) -> NDArray[Any] | None:
        return self._raw.get(sample)

    def _let_input_go(self, sample: str) -> None:
        row = self._raw.pop(sample, None)
        self._raw_bytes -= 0 if row is None else row.nbytes

    def renew(self, batch: PendingBatch) -> None:
        """Better features for samples that are still pending: a correction was found after they were observed."""
        with self._lock:
            rows = [row for row, sample in enumerate(batch.ids) if sample in self._where]
            if rows:
                met_at = self._where[batch.ids[rows[0]]][0].met_at
                self._take_in(replace(batch, ids=tuple(batch.ids[row] for row in rows), features=batch.features[rows], met_at=met_at))

    def find(self, sample: str) -> tuple[PendingBatch, int] | None:
        """The batch and row of an id; None if it was never seen, has expired, has a label already or was forgotten."""
        with self._lock:
            found = self._where.get(sample)
            if found is not None:
                found[0].store()
        return None if found is None else found[:2]

    def drop(self, samples: Iterable[str]) -> int:
        with self._lock:
            self._store()  # so that nothing keeps what is let go
            return sum([self._let_go(sample) for sample in samples])

    def clear(self, stream: str | None = None) -> int:
        with self._lock:
            self._store()
            return sum([self._let_go(s) for s in [s for s, (batch, _, _) in self._where.items() if stream is None or batch.stream == stream]])

    def __contains__(self, sample: str) -> bool:
        return sample in self._where

    def __len__(self) -> int:
        return len(self._where)


def as_stored(z: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float16]:
    """(N, D + T) features in the precision they are stored and learned in; one that does not fit becomes infinite."""
    width = z.shape[1]
    kept = np.empty((len(z), width + taps.shape[1]), np.float16)
    with np.errstate(over="ignore"):
        kept[:, :width] = z
        kept[:, width:] = taps
    return kept


def check_storable(features: Any) -> None:
    """Refuse, before anything changes, features that did not survive :func:`as_stored`."""
    if not np.isfinite(features).all():
        raise InputError("a feature does not fit into float16, the precision evidence is stored in; scale the features below 65504")


def new_ids(count: int) -> tuple[str, ...]:
    """Random sample ids: nothing about the sample can be read from them."""
    block = secrets.token_hex(8 * count)
    return tuple([block[16 * i : 16 * i + 16] for i in range(count)])


class Ids:
    """The same ids, drawn many at once: the system is asked now and then. For one process; thread-safe."""

    def __init__(self) -> None:
        self._drawn: deque[str] = deque()

    def take(self, count: int) -> tuple[str, ...]:
        while True:
            try:
                return tuple([self._drawn.popleft() for _ in range(count)])
            except IndexError:  # used up, perhaps by another thread: what was taken of them is nobody's
                self._drawn.extend(new_ids(max(count, _DRAWN_AT_ONCE)))


class Questions:
    """What the learner wants to know, oldest first; an answered or dropped one disappears."""

    def __init__(self, per_day: int) -> None:
        self._per_day = per_day
        self._open: OrderedDict[str, Question] = OrderedDict()
        self._asked: deque[float] = deque()  # monotonic seconds: a clock that is set neither gives a second day nor takes one
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
            while len(self._open) > max(1, self._per_day):  # nobody answers: the newest are worth more
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
            for sample in [q.id for q in self._open.values() if q.stream == stream and q.why == why]:
                del self._open[sample]


def rows_to_arrays(rows: Sequence[EvidenceRow], slots: Mapping[str, int], dim: int) -> tuple[Any, Any, Any, Any, Any]:
    """Stored rows -> z (N, D), taps (N, T), y, sample_weight, is_factory (N,): what every learn, replay and forget uses."""
    if len({row.features.size for row in rows}) > 1 or rows[0].features.size < dim:
        raise StateError("evidence rows have features of different widths: the journal is damaged")
    features = np.stack([row.features for row in rows]).astype(np.float32)
    y = np.array([slots[row.label] for row in rows], np.int64)
    weight = np.array([row.weight for row in rows], np.float32)
    is_factory = np.array([row.is_factory for row in rows], np.float32)
    return np.ascontiguousarray(features[:, :dim]), np.ascontiguousarray(features[:, dim:]), y, weight, is_factory
