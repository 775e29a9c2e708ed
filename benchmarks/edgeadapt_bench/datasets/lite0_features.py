"""EfficientNet-Lite0 features of Fashion-MNIST, and any module as a plain ONNX file in a plain
session: no bundle, no runtime of ours.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeadapt_bench.datasets.cache import cache_folder
from edgeadapt_bench.datasets.lite0 import lite0, upscaled
from edgeadapt_bench.harness.measure import Say

if TYPE_CHECKING:
    import onnxruntime
    from torch import Tensor, nn

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
PIXELS = 64
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


def plain_session(path: str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
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
    folder = cache or cache_folder()
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
