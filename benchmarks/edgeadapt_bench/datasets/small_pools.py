"""Pools that need nothing but the package: the images that ship by the encoder that ships, and
classes drawn from a few Gaussians.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from edgeadapt_bench.datasets.pool import Pool

_SHAPES = {
    "mnist": (10, 1, 48, 1),
    "emoji": (6, 4, 48, 2),
    "letters": (12, 1, 16, 4),
    "smartwatch": (5, 5, 24, 2),
}
"""Classes, groups, features, Gaussians per class."""


def drawn_like(name: str) -> Pool:
    """A drawn pool in the place of a full one: many Gaussians in few dimensions for letters, groups
    that are moved for emoji and smartwatch.
    """
    return drawn_pool(name, *_SHAPES[name])


def drawn_pool(
    name: str,
    classes: int,
    groups: int,
    dim: int,
    modes: int,
    per_cell: int = 60,
    test_per_cell: int = 40,
    seed: int = 0,
) -> Pool:
    """Synthetic classes: ``modes`` Gaussians each with a shared covariance; group g sees them moved
    and scaled, group 0 not.
    """
    rng = np.random.default_rng([seed, classes, dim])
    centres = rng.standard_normal((classes, modes, dim)) * 3.6 / np.sqrt(dim)
    mixing = np.eye(dim) + 0.5 * rng.standard_normal((dim, dim)) / np.sqrt(dim)
    moves = np.vstack([np.zeros(dim), rng.standard_normal((groups - 1, dim)) * 0.8])
    scales = np.vstack([np.ones(dim), np.exp(0.2 * rng.standard_normal((groups - 1, dim)))])
    parts = []
    for count in (per_cell, test_per_cell):
        y, group = (
            part.ravel()
            for part in np.meshgrid(
                np.repeat(np.arange(classes), count), np.arange(groups), indexing="ij"
            )
        )
        z = (
            centres[y, rng.integers(modes, size=len(y))]
            + rng.standard_normal((len(y), dim)) @ mixing
        )
        parts.append(
            (
                (z * scales[group] + moves[group]).astype(np.float32),
                y.astype(np.int64),
                group.astype(np.int64),
            )
        )
    (z, y, group), (test_z, test_y, test_group) = parts
    return Pool(
        name,
        z,
        y,
        test_z,
        test_y,
        tuple(f"class {k}" for k in range(classes)),
        group,
        test_group,
        f"drawn: {classes} classes of {modes} Gaussians",
        tuple(f"group {g}" for g in range(groups)),
    )


@cache
def shipped_pool() -> Pool:
    """The sample of Fashion-MNIST that ships, by the encoder that ships, which was trained on the
    first six of its classes.
    """
    from edgeadapt_bench.datasets.image_dataset import SAMPLE, load_dataset

    dataset = load_dataset(SAMPLE)
    program = dataset.program()
    z, test_z = (
        program.encode(images.x)[0].astype(np.float16).astype(np.float32)
        for images in (dataset.training, dataset.test)
    )
    y, test_y = dataset.training.y, dataset.test.y
    return Pool(
        "fashion",
        z,
        y,
        test_z,
        test_y,
        dataset.training.classes,
        np.zeros_like(y),
        np.zeros_like(test_y),
        "the shipped sample, the shipped encoder",
    )
