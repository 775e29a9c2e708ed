"""Feature vectors in classes: a bundle without an encoder, exported on the spot, and synthetic
classes around what a bundle knows.

A class is a centre with noise, a condition is an offset that every vector of it shares. What is
drawn follows from the bundle, the seed and the order of the calls alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD, Bundle
from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
PER_CLASS = 20  # calibration vectors
# length of a centre, and standard deviation of the noise per dimension, in 64 dimensions
_APART, _SPREAD = 6.0, 0.5
_SHIFT = 6.0  # length of a condition's offset, in noise norms per square root of the dimension


def class_names(count: int) -> list[str]:
    return [f"class {slot:04d}" for slot in range(count)]


def vector_bundle(path: Path, dim: int, classes: int, class_slots: int, seed: int = 0) -> Path:
    """Export a bundle for vectors of ``dim`` values with ``classes`` factory classes; ten seconds,
    whatever the size.

    Raises:
        InputError: the host extra is not installed.
    """
    try:
        from edgeadapt.host import Identity, export
    except ImportError as error:
        raise InputError(
            f"the vector bundle is exported in the run, which needs the host extra ({error}): pip"
            " install 'edgeadapt[host]'"
        ) from error
    rng = np.random.default_rng([seed, dim])
    y = np.repeat(np.arange(classes), PER_CLASS)
    scale = np.sqrt(64 / dim)  # the same distances in any dimension
    x = rng.standard_normal((classes, dim)) * (_APART / 8 * scale)
    x = x[y] + rng.standard_normal((len(y), dim)) * (_SPREAD * scale)
    export(
        path,
        Identity(dim),
        calibration=(x.astype(np.float32), y),
        classes=class_names(classes),
        class_slots=class_slots,
        random_features=0,
        name=f"vectors-{dim}",
        stress=False,
    )
    return path


@dataclass(frozen=True, eq=False)
class Crowd:
    """Classes of feature vectors, the bundle's own first.

    Attributes:
        names: class names by slot.
        z: (K, D) centres.
        taps: (K, T) centres of early features; T may be 0.
        spread: (D + T,) standard deviation within a class.
    """

    names: list[str]
    z: F32
    taps: F32
    spread: F32

    @classmethod
    def of(cls, bundle: Bundle, count: int, seed: int = 0) -> Crowd:
        """``count`` classes: the factory's where its guard samples are, the others drawn like them.

        Raises:
            InputError: the bundle carries no guard samples.
        """
        if not any(member == GUARD for member in bundle.manifest.members):
            raise InputError(
                f"bundle {bundle.manifest.name!r} carries no guard samples, so nothing says what"
                " its classes look like"
            )
        values = bundle.weights(GUARD)
        kept = np.asarray(values["z"], np.float32)
        if "taps" in values:
            kept = np.concatenate([kept, np.asarray(values["taps"], np.float32)], axis=1)
        y = values["y"].astype(np.int64)
        known = len(bundle.manifest.classes)
        centres = np.stack([kept[y == slot].mean(axis=0) for slot in range(known)])
        spread = (kept - centres[y]).std(axis=0)
        rng = np.random.default_rng([seed, count])
        fresh = centres.mean(axis=0) + rng.standard_normal(
            (max(0, count - known), kept.shape[1])
        ) * centres.std(axis=0)
        centres = np.concatenate([centres, fresh])[:count].astype(np.float32)
        names = [*bundle.manifest.classes, *class_names(count)[known:]][:count]
        dim = bundle.manifest.feature_dim
        return cls(names, centres[:, :dim], centres[:, dim:], spread.astype(np.float32))

    def draw(
        self, slots: NDArray[np.int64], rng: np.random.Generator, offset: F32 | None = None
    ) -> dict[str, F32]:
        """Vectors of these classes, as ``features=`` of a learner; ``offset`` (D,) is the
        condition's.
        """
        dim = self.z.shape[1]
        noise = rng.standard_normal((len(slots), len(self.spread)), dtype=np.float32) * self.spread
        z = self.z[slots] + noise[:, :dim]
        if offset is not None:
            z += offset
        taps = self.taps[slots] + noise[:, dim:]
        return {"z": z, "taps": taps} if taps.shape[1] else {"z": z}

    def offset(self, condition: int) -> F32:
        """(D,) what the numbered condition adds to every vector."""
        dim = self.z.shape[1]
        direction = np.random.default_rng([condition, 77]).standard_normal(dim).astype(np.float32)
        return (
            direction
            * (_SHIFT / np.sqrt(dim))
            * np.float32(np.linalg.norm(self.spread[:dim]) / np.sqrt(dim))
        )

    def labels(self, slots: NDArray[np.int64]) -> list[str]:
        return [self.names[slot] for slot in slots]
