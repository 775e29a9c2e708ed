"""Windows over a stream, and what they say: shifted? novel? stuck?

    S_g = mean_j ( (mean_i r_ij)^2 ) / (1 / n + sum_c f_c^2 / m_c)

over the columns j of group g, for a window of n residuals r; f_c is the share of class c among the
window's predictions and m_c how many labels its mean rests on, so that a class known from ten
labels does not look like a shift. S_g is about 1 on clean windows; it is divided by the bundle's
threshold for the group, and the largest quotient is the reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import NoveltyPolicy, ShiftPolicy
from edgeadapt.device.inference.program import Program
from edgeadapt.results import AccuracyEstimate, Axis, Reading
from edgeadapt.runtime import Executable

F32 = NDArray[np.float32]
_STUCK = 1e-6  # squared spread of residuals over a window in which nothing moves
_Row = tuple[int, float, str, float, Any]  # class slot, novelty score, id, distance, correction


def shift_ratio(
    residuals: F32, slots: NDArray[np.int64], class_counts: F32, policy: ShiftPolicy
) -> float:
    """Largest S_g / threshold_g of one window. Above 1 the conditions differ from calibration."""
    return shift_ratio_of_mean(residuals.mean(axis=0), slots, class_counts, policy)


def shift_ratio_of_mean(
    mean: F32, slots: NDArray[np.int64], class_counts: F32, policy: ShiftPolicy
) -> float:
    n = len(slots)
    shares = np.bincount(slots, minlength=len(class_counts)) / n
    spread = 1.0 / n + float(np.sum(shares * shares / np.maximum(class_counts, 1.0)))
    squared = mean * mean
    largest, start = 0.0, 0
    for width, threshold in zip(policy.groups, policy.thresholds, strict=True):
        largest = max(largest, float(squared[start : start + width].mean()) / spread / threshold)
        start += width
    return largest


@dataclass(frozen=True, eq=False)
class WindowView:
    """One full window as the factory encoder sees it."""

    inputs: NDArray[Any]  # (W, ...) frames, or features where there is no encoder
    ids: tuple[str, ...]
    slots: NDArray[np.int64]  # (W,) classes predicted by the encoder in use
    scores: F32  # (W,) novelty scores of the path in use
    distances: F32  # (W,) from the classes, under ``correction``; means nothing without one
    correction: Any = None  # if it was the same for all samples
    logits: F32 | None = None  # (W, slots) of the encoder in use
    _features: dict[Executable | None, tuple[F32, F32]] = field(default_factory=dict, init=False)

    def features(self, program: Program, encoder: Executable | None = None) -> tuple[F32, F32]:
        """z (W, D) and taps (W, T) of an encoder, None for the factory's; encoded once for each."""
        if encoder not in self._features:
            self._features[encoder] = program.encode(self.inputs, encoder)
        return self._features[encoder]


