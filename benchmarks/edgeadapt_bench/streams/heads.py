"""Ridge on Fashion-MNIST in five tasks of two classes, with EfficientNet-Lite0 features at 64 px,
beside what a user could pick instead.

The head is the method that ships (``host.methods.heads.ridge``) with the numeric that derives its
weights on a device; it sees each image once, class after class. The penalty is chosen on a
validation part of the training images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.linalg import NUMERICS
from edgeadapt_bench.datasets.lite0_features import Features, lite0_features
from edgeadapt_bench.harness.measure import Row, Say, at_most, near

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
CLASSES, TASK = 10, 2
# percent: what streaming ridge reached on these features before it was written here
ACCURACY, TOLERANCE = 86.4, 0.5
# of the largest weight; sums of 60,000 float32 rows differ in the last digits
ORDER_TOLERANCE = 1e-3
# of the mean diagonal; the largest of equals is taken
PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
EPOCHS = 6
_HELD_OUT = 0.15
_BATCH = 250


def stream_in(method: Any, z: F32, y: I64, order: Sequence[int]) -> dict[str, F32]:
    """Evidence of a head after it has met the classes task by task, in batches of one task, each
    image once.
    """
    import torch

    from edgeadapt.host.contracts import Dims

    dims = Dims(z.shape[1], 0, CLASSES)
    state = {
        spec.name: torch.zeros(spec.shape)
        for spec in method.tensors(dims)
        if spec.kind == "evidence"
    }
    for start in range(0, len(order), TASK):
        rows = np.flatnonzero(np.isin(y, order[start : start + TASK]))
        for i in range(0, len(rows), _BATCH):
            part = rows[i : i + _BATCH]
            state |= method.learn(
                state,
                torch.from_numpy(z[part]),
                torch.zeros(len(part), 0),
                torch.from_numpy(y[part]),
                torch.ones(len(part)),
            )
    return {name: value.numpy() for name, value in state.items()}


def derive(method: Any, evidence: dict[str, F32], **arguments: float) -> F32:
    """(D + 1, K) weights by the numeric that a device runs."""
    numeric = method.numerics()[0]
    return NUMERICS[numeric.numeric](
        *(evidence[name] for name in numeric.reads), **{**numeric.arguments, **arguments}
    )[0]


def percent(weight: F32, z: F32, y: I64) -> float:
    return 100.0 * float((z_logits(weight, z).argmax(axis=1) == y).mean())


def linear_probe(z: F32, y: I64, rate: float, seed: int = 0) -> F32:
    """(D + 1, K) weights of a softmax classifier trained on all classes at once, features scaled to
    unit variance.
    """
    import torch

    torch.manual_seed(seed)
    scale = 1.0 / float(z.std())
    inputs, labels = torch.from_numpy(z), torch.from_numpy(y)
    linear = torch.nn.Linear(z.shape[1], CLASSES)
    optimiser = torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9)
    batches = EPOCHS * -(-len(y) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(128):
            loss = torch.nn.functional.cross_entropy(linear(inputs[rows] * scale), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    weight, bias = linear.weight.detach().numpy().T * scale, linear.bias.detach().numpy()
    return np.vstack([weight, bias]).astype(np.float32)


def run_heads(data: str | None, say: Say) -> list[Row]:
    """Final accuracy over ten classes after five tasks, and how far two class orders lie apart."""
    features = lite0_features(data, say)  # first: it names what is not installed
    from edgeadapt.host.methods.heads.nearest_mean import NearestMean
    from edgeadapt.host.methods.heads.ridge import Ridge

    return compare(features, Ridge(), NearestMean(), say)


def compare(
    features: Features, ridge: Any, means: Any, say: Say, probe: Callable[..., F32] = linear_probe
) -> list[Row]:
    """Choose what there is to choose on validation rows, refit on all training rows, report on test
    rows.
    """
    rng = np.random.default_rng(0)
    z, y = features.z, features.y
    held = np.zeros(len(y), bool)
    for k in range(CLASSES):
        held[rng.permutation(np.flatnonzero(y == k))[: int(_HELD_OUT * np.sum(y == k))]] = True
    order = list(range(CLASSES))
    say("heads: ridge, penalty chosen on validation")
    fitted = stream_in(ridge, z[~held], y[~held], order)
    marks = {
        penalty: percent(derive(ridge, fitted, penalty=penalty), z[held], y[held])
        for penalty in PENALTIES
    }
    penalty = max(marks, key=lambda p: marks[p])
    say(f"heads: penalty {penalty:g} ({marks[penalty]:.1f}% on validation)")
    weight = derive(ridge, stream_in(ridge, z, y, order), penalty=penalty)
    other = derive(
        ridge, stream_in(ridge, z, y, [int(k) for k in rng.permutation(CLASSES)]), penalty=penalty
    )
    changed = (
        z_logits(weight, features.test_z).argmax(axis=1)
        != z_logits(other, features.test_z).argmax(axis=1)
    ).mean()
    say("heads: joint linear probe, rate chosen on validation")
    rate = max(RATES, key=lambda r: percent(probe(z[~held], y[~held], r), z[held], y[held]))
    nearest = percent(
        derive(means, stream_in(means, z, y, order)), features.test_z, features.test_y
    )
    joint = percent(probe(z, y, rate), features.test_z, features.test_y)
    say(f"heads: rate {rate:g}")
    return [
        near(
            "ridge/fashion_5x2",
            percent(weight, features.test_z, features.test_y),
            "%",
            ACCURACY,
            TOLERANCE,
            joint,
        ),
        at_most(
            "ridge/order_difference",
            float(np.abs(weight - other).max() / np.abs(weight).max()),
            "of largest weight",
            ORDER_TOLERANCE,
        ),
        Row("ridge/order_changed_answers", 100.0 * float(changed), "%"),
        Row("ridge/penalty", penalty, "of mean diagonal"),
        Row("nearest_mean/fashion_5x2", nearest, "%", joint),
        Row("joint_linear_probe/fashion", joint, "%"),
    ]


def z_logits(weight: F32, z: F32) -> F32:
    logits: F32 = z @ weight[:-1] + weight[-1]
    return logits
