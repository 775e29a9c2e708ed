"""What ``bench serve`` runs on: a bundle that adapts, its encoder alone as one ONNX file, and
frames of images that it was not calibrated on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.runtime import open_runtime
from edgeadapt_bench.datasets.lite0 import LITE0_TAPS, lite0, upscaled
from edgeadapt_bench.datasets.lite0_features import export_plain
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.serving.frame_sequence import write_frames
from edgeadapt_bench.serving.overhead import plain_from_bundle

if TYPE_CHECKING:
    from torch import nn

PIXELS = 96
_CALIBRATION, _SHOWN = 60, 40  # images of each class


@dataclass(frozen=True)
class ModelFiles:
    """Paths, and a name that says which encoder ran."""

    name: str
    bundle: Path
    encoder: Path
    frames: Path


def shipped(folder: Path) -> ModelFiles:
    """The bundle that ships, at 28 px, and images of the six classes that it knows."""
    sample = load_sample()
    rows = sample.rows(KNOWN, np.random.default_rng(0))[: _SHOWN * len(KNOWN)]
    bundle = read_bundle(bundle_path())
    found = ModelFiles(
        "shipped_28px", bundle_path(), folder / "encoder.onnx", folder / "frames.npz"
    )
    plain_from_bundle(bundle, found.encoder)
    write_frames(found.frames, sample.x[rows], sample.y[rows], CLASSES, _head(bundle))
    return found


def at_96_px(folder: Path, say: Say) -> ModelFiles:
    """EfficientNet-Lite0 with ImageNet weights, or where its packages are not installed
    torchvision's MobileNetV2 without training.

    It is exported on the spot with ten classes of the shipped images, enlarged, and made to act:
    without its stress streams, which take minutes, a card only lets it advise.
    """
    from edgeadapt.host import export
    from edgeadapt_bench.shift.shift_dataset import acting

    name, module, taps = _encoder(say)
    sample = load_sample()
    by_class = [np.flatnonzero(sample.y == slot) for slot in range(len(CLASSES))]
    calibration = np.concatenate([rows[:_CALIBRATION] for rows in by_class])
    shown = np.concatenate([rows[_CALIBRATION : _CALIBRATION + _SHOWN] for rows in by_class])
    given = (upscaled(sample.x[calibration], PIXELS), sample.y[calibration])
    if taps is None:
        _normalise(module, given[0])
    made = export(
        folder / "advising.edge",
        module,
        given,
        CLASSES,
        name=f"serve-{name}",
        stress=False,
        novelty="cosine",
        taps=taps,
        progress=lambda line: say(f"serve: {line}"),
    )
    bundle = acting(made)
    found = ModelFiles(
        f"{name}_{PIXELS}px", bundle.path, folder / "encoder.onnx", folder / "frames.npz"
    )
    export_plain(module, found.encoder, PIXELS)
    write_frames(
        found.frames, upscaled(sample.x[shown], PIXELS), sample.y[shown], CLASSES, _head(bundle)
    )
    return found


def _head(bundle: Bundle) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight (D, K) and bias (K,) of the classes that the factory knows."""
    program = Program(bundle, open_runtime())
    held = program.runtime.download(program.factory(), ("head.weight", "head.active"))
    weight = held["head.weight"][:, held["head.active"] > 0]
    return weight[:-1], weight[-1]


def _encoder(say: Say) -> tuple[str, nn.Module, tuple[str, ...] | None]:
    try:
        return "lite0", lite0(), LITE0_TAPS
    except RuntimeUnavailable as error:
        say(f"serve: {error}; MobileNetV2 of torchvision, not trained, takes its place")
    return "mobilenet_v2_untrained", _mobilenet(), None


def _mobilenet() -> nn.Module:
    """Float RGB images 0..255 -> (B, 1280); weights by a fixed seed."""
    import torch
    from torchvision.models import mobilenet_v2

    class MobileNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = mobilenet_v2(weights=None).features

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.network((x - 127.0) / 128.0).mean(dim=(2, 3))
            return features

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MobileNet().eval().requires_grad_(False)


def _normalise(module: nn.Module, x: NDArray[np.uint8]) -> None:
    """Give the batch-norms of an untrained network the statistics of these images (N, H, W, 3)."""
    import torch

    norms = [one for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.train().reset_running_stats()
    with torch.no_grad():
        module(torch.from_numpy(x).permute(0, 3, 1, 2).float())
    module.eval()
