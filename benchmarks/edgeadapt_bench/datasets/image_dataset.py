"""What the suites on images share: images, the bundle that ships, windows, pools that do not
overlap, rows with a bar.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import InputError
from edgeadapt.host.data.images import ImageData, fashion_mnist
from edgeadapt.runtime import open_runtime
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.orders import batches
from edgeadapt_bench.downloads.fetch import place_of
from edgeadapt_bench.harness.measure import Row

Say = Callable[[str], None]
SAMPLE = "sample"
CONDITIONS = ("gaussian_noise", "brightness", "fog", "contrast")
SEVERITY = 3
BATCH = 32
PREFIX = 8 * BATCH  # clean images before a condition begins
SETTLED = 4 * BATCH  # images after onset that the first windows take
# the share and seed with which the shipped bundle's calibration images were held out of training
_HELD_OUT = (0.1, 0)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images with the six known classes first, and the bundle that was trained on those.

    Attributes:
        training: for labels that are given.
        test: for everything that is reported.
        calibration: known classes only, the images the bundle was calibrated with.
        source: where they come from, for the report.
    """

    bundle: Bundle
    training: ImageData
    test: ImageData
    calibration: ImageData
    source: str

    def known(self) -> ImageData:
        return self.test.only(KNOWN)

    def program(self) -> Program:
        return Program(self.bundle, open_runtime())


def load_dataset(data: str | None, *, tuning: bool = False) -> ImageDataset:
    """Full Fashion-MNIST, or the sample that ships where it is not installed.

    Args:
        data: folder of the four idx files; ``"sample"`` for the shipped images; None takes the
            system's folder if there.
        tuning: calibration images instead of test images of the known classes: for choosing
            defaults, never for a report.
    """
    bundle = read_bundle(bundle_path())
    found = place_of("fashion") if data is None else None
    if data == SAMPLE or (data is None and found is None):
        if tuning:
            raise InputError(
                "choosing defaults needs the training images: pass data=DIR with the four idx files"
            )
        sample = load_sample()
        test, training = ImageData(sample.x, sample.y, CLASSES).split(0.375, 0)
        return ImageDataset(
            bundle, training, test, training.only(KNOWN), "the shipped sample of 4,000 test images"
        )
    training, test = (
        part.only(CLASSES) for part in fashion_mnist(data if found is None else os.fspath(found))
    )
    calibration = training.only(KNOWN).split(*_HELD_OUT)[1]
    if tuning:
        held = ImageData(calibration.x, calibration.y, CLASSES)
        return ImageDataset(
            bundle, training, held, calibration, "calibration images, for tuning only"
        )
    return ImageDataset(
        bundle, training, test, calibration, "the 10,000 test images of Fashion-MNIST"
    )


def open_quick(bundle: Bundle, policy: Policy | None = None) -> Learner:
    """A learner whose worker may always work: the suites wait for it after every batch, whatever
    the machine's speed.

    It asks nothing in quiet times: the suites count what is asked under a change.
    """
    policy = replace(policy or Policy(), quiet_questions_per_day=0)
    return open_learner(bundle, policy=policy, budget=Budget(busy_fraction=1.0, memory_mib=4096))


def shares(count: int, seed: int, *wanted: int) -> list[NDArray[np.int64]]:
    """Disjoint random rows of a pool of ``count``: the sizes wanted, then the rest. No size takes
    more than a fifth of the pool.
    """
    rows = np.random.default_rng([seed, count]).permutation(count)
    cuts = np.cumsum([min(size, count // 5) for size in wanted])
    return list(np.split(rows, cuts))


def right(labels: tuple[str, ...], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) whether predicted names are those of the slots ``y``."""
    result: NDArray[np.bool_] = np.array(labels) == np.array(CLASSES)[y]
    return result


def names_of(y: NDArray[np.int64]) -> list[str]:
    return [CLASSES[slot] for slot in y]


def accuracy(
    learner: Learner, x: NDArray[np.uint8], y: NDArray[np.int64], *, stream: str = "judge"
) -> float:
    """Share of right answers on images that are only predicted, under the condition a stream is
    in.
    """
    return float(
        np.mean(
            np.concatenate(
                [
                    right(learner.predict(x[rows], stream=stream).labels, y[rows])
                    for rows in batches(len(x), 256)
                ]
            )
        )
    )


def degraded(
    images: ImageData, rows: NDArray[np.int64], condition: str, seed: int
) -> NDArray[np.uint8]:
    """Some images under a condition at the severity that is reported."""
    return corrupt(images.x[rows], condition, SEVERITY, seed)


def bar(
    name: str,
    value: float,
    unit: str,
    baseline: float | None = None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    exactly: float | None = None,
) -> Row:
    """A row, held against its bar if it has one."""
    target, holds = None, None
    if at_least is not None:
        target, holds = at_least, bool(value >= at_least)
    elif at_most is not None:
        target, holds = at_most, bool(value <= at_most)
    elif exactly is not None:
        target, holds = exactly, bool(value == exactly)
    return Row(name=name, value=value, unit=unit, baseline=baseline, target=target, holds=holds)


def spread(values: list[float]) -> str:
    """``mean (smallest to largest)`` over seeds or draws, as percentages."""
    return f"{np.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"
