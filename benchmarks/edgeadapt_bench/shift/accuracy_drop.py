"""Whether a device notices that its accuracy fell, on real transfers, and how often it says so
where it did not.

A head of one style, of some subjects or of one source of digits meets another. Streams of up to
1,024 samples in natural (random) and in
class-sorted order go through the estimate of accuracy (``device/accuracy.py``) and through the
shift axis, window by window, as
on a device. Noticed: within 128 samples where accuracy is 20 points or more below that of the
held-out samples, within 512 where it
is 10 to 20 below. False alarms: streams of the same or of another group whose accuracy is within 3
points, ``LONG`` samples long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import AccuracyPolicy, ShiftPolicy
from edgeadapt.device.detection.accuracy_estimate import RecentAccuracy, tally
from edgeadapt.device.detection.window import shift_ratio
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.host.assembly import calibration as calibrate
from edgeadapt.host.contracts import FactoryData
from edgeadapt.host.exporting.accuracy_estimate import accuracy_policy
from edgeadapt.host.exporting.cross_fitting import FOLDS, choose_slda, folds_of
from edgeadapt.host.exporting.settings import Settings
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import lite0_of, load_pool
from edgeadapt_bench.downloads import folder
from edgeadapt_bench.harness.measure import Row, Say, at_least, at_most

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
LARGE, SMALL, LEVEL = 0.2, 0.1, 0.03
SOON, LATER, LONG = 128, 512, 608
NOTICED, FALSE_ALARMS = 0.8, 0.02
_ORDERS = ("natural", "sorted")
_SOURCE_SUBJECTS = 5


class Source:
    """A head made as an export makes it, and what its cross-fitted rows say about it."""

    def __init__(self, z: F32, y: I64, classes: tuple[str, ...]) -> None:
        settings, self.known = Settings(), len(classes)
        slots = max(settings.class_slots, self.known)
        weight = calibrate.factory_weights(y, settings.factory_count)
        data = FactoryData(z, np.zeros((len(z), 0), np.float32), y, weight, slots)
        chosen = choose_slda(
            data, folds_of(y, None, FOLDS, settings.seed), settings.seed, lambda line: None
        )
        half = folds_of(y, None, 2, settings.seed)
        parts = [
            calibrate.Part.of(chosen.head, ResidualShift(), data, half == k, None) for k in (1, 0)
        ]
        self.fitted = calibrate.Fitted.of(chosen.head, ResidualShift(), data)
        self.counts: F32 = self.fitted.values["shift.moment"][-1].numpy()
        self.shift: ShiftPolicy = calibrate.shift_policy(parts, (0, z.shape[1]), settings.seed)
        logits = chosen.logits[:, : self.known]
        self.accuracy: AccuracyPolicy = accuracy_policy(logits, y, self.shift.window, settings.seed)

    def logits(self, z: F32) -> F32:
        return self.fitted.logits(z)[:, : self.known]


@dataclass(frozen=True, eq=False)
class Transfer:
    """A source's head on samples from elsewhere. ``is_tuning``: choices were made on it."""

    name: str
    source: Source
    z: F32
    y: I64
    is_tuning: bool = False

    @property
    def drop(self) -> float:
        """Held-out accuracy less that on these samples."""
        return self.source.accuracy.accuracy - float(
            (self.source.logits(self.z).argmax(axis=1) == self.y).mean()
        )


def first_noticed(
    transfer: Transfer, order: str, seed: int, most: int
) -> tuple[int | None, int | None]:
    """Samples of one stream until accuracy seems to have fallen, and until a shift is confirmed;
    None for never."""
    source, rng = transfer.source, np.random.default_rng(seed)
    rows = rng.permutation(len(transfer.y))[:LONG]
    if order == "sorted":
        rows = rows[np.argsort(rng.permutation(source.known)[transfer.y[rows]], kind="stable")]
    rows = rows[:most]
    logits = source.logits(transfer.z[rows])
    residuals = source.fitted.residuals(transfer.z[rows], np.zeros((len(rows), 0), np.float32))
    slots = logits.argmax(axis=1)
    recent, fallen, shifted, in_a_row, size = RecentAccuracy(), None, None, 0, source.shift.window
    for start in range(0, len(rows) - size + 1, size):
        part = slice(start, start + size)
        recent = recent.extended(tally(logits[part], slots[part], source.accuracy), source.accuracy)
        ratio = shift_ratio(residuals[part], slots[part], source.counts, source.shift)
        in_a_row = in_a_row + 1 if ratio > 1.0 else 0
        if fallen is None and recent.has_fallen(source.accuracy):
            fallen = start + size
        if shifted is None and (
            in_a_row >= source.shift.confirm_windows or ratio >= source.shift.strong
        ):
            shifted = start + size
    return fallen, shifted


