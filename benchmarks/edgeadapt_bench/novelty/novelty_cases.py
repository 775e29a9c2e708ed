"""Class splits that novelty scores are judged on: of the shipped encoder, of Fashion-MNIST, of
emoji, and far data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import NEW
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt_bench.datasets.image_dataset import SEVERITY, ImageDataset
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import load_pool
from edgeadapt_bench.downloads import folder as fetched
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.novelty.novelty_features import Case, Lite0WithTaps, Seen, per_class

if TYPE_CHECKING:
    pass


SPLITS = 3


SHIFTS = ("fog", "gaussian_noise")


_PER_CLASS, _REPORTED, _FAR, _UNSEEN = 600, 2500, 1000, 150


def shipped_case(dataset: ImageDataset, quick: bool) -> Case:
    """The shipped encoder, which was trained on the six known classes alone."""
    program = dataset.program()
    stored = np.float16

    def see(x: NDArray[np.uint8], y: NDArray[np.int64]) -> Seen:
        z, taps = program.encode(x)
        return Seen(z.astype(stored).astype(np.float32), taps.astype(stored).astype(np.float32), y)

    from edgeadapt.host.assembly.novelty_choice import unseen_images

    held = dataset.calibration
    fit, judge = np.array_split(np.random.default_rng(0).permutation(len(held)), 2)
    known, novel = dataset.known(), dataset.test.only(NEW)
    known, novel = (
        part.take(np.random.default_rng(0).permutation(len(part))[: 300 if quick else None])
        for part in (known, novel)
    )
    unseen = unseen_images(held.x[judge[: 100 if quick else 600]], 0)
    shifted = {name: see(corrupt(known.x, name, SEVERITY, 0), known.y) for name in SHIFTS}
    return Case(
        see(held.x[fit], held.y[fit]),
        see(held.x[judge], held.y[judge]),
        see(known.x, known.y),
        {"novel": see(novel.x, novel.y)},
        shifted,
        see(unseen, np.full(len(unseen), -1)),
    )


def _class_splits(classes: int, known: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The first classes against the rest, then random halves."""
    orders = [
        np.arange(classes),
        *(np.random.default_rng(seed).permutation(classes) for seed in range(1, SPLITS)),
    ]
    return [(np.sort(order[:known]), np.sort(order[known:])) for order in orders]


def fashion_cases(encoder: Lite0WithTaps, dataset: ImageDataset) -> list[Case]:
    training, test = dataset.training, dataset.test
    chosen = per_class(training.y, _PER_CLASS, 0)
    reported = np.random.default_rng(0).permutation(len(test))[:_REPORTED]
    factory = encoder.see("factory", training.x[chosen], training.y[chosen])
    clean = encoder.see("test", test.x[reported], test.y[reported])
    shifted = {
        name: encoder.see(name, corrupt(test.x[reported], name, SEVERITY, 0), test.y[reported])
        for name in SHIFTS
    }
    is_judge = np.random.default_rng(1).random(len(chosen)) < 0.5
    cases = []
    for known, novel in _class_splits(len(training.classes), len(training.classes) // 2):
        mine = np.flatnonzero(is_judge & np.isin(factory.y, known))
        cases.append(
            Case(
                factory.rows(~is_judge).of(known),
                factory.rows(is_judge).of(known),
                clean.of(known),
                {"novel": clean.of(novel)},
                {name: seen.of(known) for name, seen in shifted.items()},
                _unseen(encoder, training.x[chosen[mine]]),
            )
        )
    return cases


def emoji_cases(say: Say) -> list[Case]:
    pool = load_pool("emoji", None, say)
    count = len(pool.classes)
    return [_case_of(pool, known, novel) for known, novel in _class_splits(count, count // 2)]


def _case_of(pool: Pool, known: NDArray[np.int64], novel: NDArray[np.int64]) -> Case:
    """Features without taps; units (an emoji in all its styles) stay on one side of evidence and
    judge.
    """
    first_style, test_style = pool.group == 0, pool.test_group == 0
    train = Seen(
        pool.z[first_style], np.zeros((int(first_style.sum()), 0), np.float32), pool.y[first_style]
    )
    test = Seen(
        pool.test_z[test_style],
        np.zeros((int(test_style.sum()), 0), np.float32),
        pool.test_y[test_style],
    )
    is_judge = np.random.default_rng(1).random(len(train)) < 0.5
    return Case(
        train.rows(~is_judge).of(known),
        train.rows(is_judge).of(known),
        test.of(known),
        {"novel": test.of(novel)},
        {},
    )


def far_cases(encoder: Lite0WithTaps, dataset: ImageDataset, say: Say) -> list[Case]:
    """All ten classes are known; digits and emoji are not. One draw of factory samples: the
    interval is that of the reported ones.
    """
    training, test = dataset.training, dataset.test
    chosen = per_class(training.y, _PER_CLASS, 0)
    reported = np.random.default_rng(0).permutation(len(test))[:_REPORTED]
    factory = encoder.see("factory", training.x[chosen], training.y[chosen])
    clean = encoder.see("test", test.x[reported], test.y[reported])
    others = {}
    for name in ("mnist", "emoji"):
        x = fetched.load(name)["x"]
        # the first half served for choosing
        rows = len(x) // 2 + np.random.default_rng(0).permutation(len(x) // 2)[:_FAR]
        others[name] = encoder.see(name, x[rows], np.full(len(rows), -1))
    is_judge = np.random.default_rng(2).random(len(chosen)) < 0.5
    unseen = _unseen(encoder, training.x[chosen[np.flatnonzero(is_judge)]])
    return [Case(factory.rows(~is_judge), factory.rows(is_judge), clean, others, {}, unseen)]


def _unseen(encoder: Lite0WithTaps, x: NDArray[np.uint8]) -> Seen:
    """Some judging images turned, inverted, swapped and averaged: the exporter's second mark."""
    from edgeadapt.host.assembly.novelty_choice import unseen_images

    turned = unseen_images(x[np.random.default_rng(0).permutation(len(x))[:_UNSEEN]], 0)
    return encoder.see("unseen", turned, np.full(len(turned), -1))
