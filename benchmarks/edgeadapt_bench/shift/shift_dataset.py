"""What ``bench shift`` runs on: an encoder as a torch module and as a bundle, test images, and a
pool for tuning that is no test image.

Ours is trained and exported once and kept in the bench's cache folder, under a hash of everything
it depends on. The small form takes the bundle that ships: its encoder is put together again from
the bundle's constants, so it needs neither training nor the data package.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

import edgeadapt
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, read_bundle, write_bundle
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import InputError
from edgeadapt.host import export
from edgeadapt.host.data.images import ImageData, fashion_mnist
from edgeadapt.runtime import open_runtime
from edgeadapt_bench.datasets.cache import cache_folder
from edgeadapt_bench.datasets.image_dataset import SAMPLE, Say
from edgeadapt_bench.datasets.lite0 import lite0, upscaled
from edgeadapt_bench.downloads.fetch import place_of
from edgeadapt_bench.shift.shift_encoders import HELD_OUT, SEED, Features, Lite0, rebuilt, trained

LITE0_PIXELS, LITE0_PER_CLASS, LITE0_TEST = 64, 200, 4000
F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """The bundle's read-out: weight (D, K), bias (K,), and the sharpness (1 / temperature) that
    makes probabilities of its logits.
    """

    weight: F32
    bias: F32
    sharpness: float

    def logits(self, z: F32) -> F32:
        """(N, D) -> (N, K), sharpened."""
        result: F32 = (z @ self.weight + self.bias) * np.float32(self.sharpness)
        return result


@dataclass(frozen=True, eq=False)
class Basis:
    """What a published method is made from: the encoder as a module, the names of its last stage,
    the head, and unlabelled source images.

    ``tuning_z`` are the images' features under the factory encoder.
    """

    encoder: nn.Module
    top: tuple[str, ...]
    head: LinearHead
    tuning_x: NDArray[np.uint8]
    tuning_z: F32


@dataclass(frozen=True, eq=False)
class ShiftDataset:
    """One encoder and its images.

    Attributes:
        encoder: float (B, C, H, W) in [0, 255] -> (B, D); its batch-norms are ``nn.BatchNorm2d``.
        top: how the names of its last stage begin.
        test: for what is reported.
        tuning: held out of training, for choices and for the source's statistics.
    """

    name: str
    encoder: nn.Module
    top: tuple[str, ...]
    bundle: Bundle
    test: ImageData
    tuning: ImageData
    source: str

    @cached_property
    def program(self) -> Program:
        return Program(self.bundle, open_runtime())

    @cached_property
    def acting(self) -> Bundle:
        """The bundle if its card lets it act, else a copy that is made to."""
        return (
            self.bundle if self.bundle.manifest.policy.adapt.mode == "act" else acting(self.bundle)
        )

    @cached_property
    def head(self) -> LinearHead:
        held = self.program.runtime.download(self.program.factory(), ("head.weight", "head.active"))
        weight, active = held["head.weight"], held["head.active"] > 0
        return LinearHead(
            weight[:-1, active],
            weight[-1, active],
            1.0 / self.bundle.manifest.policy.learn.temperature,
        )

    @cached_property
    def basis(self) -> Basis:
        return Basis(
            self.encoder, self.top, self.head, self.tuning.x, self.program.encode(self.tuning.x)[0]
        )

    def card(self) -> str:
        """What the bundle's stress card lets adaptation do, in a line."""
        adapt = self.bundle.manifest.policy.adapt
        return (
            f"{self.name}: {adapt.method}, adapt = {adapt.mode}:"
            f" {adapt.reason or 'no reason given'}"
        )


def ours(data: str | None, say: Say, *, quick: bool = False, stress: bool = True) -> ShiftDataset:
    """The small residual network on ten classes of Fashion-MNIST, or with ``quick`` the six-class
    bundle that ships on the images that ship.

    ``stress``: earn the card; without, it only advises.
    """
    if quick or data == SAMPLE:
        return _shipped()
    training, test = fashion_mnist(data if data is not None else _place())
    fit, held = training.split(HELD_OUT, SEED)
    encoder = trained(fit, held, say)
    bundle = _exported(
        "small-residual", encoder, held, say, name="shift-ten", stress="long" if stress else False
    )
    return ShiftDataset(
        "small-residual",
        Features(encoder),
        ("network.network.block3",),
        bundle,
        test,
        held,
        "10,000 test images of Fashion-MNIST",
    )