def transfers(data: str | None, say: Say) -> Iterator[Transfer]:
    """Emoji from style to style, smartwatch subjects, digits of two sources where scikit-learn is
    installed; each source's own unseen rows too."""
    yield from _emoji(load_pool("emoji", data, say))
    yield from _smartwatch(load_pool("smartwatch", data, say))
    try:
        yield from _digits(say)
    except RuntimeUnavailable as error:
        say(f"digits: left out: {error}")


def _emoji(pool: Pool) -> Iterator[Transfer]:
    for style, name in enumerate(pool.groups[:3]):
        rows = pool.group == style
        source = Source(pool.z[rows], pool.y[rows], pool.classes)
        for other, to in enumerate(pool.groups):
            test = pool.test_group == other
            is_tuning = style != 0 and other in (
                0,
                style,
            )  # to google, and what the other two say about themselves
            yield Transfer(
                f"emoji/{name}->{to}", source, pool.test_z[test], pool.test_y[test], is_tuning
            )


def _smartwatch(pool: Pool) -> Iterator[Transfer]:
    z = np.concatenate([pool.z, pool.test_z])
    y = np.append(pool.y, pool.test_y)
    group = np.append(pool.group, pool.test_group)
    for draw in range(4):
        subjects = np.random.default_rng(draw).permutation(len(pool.groups))
        rows = np.isin(group, subjects[:_SOURCE_SUBJECTS])
        source = Source(z[rows], y[rows], pool.classes)
        for subject in subjects[_SOURCE_SUBJECTS:]:
            yield Transfer(
                f"smartwatch/{draw}/{pool.groups[subject]}",
                source,
                z[group == subject],
                y[group == subject],
                draw < 2,
            )


def _digits(say: Say) -> Iterator[Transfer]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise RuntimeUnavailable("scikit-learn is not installed") from error
    kept, digits = folder.load("mnist"), load_digits()
    some = np.random.default_rng(0).permutation(len(kept["y"]))[:2500]
    mnist_y, other_y = kept["y"][some].astype(np.int64), digits.target.astype(np.int64)
    mnist = lite0_of("mnist-part", kept["x"][some], say)
    large = np.repeat(np.repeat((digits.images * 15.9375).astype(np.uint8), 4, axis=1), 4, axis=2)
    other, names = lite0_of("digits", large, say), tuple("0123456789")
    source = Source(mnist[:1000], mnist_y[:1000], names)
    yield Transfer("digits/mnist->mnist", source, mnist[1000:], mnist_y[1000:], True)
    yield Transfer("digits/mnist->optical", source, other, other_y, True)
    source = Source(other[:900], other_y[:900], names)
    yield Transfer("digits/optical->optical", source, other[900:], other_y[900:])
    yield Transfer("digits/optical->mnist", source, mnist, mnist_y)


def run_noticing(data: str | None = None, say: Say = print, *, quick: bool = False) -> list[Row]:
    """Noticed within the limits and false alarms; what choices were made on apart from what is
    reported.

    Args:
        data: see ``load_pool``. quick: two streams of each kind instead of ten.
    """
    seeds, found = range(2 if quick else 10), dict[tuple[str, bool, str], list[list[bool]]]()
    for transfer in transfers(data, say):
        drop = transfer.drop
        kind = (
            "level"
            if abs(drop) <= LEVEL
            else "small"
            if SMALL <= drop < LARGE
            else "large"
            if drop >= LARGE
            else ""
        )
        if not kind:
            continue
        most = {"level": LONG, "small": LATER, "large": SOON}[kind]
        for order in _ORDERS:
            streams = []
            for seed in seeds:
                fallen, shifted = first_noticed(transfer, order, seed, most)
                streams.append(
                    [
                        fallen is not None,
                        shifted is not None,
                        fallen is not None or shifted is not None,
                    ]
                )
            found.setdefault((kind, transfer.is_tuning, order), []).extend(streams)
            share = np.mean(streams, axis=0)
            say(
                f"{transfer.name}, {order}: {drop:+.3f}, within {most}: "
                f"accuracy {share[0]:.2f}, shift {share[1]:.2f}, either {share[2]:.2f}"
            )
    return [
        row
        for (kind, is_tuning, order), streams in sorted(found.items())
        for row in _rows(kind, is_tuning, order, streams)
    ]


def _rows(kind: str, is_tuning: bool, order: str, streams: list[list[bool]]) -> list[Row]:
    fallen, shifted, either = (float(share) for share in np.mean(streams, axis=0))
    where = f"{order}/{'tuning' if is_tuning else 'reported'}"
    if kind == "level":
        return [
            at_most(
                f"false_alarms/accuracy/{where}",
                fallen,
                "share of streams",
                None if is_tuning else FALSE_ALARMS,
                shifted,
            )
        ]
    name = f"noticed/{'20_points_in_128' if kind == 'large' else '10_points_in_512'}/{where}"
    return [at_least(name, either, "share of streams", None if is_tuning else NOTICED, shifted)]
