"""EfficientNet-Lite0 at 48 px meets Fashion-MNIST: 50 images a class are learned, 2,000 are judged,
and digits must not be lost. Its twin are digits. The budget is that of rank 2 at every site.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from torch import nn

from edgeadapt.host.data.images import ImageData, fashion_mnist
from edgeadapt.host.encoders.networks import build_network
from edgeadapt_bench.datasets.lite0 import upscaled
from edgeadapt_bench.downloads.folder import load
from edgeadapt_bench.tuning.tasks.task import Task

PIXELS, IMAGES_PER_CLASS, JUDGED, CONTROLLED = 48, 50, 2000, 1000


def clothes(seed: int, is_twin: bool) -> Iterator[Task]:
    """Clothes, or as a twin digits.

    Raises:
        InputError: the data are not here.
        RuntimeUnavailable: the network's packages are not installed.
    """
    rng = np.random.default_rng([seed, 8, int(is_twin)])
    if is_twin:
        kept = load("mnist")
        x, y = kept["x"].reshape(-1, 28, 28), kept["y"].astype(np.int64)
        order = rng.permutation(len(x))
        pools = (x[order[:5000]], y[order[:5000]]), (x[order[5000:]], y[order[5000:]])
        names = tuple(map(str, range(10)))
    else:
        training, testing = fashion_mnist(None)
        pools, names = ((training.x, training.y), (testing.x, testing.y)), training.classes
    (x, y), (tx, ty) = pools
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(y == k))[:IMAGES_PER_CLASS] for k in range(10)]
    )
    judged = np.random.default_rng(3).permutation(len(tx))[:JUDGED]
    yield Task(
        "clothes/digits" if is_twin else "clothes/fashion",
        _lite0,
        ImageData(upscaled(x[rows], PIXELS), y[rows], names),
        ImageData(upscaled(tx[judged], PIXELS), ty[judged], names),
        None if is_twin else _digits(),
        bytes=92_000,
        epochs=13,
    )


@cache
def _digits() -> ImageData:
    kept = load("mnist")
    rows = np.random.default_rng(4).permutation(len(kept["x"]))[:CONTROLLED]
    x, y = kept["x"].reshape(-1, 28, 28)[rows], kept["y"][rows].astype(np.int64)
    return ImageData(upscaled(x, PIXELS), y, tuple(map(str, range(10))))


@cache
def _lite0() -> nn.Module:
    options = {"pretrained": True, "image_size": PIXELS}
    return build_network("efficientnet-lite0", 10, 3, seed=0, **options).eval()


__all__ = ["clothes"]
