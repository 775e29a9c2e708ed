"""Ridge on Fashion-MNIST in five tasks of two classes, with EfficientNet-Lite0 features at 64 px,
beside what a user could pick instead.

The head is the method that ships (``host.methods.ridge``) with the numeric that derives its weights
on a device; it sees each image once, class after class. The penalty is chosen on a validation part
of the training images.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.linalg import NUMERICS
from edgeadapt_bench.datasets.lite0 import lite0, upscaled
from edgeadapt_bench.harness.measure import Row, Say, at_most, near

if TYPE_CHECKING:
    import onnxruntime
    from torch import Tensor, nn

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
PIXELS, CLASSES, TASK = 64, 10, 2
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


def export_plain(module: nn.Module, path: Path, pixels: int) -> None:
    """The module as one ONNX file with the batch-norms folded: ``x`` (B, pixels, pixels, 3) uint8
    -> ``z`` (B, D).
    """
    import torch

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.module(x.permute(0, 3, 1, 2).to(torch.float32))
            return z

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            FromPixels().eval(),
            (torch.zeros(1, pixels, pixels, 3, dtype=torch.uint8),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["z"],
            dynamic_axes={"x": {0: "batch"}, "z": {0: "batch"}},
        )


def plain_session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """ONNX Runtime with the options of our runtime: no spinning, denormals are zero."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, eq=False)
class Features:
    """Features as evidence is stored, rounded to float16: training and test."""

    z: F32
    y: I64
    test_z: F32
    test_y: I64


def lite0_features(data: str | None, say: Say, cache: Path | None = None) -> Features:
    """Lite0 features of all of Fashion-MNIST at 64 px; kept in a cache folder under the hash of
    model and images.
    """
    from edgeadapt.host.data.images import load_fashion_mnist
    from edgeadapt_bench.downloads.fetch import place_of

    x, y, test_x, test_y = load_fashion_mnist(data if data is not None else place_of("fashion"))
    folder = cache or Path(tempfile.gettempdir()) / f"edgeadapt-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "lite0.onnx"
        export_plain(lite0(), model, PIXELS)
        key = hashlib.sha256(model.read_bytes() + x.tobytes() + test_x.tobytes()).hexdigest()[:16]
        path = folder / f"lite0-{PIXELS}-{key}.npz"
        if not path.is_file():
            session = plain_session(model, threads=os.cpu_count() or 1)
            say(f"heads: features of {len(x) + len(test_x):,} images at {PIXELS} px, a few minutes")
            z, test_z = (
                [
                    session.run(None, {"x": upscaled(part[i : i + _BATCH], PIXELS)})[0].astype(
                        np.float16
                    )
                    for i in range(0, len(part), _BATCH)
                ]
                for part in (x, test_x)
            )
            np.savez(path, z=np.concatenate(z), test_z=np.concatenate(test_z))
    with np.load(path, allow_pickle=False) as kept:
        return Features(kept["z"].astype(np.float32), y, kept["test_z"].astype(np.float32), test_y)


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
    from edgeadapt.host.methods.nearest_mean import NearestMean
    from edgeadapt.host.methods.ridge import Ridge

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
