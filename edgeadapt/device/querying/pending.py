"""Samples by id: pending ones that may still get a label, and questions about them."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.storage.features import as_stored

LARGEST_PENDING = 50_000
"""Observed samples that can still be labelled; the oldest batch goes first."""
# samples: after an encoder has run, one conversion costs what four do in a row
_STORED_AT_ONCE = 32
_DRAWN_AT_ONCE = 256  # ids
_RAW_BYTES = 32 << 20  # of inputs of pending samples


@dataclass(eq=False)
class PendingBatch:
    """Features of one observed batch, as they will be learned: float16, before ``correct``. Nothing
    but :meth:`store` changes it.
    """

    ids: tuple[str, ...]
    stream: str
    domain: str
    is_shifted: bool
    features: NDArray[Any]  # (N, D + T) float16; (N, D) float32 while ``taps`` waits beside it
    at: float  # monotonic seconds
    met_at: float = field(default_factory=lambda: time.time())  # seconds since the epoch
    is_foreign: bool = False
    """By an encoder adapted into a space of its own: no label is learned from these, but from the
    factory encoder's of the same inputs.
    """
    # (N, T) of features that are still to be stored: arrays that nobody else writes to
    taps: NDArray[np.float32] | None = None

    def store(self) -> None:
        """Bring the features into the precision they are learned in, once."""
        if self.taps is not None:
            self.features, self.taps = as_stored(self.features, self.taps), None


class Pending:
    """Observed samples that can still be labelled; in memory only."""

    def __init__(self, keep_s: float) -> None:
        self.keep_s = keep_s
        self._batches: OrderedDict[int, PendingBatch] = OrderedDict()  # by serial, oldest first
        self._left: dict[int, int] = {}  # samples of a batch that are still pending
        self._serial = 0
        self._unstored: list[PendingBatch] = []
        self._unstored_count = 0  # samples of those
        self._raw: OrderedDict[str, NDArray[Any]] = OrderedDict()  # by sample, oldest first
        self._raw_bytes = 0
        # sample -> (batch, row, serial of the batch)
        self._where: dict[str, tuple[PendingBatch, int, int]] = {}
        self._lock = threading.Lock()

    def add(self, batch: PendingBatch) -> None:
        with self._lock:
            self._take_in(batch)
            while self._batches:
                serial, oldest = next(iter(self._batches.items()))
                if oldest.at >= batch.at - self.keep_s and len(self._where) <= LARGEST_PENDING:
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
        """Forget where a sample is, and its batch with the last of its samples; True if it was
        pending.
        """
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
        """Raw inputs of pending samples, the newest up to a fixed size; a label of an older sample
        is learned without its raw input.
        """
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
        """Better features for samples that are still pending: a correction was found after they
        were observed.
        """
        with self._lock:
            rows = [row for row, sample in enumerate(batch.ids) if sample in self._where]
            if rows:
                met_at = self._where[batch.ids[rows[0]]][0].met_at
                self._take_in(
                    replace(
                        batch,
                        ids=tuple(batch.ids[row] for row in rows),
                        features=batch.features[rows],
                        met_at=met_at,
                    )
                )

    def find(self, sample: str) -> tuple[PendingBatch, int] | None:
        """The batch and row of an id; None if it was never seen, has expired, has a label already
        or was forgotten.
        """
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
            return sum(
                [
                    self._let_go(s)
                    for s in [
                        s
                        for s, (batch, _, _) in self._where.items()
                        if stream is None or batch.stream == stream
                    ]
                ]
            )

    def __contains__(self, sample: str) -> bool:
        return sample in self._where

    def __len__(self) -> int:
        return len(self._where)


def new_ids(count: int) -> tuple[str, ...]:
    """Random sample ids: nothing about the sample can be read from them."""
    block = secrets.token_hex(8 * count)
    return tuple([block[16 * i : 16 * i + 16] for i in range(count)])


class Ids:
    """The same ids, drawn many at once: the system is asked now and then. For one process;
    thread-safe.
    """

    def __init__(self) -> None:
        self._drawn: deque[str] = deque()

    def take(self, count: int) -> tuple[str, ...]:
        while True:
            try:
                return tuple([self._drawn.popleft() for _ in range(count)])
            # used up, perhaps by another thread: what was taken of them is nobody's
            except IndexError:
                self._drawn.extend(new_ids(max(count, _DRAWN_AT_ONCE)))
