"""Conditions an adaptor can be trained on: a source, its frozen ridge head, and labelled features
of another condition of the same classes.

Reported: four corruptions under the encoder that ships and under EfficientNet-Lite0, emoji in two
other styles, smartwatch subjects the head has not met. For choosing settings, never reported: the
``TUNING`` corruptions on training images, line-art emoji, one other subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.host.contracts import Dims, FactoryData, as_tensors, with_derived
from edgeadapt.host.exporting.cross_fitting import log_loss
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.scenarios.corruptions import TUNING, corrupt
from edgeadapt_bench.datasets.image_dataset import CONDITIONS, SAMPLE, SEVERITY, load_dataset
from edgeadapt_bench.datasets.pools import lite0_of, load_pool
from edgeadapt_bench.harness.measure import Say

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
FACTORY_COUNT = 25.0  # labels that all source samples of a class weigh, as in an exported bundle
LABELS_FROM = 0.4  # of the rows of a corruption; the rest is predicted
NARROW = 64  # features below which the head takes random ones
_TUNING_SEVERITIES = (SEVERITY, 5)  # the four are milder than those that are reported
_SOURCE, _HEAD_ROWS = 2000, 15000  # images of a corruption; source images of a head
# subjects 1 to 4 teach the head, subject 5 is for choosing
_SOURCE_SUBJECTS, _TUNING_SUBJECT = 4, 4


@dataclass(frozen=True, eq=False)
class Source:
    """A head and what taught it.

    Attributes:
        z, y, weight: its samples.
        test_z, test_y: samples of the source condition that taught nothing.
        head: the method.
        t: its tensors, derived ones included.
        scale: inverse temperature of its logits.
    """

    z: F32
    y: I64
    weight: F32
    test_z: F32
    test_y: I64
    slots: int
    head: Ridge
    t: dict[str, Tensor]
    scale: float

    @classmethod
    def of(cls, z: F32, y: I64, test_z: F32, test_y: I64) -> Source:
        """A third of the samples is left out once, to find the temperature."""
        slots = int(y.max()) + 1
        weight = (FACTORY_COUNT / np.bincount(y, minlength=slots)[y]).astype(np.float32)
        head = Ridge(random_features=512 if z.shape[1] < NARROW else 0)
        held = np.arange(len(y)) % 3 == 0
        part = fitted(head, z[~held], y[~held], weight[~held], slots)
        scale = (
            1.0 / log_loss(head.predict(part, torch.from_numpy(z[held])).numpy(), y[held], slots)[1]
        )
        return cls(
            z, y, weight, test_z, test_y, slots, head, fitted(head, z, y, weight, slots), scale
        )

    @property
    def dims(self) -> Dims:
        return Dims(self.z.shape[1], 0, self.slots)

    def taught(self, z: F32, y: I64) -> dict[str, Tensor]:
        """The head after it has learned some labels too."""
        features, labels = torch.from_numpy(z), torch.from_numpy(y)
        learned = self.head.learn(self.t, features, features[:, :0], labels, torch.ones(len(y)))
        return with_derived({**self.t, **learned}, self.head.numerics())

    def logits(self, z: F32, t: dict[str, Tensor] | None = None) -> F32:
        logits: F32 = self.head.predict(self.t if t is None else t, torch.from_numpy(z)).numpy()
        return logits


@dataclass(frozen=True, eq=False)
class Stream:
    """One condition: rows that may be labelled, and rows that are predicted."""

    name: str
    source: Source
    z: F32
    y: I64
    test_z: F32
    test_y: I64


def fitted(head: Ridge, z: F32, y: I64, weight: F32, slots: int) -> dict[str, Tensor]:
    """Tensors of a ridge head, derived ones included."""
    values = head.factory(FactoryData(z, np.zeros((len(z), 0), np.float32), y, weight, slots))
    return with_derived(as_tensors(values), head.numerics())


def shipped(
    data: str | None, say: Say, *, tuning: bool = False, count: int = _SOURCE
) -> Iterator[Stream]:
    """The encoder that ships, on its six known classes."""
    dataset = load_dataset(data)
    program = dataset.program()
    calibration = dataset.calibration
    rows = np.random.default_rng(0).permutation(len(calibration.x))
    mine, others = (rows[: len(rows) // 2], rows[len(rows) // 2 :]) if tuning else (rows, rows[:0])
    images = dataset.known()
    x, y = (calibration.x[others], calibration.y[others]) if tuning else (images.x, images.y)
    chosen = np.random.default_rng(1).permutation(len(y))[:count]
    source = Source.of(
        program.encode(calibration.x[mine])[0],
        calibration.y[mine],
        program.encode(x[chosen])[0],
        y[chosen],
    )
    for condition in TUNING if tuning else CONDITIONS:
        for severity in _TUNING_SEVERITIES if tuning else (SEVERITY,):
            say(f"search: {condition} at severity {severity}, the encoder that ships")
            z = program.encode(corrupt(x[chosen], condition, severity, 2))[0]
            yield _cut(
                f"shipped/{condition}" + (f"_{severity}" if tuning else ""), source, z, y[chosen]
            )


def lite0(data: str | None, say: Say, *, tuning: bool = False) -> Iterator[Stream]:
    """EfficientNet-Lite0 on all classes of Fashion-MNIST."""
    from edgeadapt.host.data.images import load_fashion_mnist
    from edgeadapt_bench.downloads.fetch import place_of

    pool = load_pool("fashion", data, say)
    x, y, test_x, test_y = load_fashion_mnist(data if data is not None else place_of("fashion"))
    rows = np.random.default_rng(3).permutation(len(y))
    chosen = (
        rows[_HEAD_ROWS : _HEAD_ROWS + _SOURCE]
        if tuning
        else np.random.default_rng(4).permutation(len(test_y))[:_SOURCE]
    )
    images, labels, clean = (
        (x[chosen], y[chosen], pool.z[chosen])
        if tuning
        else (test_x[chosen], test_y[chosen], pool.test_z[chosen])
    )
    source = Source.of(pool.z[rows[:_HEAD_ROWS]], y[rows[:_HEAD_ROWS]], clean, labels)
    for condition in TUNING if tuning else CONDITIONS:
        z = lite0_of(f"fashion-{condition}", corrupt(images, condition, SEVERITY, 2), say)
        yield _cut(f"lite0/{condition}", source, z, labels)


def emoji(data: str | None, say: Say, *, tuning: bool = False) -> Iterator[Stream]:
    """A head of one style, in others; for choosing only emoji of the training part."""
    pool = load_pool("emoji", data, say)
    if tuning:
        pool = pool.validation(0.4)
    rows, test_rows = pool.group == 0, pool.test_group == 0
    source = Source.of(pool.z[rows], pool.y[rows], pool.test_z[test_rows], pool.test_y[test_rows])
    for style in (3,) if tuning else (1, 2):
        rows, test_rows = pool.group == style, pool.test_group == style
        yield Stream(
            f"emoji/{pool.groups[style]}",
            source,
            pool.z[rows],
            pool.y[rows],
            pool.test_z[test_rows],
            pool.test_y[test_rows],
        )


def smartwatch(data: str | None, say: Say, *, tuning: bool = False) -> Iterator[Stream]:
    """A head of some subjects, on others. What is not in the pool for labels is predicted: windows
    do not overlap.
    """
    pool = load_pool("smartwatch", data, say)
    rows, test_rows = pool.group < _SOURCE_SUBJECTS, pool.test_group < _SOURCE_SUBJECTS
    source = Source.of(pool.z[rows], pool.y[rows], pool.test_z[test_rows], pool.test_y[test_rows])
    for subject in (_TUNING_SUBJECT,) if tuning else range(_TUNING_SUBJECT + 1, len(pool.groups)):
        mine, test = pool.group == subject, pool.test_group == subject
        z = np.concatenate([pool.z[mine], pool.test_z[test]])
        y = np.append(pool.y[mine], pool.test_y[test])
        yield _cut(
            f"smartwatch/{pool.groups[subject].replace(' ', '_')}",
            source,
            z,
            y,
            share=0.45,
            seed=subject,
        )


def quick() -> Iterator[Stream]:
    """Two conditions of the images that ship."""
    for stream in shipped(SAMPLE, lambda line: None, count=500):
        if stream.name.endswith(("fog", "contrast")):
            yield stream


FAMILIES: dict[str, Callable[..., Iterator[Stream]]] = {
    "shipped": shipped,
    "lite0": lite0,
    "emoji": emoji,
    "smartwatch": smartwatch,
}
"""``FAMILIES[name](data, say, tuning=False)``: conditions that share an encoder and a source
head.
"""


def _cut(
    name: str, source: Source, z: F32, y: I64, share: float = LABELS_FROM, seed: int = 5
) -> Stream:
    rows = np.random.default_rng(seed).permutation(len(y))
    cut = round(share * len(y))
    return Stream(name, source, z[rows[:cut]], y[rows[:cut]], z[rows[cut:]], y[rows[cut:]])
