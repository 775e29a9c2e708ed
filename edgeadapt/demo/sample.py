"""The images that ship with the demo: a sample of Fashion-MNIST's test set (MIT, licence beside
it).
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KNOWN = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal")
NEW = ("Shirt", "Sneaker", "Bag", "Ankle boot")
CLASSES = (*KNOWN, *NEW)


@dataclass(frozen=True, eq=False)
class Sample:
    """x (N, 28, 28) uint8; y (N,) int64 into ``CLASSES``, the six known classes first."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]

    def rows(self, classes: tuple[str, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        """Shuffled rows of some classes."""
        slots = [CLASSES.index(name) for name in classes]
        return rng.permutation(np.flatnonzero(np.isin(self.y, slots)))


def data_file(name: str) -> Traversable:
    """A file of the demo's package data."""
    return files("edgeadapt.demo") / "data" / name


def bundle_path() -> Path:
    """The prebuilt bundle inside the installed package."""
    return Path(str(data_file("fashion.edge")))


def load_sample() -> Sample:
    """Read the shipped images."""
    head, _, body = data_file("sample.bin").read_bytes().partition(b"\n")
    count = int(json.loads(head)["count"])
    plain = np.frombuffer(lzma.decompress(body), np.uint8)
    return Sample(plain[count:].reshape(count, 28, 28).copy(), plain[:count].astype(np.int64))


def pack_sample(x: NDArray[np.uint8], y: NDArray[np.int64]) -> bytes:
    """The inverse of ``load_sample``: one line of JSON, then labels and pixels compressed together,
    smaller than single PNGs.
    """
    head = json.dumps(
        {"count": len(x), "from": "Fashion-MNIST test set", "licence": "MIT"}
    ).encode()
    return (
        head
        + b"\n"
        + lzma.compress(y.astype(np.uint8).tobytes() + x.tobytes(), preset=9 | lzma.PRESET_EXTREME)
    )
