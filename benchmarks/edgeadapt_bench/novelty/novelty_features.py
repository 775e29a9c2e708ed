"""What the novelty suite scores: features and taps of known and novel samples, clean, far and under
shift.

Lite0 features carry the 128 tap columns that a bundle of Lite0 has: four feature maps, averaged,
through the fixed orthonormal projection of ``host.module_encoder``. They are kept in the bench's
cache folder under the hash of model and images.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt_bench.datasets.cache import cache_folder
from edgeadapt_bench.datasets.lite0 import LITE0_TAPS, lite0, upscaled
from edgeadapt_bench.datasets.lite0_features import plain_session
from edgeadapt_bench.harness.measure import Say

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
PIXELS = 64
_BATCH = 250


@dataclass(frozen=True, eq=False)
class Seen:
    """Samples as an encoder sees them: z (N, D), taps (N, T), y (N,) class slots, -1 where there is
    none.
    """

    z: F32
    taps: F32
    y: I64

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, chosen: NDArray[Any]) -> Seen:
        return Seen(self.z[chosen], self.taps[chosen], self.y[chosen])

    def of(self, classes: I64) -> Seen:
        """The rows of some classes, relabelled in the order given."""
        slots = np.full(int(max(self.y.max(), classes.max())) + 1, -1, np.int64)
        slots[classes] = np.arange(len(classes))
        chosen = slots[self.y] >= 0
        return Seen(self.z[chosen], self.taps[chosen], slots[self.y[chosen]])


@dataclass(frozen=True, eq=False)
class Case:
    """One class split: what the factory has, what is known and what is not.

    Attributes:
        evidence, judge: factory samples of the known classes, and those that set thresholds and
            choose the score.
        known: reported samples of the known classes.
        others: name -> samples that are to score above ``known``.
        shifted: name -> known samples under a condition, to be compared with others["novel"].
        unseen: inputs that no training showed, for the exporter's second mark.
    """

    evidence: Seen
    judge: Seen
    known: Seen
    others: dict[str, Seen]
    shifted: dict[str, Seen]
    unseen: Seen | None = None


class Lite0WithTaps:
    """EfficientNet-Lite0 with pooled taps, images in, cached ``Seen`` out."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._folder = cache_folder()
        self._scratch = tempfile.TemporaryDirectory(prefix="edgeadapt-novelty-")
        self._model = Path(self._scratch.name) / "lite0-taps.onnx"
        _export_with_taps(self._model)
        self._key = hashlib.sha256(self._model.read_bytes()).digest()

    def see(self, name: str, x: NDArray[np.uint8], y: I64) -> Seen:
        """(N, 28, 28) or (N, 64, 64, 3) images, features rounded to float16 as evidence is."""
        key = hashlib.sha256(self._key + np.ascontiguousarray(x).tobytes()).hexdigest()[:16]
        path = self._folder / f"lite0-taps-{PIXELS}-{key}.npz"
        if not path.is_file():
            session = plain_session(self._model, threads=os.cpu_count() or 1)
            self._say(f"novelty: features and taps of {len(x):,} images ({name}) at {PIXELS} px")
            parts = [x[i : i + _BATCH] for i in range(0, len(x), _BATCH)]
            runs = [
                session.run(None, {"x": upscaled(part, PIXELS) if part.ndim == 3 else part})
                for part in parts
            ]
            z, taps = (np.concatenate([run[i] for run in runs]).astype(np.float16) for i in (0, 1))
            np.savez(path, z=z, taps=taps)
        with np.load(path, allow_pickle=False) as kept:
            return Seen(
                kept["z"].astype(np.float32),
                kept["taps"].astype(np.float32),
                np.asarray(y, np.int64),
            )


def _export_with_taps(path: Path) -> None:
    """``x`` (B, 64, 64, 3) uint8 -> ``z`` (B, 1280), ``taps`` (B, 128)."""
    import torch
    from torch import Tensor

    from edgeadapt.host.encoders.base import TAP_LIMIT

    network = lite0()

    class WithTaps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.maps = network, {}
            for tap in LITE0_TAPS:
                network.get_submodule(tap).register_forward_hook(
                    lambda _module, _inputs, out, tap=tap: self.maps.__setitem__(
                        tap, out.mean(dim=(2, 3))
                    )
                )
            with torch.no_grad():
                network(torch.zeros(1, 3, PIXELS, PIXELS))
            width = sum(self.maps[tap].shape[1] for tap in LITE0_TAPS)
            generator = torch.Generator().manual_seed(0)
            # as host.module_encoder draws it
            self.projection = torch.linalg.qr(torch.randn(width, TAP_LIMIT, generator=generator))[0]

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = self.module(x.permute(0, 3, 1, 2).to(torch.float32))
            return z, torch.cat([self.maps[tap] for tap in LITE0_TAPS], dim=1) @ self.projection

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            WithTaps().eval(),
            (torch.zeros(1, PIXELS, PIXELS, 3, dtype=torch.uint8),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["z", "taps"],
            dynamic_axes={name: {0: "batch"} for name in ("x", "z", "taps")},
        )


def per_class(y: I64, count: int, seed: int) -> I64:
    """Rows: ``count`` of each class, or all where there are fewer, shuffled."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(y == k))[:count] for k in np.unique(y)])
