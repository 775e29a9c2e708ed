"""Encoders as torch modules: our network, trained or put together again from a bundle, and
EfficientNet-Lite0.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeadapt.bundle import FACTORY, Bundle
from edgeadapt.errors import InputError
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.encoders.networks import BUILT_IN, Normalised, build_network
from edgeadapt.host.training.train import train
from edgeadapt_bench.datasets.cache import cache_folder
from edgeadapt_bench.datasets.image_dataset import Say

EPOCHS, SEED, HELD_OUT = 3, 0, 0.1


class Features(nn.Module):
    """A trained network up to what its classifier reads."""

    def __init__(self, network: Normalised) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.features(x)


class Lite0(nn.Module):
    """The packaged network as ``bench.lite0`` runs it, in a class that measuring processes can
    load.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features((x - 127.0) / 128.0)
        return features.mean(dim=(2, 3))


def trained(fit: ImageData, held: ImageData, say: Say) -> Normalised:
    """Our network by our trainer with its defaults; kept as safetensors."""
    key = hashlib.sha256(
        repr((BUILT_IN, EPOCHS, SEED, fit.fingerprint(), torch.__version__.split("+")[0])).encode()
    ).hexdigest()[:16]
    path = cache_folder() / f"shift-ten-{key}.safetensors"
    if path.is_file():
        network = Normalised(
            build_network(BUILT_IN, len(fit.classes), fit.channels, seed=SEED),
            [0.0] * fit.channels,
            [1.0] * fit.channels,
        )
        network.load_state_dict(load_file(path))
        return network.eval().requires_grad_(False)
    say(
        f"shift: training the encoder on {len(fit):,} images, {EPOCHS} epochs, a few minutes; it is"
        f" kept in {path.parent}"
    )
    made = train(
        build_network(BUILT_IN, len(fit.classes), fit.channels, seed=SEED),
        fit,
        held,
        epochs=EPOCHS,
        seed=SEED,
        progress=say,
    )
    save_file(made.network.state_dict(), path)
    return made.network.eval().requires_grad_(False)


def rebuilt(bundle: Bundle) -> Normalised:
    """The small residual network of a bundle whose label-free method keeps what its batch-norms
    were: their gains, offsets and statistics.

    Raises:
        InputError: the bundle has no such constants.
    """
    frozen, factory = bundle.frozen, bundle.weights(FACTORY)
    network = Normalised(build_network(BUILT_IN, len(bundle.manifest.classes), 1), [0.0], [1.0])
    norms = [
        (path, module)
        for path, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        state = {
            name: frozen[f"encoder.{name}"]
            for name, _ in network.named_parameters()
            if f"encoder.{name}" in frozen
        }
        state |= {
            f"normalise.{part}": frozen[f"encoder.normalise.{part}"] for part in ("mean", "std")
        }
        start = 0
        for path, norm in norms:
            columns = slice(start, start := start + norm.num_features)
            # of all layers together, or layer by layer
            for part, own in (("gain", "weight"), ("offset", "bias")):
                state[f"{path}.{own}"] = (
                    frozen[f"norms.{part}"][columns]
                    if f"norms.{part}" in frozen
                    else frozen[f"norms.{path}.{part}"]
                )
            state |= {
                f"{path}.running_mean": factory["norm.mean"][columns],
                f"{path}.running_var": factory["norm.variance"][columns],
            }
    except KeyError as error:
        raise InputError(
            f"{bundle.path}: no tensor {error}: the batch-norms of its encoder cannot be told"
            " from it"
        ) from error
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    network.load_state_dict({**network.state_dict(), **tensors})
    return network.eval().requires_grad_(False)
