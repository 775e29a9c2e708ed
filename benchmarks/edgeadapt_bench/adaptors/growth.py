"""What growing an adaptor is worth, on the device: conditions met, answered, left and met again,
with a family in the bundle and without.

Features of the shipped encoder go into two bundles that differ in one thing, the family of
adaptors; so do the made ones of ``mirror.py``. A stream shows clean samples, then condition A,
clean ones, condition B, and A again; ten samples of every window are labelled while a condition is
noticed. One more stream drifts.

    gain      accuracy in a condition at the end, with the family, minus without
    kept      accuracy on clean images at the end
    routed    share of windows of the second A that end in the condition of the first
    drift     conditions that a stream opens whose images darken by a little in every window; what
              it grows
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.demo.sample import KNOWN
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt_bench.datasets import mirrored_domain
from edgeadapt_bench.datasets.image_dataset import (
    SEVERITY,
    ImageDataset,
    Say,
    bar,
    load_dataset,
    names_of,
    open_quick,
)
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.harness.resampling import mean_and_spread, paired_interval

Conditions = tuple[str, str]
SEQUENCES: tuple[Conditions, ...] = (("inverted", "contrast"), ("fog", "gaussian_noise"))
MADE: Conditions = ("mirrored", "moved")
WINDOW, LABELS = 32, 10
_WINDOWS, _CLEAN, _AGAIN, _JUDGED = 24, 6, 8, 800
_STREAM, _DRIFT = "line", 60
F32 = NDArray[np.float32]


def shown(x: NDArray[np.uint8], condition: str, seed: int) -> NDArray[np.uint8]:
    """``inverted`` is what a thermal camera does when its polarity is switched; the others are
    those of every suite.
    """
    if condition == "clean":
        return x
    return 255 - x if condition == "inverted" else corrupt(x, condition, SEVERITY, seed)


def darker(x: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    return (x * (1.0 - 0.75 * share)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Life:
    """What one stream left behind.

    Attributes:
        right: condition -> right answers of the end on the same judged images.
        grown: adaptors by the commits that say so.
        routed: see the module.
    """

    right: dict[str, NDArray[np.bool_]]
    grown: tuple[str, ...]
    routed: float


class _Shows(Protocol):
    """Labelled features by condition."""

    def window(self, condition: str) -> tuple[F32, list[str]]: ...
    def judged(self, condition: str) -> tuple[F32, list[str]]: ...
    def drifting(self, share: float) -> tuple[F32, list[str]]: ...


class _MirroredStream:
    def __init__(self, seed: int) -> None:
        self._seed = 10_000 * (seed + 1)

    def window(self, condition: str) -> tuple[F32, list[str]]:
        return self._samples(WINDOW, condition)

    def judged(self, condition: str) -> tuple[F32, list[str]]:
        return self._samples(_JUDGED, condition)

    def drifting(self, share: float) -> tuple[F32, list[str]]:
        self._seed += 1
        return mirrored_domain.drifted(WINDOW, self._seed, share)

    def _samples(self, count: int, condition: str) -> tuple[F32, list[str]]:
        self._seed += 1
        return (
            mirrored_domain.drifted(count, self._seed, -1.5)
            if condition == "moved"
            else mirrored_domain.samples(count, self._seed, float(condition == "mirrored"))
        )


class _Camera:
    """Features of images under a condition."""

    def __init__(self, dataset: ImageDataset, program: Program, seed: int) -> None:
        self._program, self._rng, self._seed = program, np.random.default_rng(seed), seed
        images = dataset.known()
        rows = self._rng.permutation(len(images))
        cut = min(_JUDGED, len(rows) // 3)
        self._x, self._y, self._judge, self._pool = images.x, images.y, rows[:cut], rows[cut:]

    def features(self, x: NDArray[np.uint8]) -> F32:
        return np.concatenate(
            [self._program.encode(x[i : i + 256])[0] for i in range(0, len(x), 256)]
        )

    def window(self, condition: str) -> tuple[F32, list[str]]:
        rows = self._rng.choice(self._pool, WINDOW, replace=False)
        return self.features(shown(self._x[rows], condition, self._seed)), names_of(self._y[rows])

    def drifting(self, share: float) -> tuple[F32, list[str]]:
        rows = self._rng.choice(self._pool, WINDOW, replace=False)
        return self.features(darker(self._x[rows], share)), names_of(self._y[rows])

    def judged(self, condition: str) -> tuple[F32, list[str]]:
        return self.features(shown(self._x[self._judge], condition, self._seed + 1)), names_of(
            self._y[self._judge]
        )


def _show(learner: Learner, window: tuple[F32, list[str]], labels: int) -> None:
    z, names = window
    seen = learner.observe(features={"z": z}, stream=_STREAM)
    learner.settle()
    if labels and learner.domain(_STREAM) != "source":
        learner.label(list(seen.ids[:labels]), names[:labels], source="operator")
        learner.settle()


def live(bundle: Bundle, camera: _Shows, sequence: Conditions, windows: int) -> Life:
    """Clean, A, clean, B, clean, A again; every condition is judged while the stream is in it."""
    first, second = sequence
    right: dict[str, NDArray[np.bool_]] = {}
    with open_quick(bundle) as learner:
        for condition, count, labels in (
            ("clean", _CLEAN, 0),
            (first, windows, LABELS),
            ("clean", _CLEAN, 0),
            (second, windows, LABELS),
            ("clean", _CLEAN, 0),
        ):
            for _ in range(count):
                _show(learner, camera.window(condition), labels)
            right[condition] = _right(learner, camera.judged(condition))
            if condition == first:
                home = learner.domain(_STREAM)
        ended = []
        for _ in range(_AGAIN):
            _show(learner, camera.window(first), 0)
            ended.append(learner.domain(_STREAM))
        right[first] = _right(learner, camera.judged(first))
        grown = [
            str(c.detail["adaptor"])
            for c in learner.history(500)
            if c.kind == "grow" and c.outcome == "grown"
        ]
    return Life(right, tuple(grown), float(np.mean([name == home for name in ended[2:]])))


def _right(learner: Learner, judged: tuple[F32, list[str]]) -> NDArray[np.bool_]:
    z, names = judged
    found = [
        label
        for i in range(0, len(z), 256)
        for label in learner.predict(features={"z": z[i : i + 256]}, stream=_STREAM).labels
    ]
    return np.array(found) == np.array(names)


def drift(bundle: Bundle, camera: _Shows, windows: int) -> tuple[int, int]:
    """Conditions that were opened, and adaptors that were grown."""
    with open_quick(bundle) as learner:
        for share in np.linspace(0.0, 1.0, windows):
            _show(learner, camera.drifting(float(share)), LABELS)
        tables = learner._live.current
        return tables.domain_serial, sum(
            c.kind == "grow" and c.outcome == "grown" for c in learner.history(500)
        )


def _bundles(
    dataset: ImageDataset,
    program: Program,
    folder: Path,
    say: Say,
    sources: Sequence[str] = ("images", "mirror"),
) -> dict[tuple[str, str], Bundle]:
    try:
        from edgeadapt import host
        from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
        from edgeadapt.host.methods.adaptors.low_rank import LowRank
        from edgeadapt.host.methods.adaptors.scale_shift import ScaleShift
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{error}: this suite exports bundles, pip install 'edgeadapt[host]'"
        ) from error
    calibration, (x, names) = dataset.calibration, mirrored_domain.samples(400, 1)
    z = np.concatenate(
        [program.encode(calibration.x[i : i + 256])[0] for i in range(0, len(calibration), 256)]
    )
    labels = np.array([mirrored_domain.NAMES.index(name) for name in names])
    made: dict[tuple[str, str], Bundle] = {}
    for source, inputs, y, classes in (
        ("images", z, calibration.y, KNOWN),
        ("mirror", x, labels, mirrored_domain.NAMES),
    ):
        if source not in sources:
            continue
        family = (
            (LowRank(4), Bottleneck(16))
            if source == "mirror"
            else (ScaleShift(), LowRank(8), Bottleneck(16))
        )
        for name, adaptors in (("family", family), ("none", "none")):
            options: dict[str, Any] = {
                "adapt": "none",
                "stress": False,
                "novelty": "cosine",
                "name": name,
                "adaptors": adaptors,
                "random_features": 0,
            }
            path = folder / f"{source}-{name}.edge"
            made[source, name] = host.export(
                path,
                host.Identity(inputs.shape[1]),
                calibration=(inputs, y),
                classes=list(classes),
                **options,
            )
            say(f"growth: exported the bundle of {source} with adaptors = {name}")
    return made


def run_growth(data: str | None, say: Say, quick: bool = False) -> list[Row]:
    """See the module. ``quick``: the made sequence, one seed, fewer windows."""
    dataset = load_dataset("sample" if quick else data)
    program = dataset.program()
    seeds, sequences, windows = (
        ((0,), (MADE,), 16) if quick else ((0, 1, 2), (*SEQUENCES, MADE), _WINDOWS)
    )
    sources = ("mirror",) if quick else ("images", "mirror")

    def shows(source: str, seed: int) -> _Shows:
        return _MirroredStream(seed) if source == "mirror" else _Camera(dataset, program, seed)

    with tempfile.TemporaryDirectory() as scratch:
        bundles = _bundles(dataset, program, Path(scratch), say, sources)
        lives: dict[tuple[str, Conditions, int], Life] = {}
        for sequence in sequences:
            source = "mirror" if sequence == MADE else "images"
            for seed in seeds:
                for name in ("family", "none"):
                    lives[name, sequence, seed] = found = live(
                        bundles[source, name], shows(source, seed), sequence, windows
                    )
                    marks = ", ".join(
                        f"{condition} {right.mean():.1%}"
                        for condition, right in found.right.items()
                    )
                    say(
                        f"{name}, {' and '.join(sequence)}, seed {seed}: {marks}; grown"
                        f" {len(found.grown)}; routed {found.routed:.0%}"
                    )
        drifted = [
            drift(bundles[source, "family"], shows(source, seed), _DRIFT // (4 if quick else 1))
            for source in sources
            for seed in seeds
        ]
    return _rows(lives, sequences, seeds, drifted)


def _rows(
    lives: dict[tuple[str, Conditions, int], Life],
    sequences: Sequence[Conditions],
    seeds: Sequence[int],
    drifted: list[tuple[int, int]],
) -> list[Row]:
    rows = []
    for sequence in sequences:
        for condition in (*sequence, "clean"):
            place = condition if condition != "clean" else f"clean_after_{'_'.join(sequence)}"
            with_one, without = (
                np.concatenate([lives[name, sequence, seed].right[condition] for seed in seeds])
                for name in ("family", "none")
            )
            rows.append(
                bar(f"accuracy/{place}", float(with_one.mean()), "accuracy", float(without.mean()))
            )
            gain, low, high = paired_interval(with_one, without)
            rows += [
                bar(f"gain/{place}", gain, "accuracy"),
                bar(f"gain/{place}/low", low, "accuracy"),
                bar(f"gain/{place}/high", high, "accuracy"),
            ]
        grown = mean_and_spread([len(lives["family", sequence, s].grown) for s in seeds])[0]
        rows.append(
            bar(
                f"grown/{'_'.join(sequence)}",
                grown,
                "adaptors",
                at_least=1 if sequence == MADE else None,
            )
        )
        rows.append(
            bar(
                f"routed/{'_'.join(sequence)}",
                float(np.mean([lives["family", sequence, s].routed for s in seeds])),
                "share",
                at_least=0.9,
            )
        )
    rows.append(
        bar(
            "drift/conditions", float(max(opened for opened, _ in drifted)), "conditions", at_most=1
        )
    )
    rows.append(
        bar("drift/grown", float(max(grown for _, grown in drifted)), "adaptors", exactly=0)
    )
    return rows