def foreign(data: str | None, say: Say) -> ShiftDataset:
    """EfficientNet-Lite0 with ImageNet weights at 64 px, frozen, with a head of our calibration
    images.

    Raises:
        RuntimeUnavailable: its packages are not installed.
    """
    module = Lite0(lite0().network)  # first: it says what is missing
    training, test = fashion_mnist(data if data is not None else _place())
    held = training.split(HELD_OUT, SEED)[1]
    rows = np.concatenate(
        [np.flatnonzero(held.y == k)[:LITE0_PER_CLASS] for k in range(len(held.classes))]
    )
    tuning, test = (
        ImageData(upscaled(part.x, LITE0_PIXELS), part.y, part.classes)
        for part in (held.take(rows), test.take(np.arange(LITE0_TEST)))
    )
    bundle = _exported("lite0", module, tuning, say, name="shift-lite0")
    return ShiftDataset(
        "lite0",
        module,
        (
            "network._blocks.11",
            "network._blocks.12",
            "network._blocks.13",
            "network._blocks.14",
            "network._blocks.15",
            "network._bn1",
        ),
        bundle,
        test,
        tuning,
        f"the first {LITE0_TEST:,} test images of Fashion-MNIST at {LITE0_PIXELS} px",
    )


def with_method(
    dataset: ShiftDataset, method: str, say: Say, *, smooth: str = "none"
) -> ShiftDataset:
    """The same encoder with another label-free method, which acts whatever a stress card would say;
    ``smooth``: see ``host.settings``.

    Raises:
        EdgeadaptError: the method cannot be exported for this encoder.
    """
    encoder = dataset.encoder.network if isinstance(dataset.encoder, Features) else dataset.encoder
    bundle = _exported(
        f"{dataset.name}-{method}",
        encoder,
        dataset.tuning,
        say,
        name=f"shift-{method}",
        adapt=method,
        smooth=smooth,
        novelty="cosine",
        stress=False,
    )
    return ShiftDataset(
        dataset.name,
        dataset.encoder,
        dataset.top,
        acting(bundle),
        dataset.test,
        dataset.tuning,
        dataset.source,
    )


def acting(bundle: Bundle) -> Bundle:
    """The bundle with adaptation set to act: a copy in the cache folder."""
    path = cache_folder() / f"{bundle.path.stem}-{bundle.sha256[:16]}.act.edge"
    policy = bundle.manifest.policy
    adapt = msgspec.structs.replace(policy.adapt, mode="act", reason="made to act for a comparison")
    manifest = msgspec.structs.replace(
        bundle.manifest, policy=msgspec.structs.replace(policy, adapt=adapt)
    )
    weights = {
        member: bundle.weights(member)
        for member in (FROZEN, FACTORY, GUARD)
        if member in bundle.manifest.members
    }
    return write_bundle(
        path,
        manifest,
        {graph.file: bundle.graph(graph.file) for graph in manifest.graphs},
        weights,
        bundle.card,
    )


def _place() -> str:
    found = place_of("fashion")
    if found is None:
        raise InputError(
            "Fashion-MNIST is not installed: --data DIR with the four idx files, or --quick for the"
            " images that ship"
        )
    return os.fspath(found)


def _exported(file: str, module: nn.Module, held: ImageData, say: Say, **settings: Any) -> Bundle:
    """A bundle of it, exported again whenever the encoder, the images or a source file that matters
    has changed: the card is of this very code.
    """
    weights = b"".join(
        value.detach().cpu().numpy().tobytes() for value in module.state_dict().values()
    )
    sources = _sources("host", "bundle", "device", "scenarios")
    key = hashlib.sha256(
        repr((held.fingerprint(), sorted(settings.items()))).encode() + weights + sources
    ).hexdigest()[:16]
    path = cache_folder() / f"shift-{file}-{key}.edge"
    if not path.is_file():
        _forget_old(file)
        say(
            f"shift: exporting {file}"
            + ("" if settings.get("stress") is False else " with its stress card, minutes")
        )
        export(path, module, (held.x, held.y), held.classes, progress=say, **settings)
    return read_bundle(path)


def _forget_old(file: str) -> None:
    """Bundles of other sources pile up; those of the last day may be in use."""
    for path in cache_folder().glob(f"shift-{file}-*.edge"):
        if (
            re.fullmatch(
                rf"shift-{re.escape(file)}-[0-9a-f]{{16}}(-[0-9a-f]{{16}}\.act)?\.edge", path.name
            )
            and time.time() - path.stat().st_mtime > 86400
        ):
            path.unlink(missing_ok=True)


def _shipped() -> ShiftDataset:
    sample = load_sample()
    tuning, test = ImageData(sample.x, sample.y, CLASSES).only(KNOWN).split(0.6, SEED)
    bundle = read_bundle(bundle_path())
    return ShiftDataset(
        "small-residual",
        Features(rebuilt(bundle)),
        ("network.network.block3",),
        bundle,
        test,
        tuning,
        "the shipped sample of test images, six classes",
    )


def _sources(*names: str) -> bytes:
    root = Path(edgeadapt.__file__).parent
    digest = hashlib.sha256()
    for name in names:
        for path in (
            sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]
        ):
            digest.update(path.read_bytes())
    return digest.digest()