class StreamWindow:
    """The last W samples of one stream, in rings written in place; frames stay in memory only."""

    def __init__(self, shift: ShiftPolicy, novelty: NoveltyPolicy, residual_width: int) -> None:
        self._novelty = novelty
        self._residuals = np.zeros((shift.window, residual_width), np.float32)
        self._sum = np.zeros(residual_width, np.float64)
        # a list: at batch 1 a number is cheaper to handle than an array
        self._rows: list[_Row] = [(0, 0.0, "", 0.0, None)] * shift.window
        self._slot_counts: dict[int, int] = {}  # predicted class slot -> samples of the window
        self._novel_count = 0  # samples of the window above the novelty threshold
        # (W, ...) and (W, slots), once the first batch has shown their shapes
        self._inputs: NDArray[Any] = np.zeros((0,))
        self._logits: F32 | None = None
        self._groups = _groups(self._sum, shift)
        # (class counts, 1 / max(count, 1)) of the last reading
        self._uncertainty: tuple[F32 | None, list[float]] = (None, [])
        self._at = 0
        self.count = 0  # samples in the window
        self.fresh = 0  # samples since the last window was taken
        self.is_stuck = False

    def clear(self) -> None:
        """Start over: residuals of two encoders must not be averaged."""
        self._residuals[:] = 0
        self._sum[:] = 0
        self._slot_counts = {}
        self._at = self.count = self.fresh = self._novel_count = 0
        self.is_stuck = False

    def push(
        self,
        residuals: F32,
        slots: NDArray[np.int64],
        scores: F32,
        inputs: NDArray[Any],
        ids: tuple[str, ...],
        distances: F32 | None = None,
        correction: Any = None,
        logits: F32 | None = None,
    ) -> None:
        """Take in a batch; only its last W rows can matter. Everything is copied: the caller may
        use its buffers again.

        Args:
            distances: (N,) from the classes, under ``correction``, which is compared by identity.
            logits: (N, slots).
        """
        size, given = len(self._rows), len(ids)
        far = [0.0] * given if distances is None else distances.tolist()
        if given > size:
            residuals, slots, scores = residuals[-size:], slots[-size:], scores[-size:]
            inputs, ids, far = inputs[-size:], ids[-size:], far[-size:]
            logits = None if logits is None else logits[-size:]
        if (
            self._inputs.shape[1:] != inputs.shape[1:]
            or self._inputs.dtype != inputs.dtype
            or not len(self._inputs)
        ):
            self._inputs = np.zeros((size, *inputs.shape[1:]), inputs.dtype)
            self.clear()  # frames and features cannot share a window
        # rows that fit before the ring wraps
        start, first = self._at, min(len(ids), size - self._at)
        self._put(slice(start, start + first), residuals[:first], inputs[:first])
        if first < len(ids):
            self._put(slice(0, len(ids) - first), residuals[first:], inputs[first:])
        if logits is not None:
            if self._logits is None:
                self._logits = np.zeros((size, logits.shape[1]), np.float32)
            self._logits[start : start + first] = logits[:first]
            if first < len(ids):
                self._logits[: len(ids) - first] = logits[first:]
        for slot, score, sample, distance in zip(
            slots.tolist(), scores.tolist(), ids, far, strict=True
        ):
            self._replace((slot, score, sample, distance, correction))
        self.fresh += given
        # wrapped: sum anew, without rounding errors, and test whether anything moves
        if self._at <= start:
            self._residuals.sum(axis=0, dtype=np.float64, out=self._sum)
            self.is_stuck = (
                self.count == size and float(self._residuals.var(axis=0).mean()) < _STUCK
            )

    def _put(self, rows: slice, residuals: F32, inputs: NDArray[Any]) -> None:
        kept = self._residuals[rows]
        change = residuals - kept
        self._sum += change[0] if len(change) == 1 else np.add.reduce(change)
        kept[...] = residuals
        self._inputs[rows] = inputs

    def _replace(self, row: _Row) -> None:
        """One sample more, and the oldest out of a full window."""
        at, limit, counts = self._at, self._novelty.threshold, self._slot_counts
        if self.is_full:
            oldest = self._rows[at]
            counts[oldest[0]] -= 1
            self._novel_count -= oldest[1] > limit
        else:
            self.count += 1
        counts[row[0]] = counts.get(row[0], 0) + 1
        self._novel_count += row[1] > limit
        self._rows[at] = row
        self._at = (at + 1) % len(self._rows)

    @property
    def is_full(self) -> bool:
        return self.count == len(self._rows)

    def shift(self, class_counts: F32) -> float:
        """Reading of the encoder in use: ``shift_ratio`` of the window, from running sums."""
        n = self.count
        if n == 0:
            return 0.0
        if self._uncertainty[0] is not class_counts:
            self._uncertainty = (class_counts, (1.0 / np.maximum(class_counts, 1.0)).tolist())
        uncertainty, weight, largest = self._uncertainty[1], 0.0, 0.0
        for slot, count in self._slot_counts.items():
            weight += count * count * uncertainty[slot]
        for sums, scale in self._groups:
            largest = max(largest, float(sums.dot(sums)) / scale)
        return largest / (n * n * (1.0 / n + weight / (n * n)))

    def novel_share(self) -> float:
        return self._novel_count / self.count if self.count else 0.0

    def residuals(self) -> F32:
        return np.concatenate([self._residuals[self._at :], self._residuals[: self._at]])

    def take(self) -> WindowView:
        """The full window in order of arrival; the next one starts fresh."""
        self.fresh = 0
        order = (self._at + np.arange(len(self._rows))) % len(self._rows)
        slots, scores, ids, distances, corrections = zip(
            *self._rows[self._at :], *self._rows[: self._at], strict=True
        )
        is_one = all(correction is corrections[0] for correction in corrections)
        return WindowView(
            self._inputs[order],
            ids,
            np.array(slots, np.int64),
            np.array(scores, np.float32),
            np.array(distances, np.float32),
            corrections[0] if is_one else None,
            None if self._logits is None else self._logits[order],
        )

    def reading(
        self,
        domain: str,
        class_counts: F32,
        source_shift: float | None = None,
        accuracy: AccuracyEstimate | None = None,
    ) -> Reading:
        """What the window says now.

        Args:
            source_shift: the last one under the factory encoder, while another encoder is in use.
            accuracy: of the last full window.
        """
        shift, share = source_shift, None
        if shift is None:
            shift = self.shift(class_counts) if self.is_full else 0.0
        axis: Axis
        if not self.is_full:
            axis = "warming"
        elif self.is_stuck:
            axis = "stuck"
        elif shift > 1.0:
            axis = "shifted"
        else:
            share = self.novel_share()
            axis = "uncertain" if accuracy is not None and accuracy.has_fallen else "clear"
            axis = "novel" if share >= self._novelty.window_share else axis
        return Reading(axis, shift, share, self.count, domain, accuracy)


def _groups(
    sums: NDArray[np.float64], policy: ShiftPolicy
) -> list[tuple[NDArray[np.float64], float]]:
    """Of each group: a view of its columns, and what their squared length is compared with."""
    ends = np.cumsum(policy.groups).tolist()
    return [
        (sums[end - width : end], width * threshold)
        for end, width, threshold in zip(ends, policy.groups, policy.thresholds, strict=True)
    ]
