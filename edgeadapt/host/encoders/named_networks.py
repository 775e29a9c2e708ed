"""Encoders by name: ``"timm:NAME"``, ``"torchvision:NAME"``, ``"hf:FOLDER"``.

Each has the size and the moments of images that it was trained with.

Weights are random, or those that are named: a local file, or a hub. Nothing downloads by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeadapt.errors import InputError
from edgeadapt.host.encoders import hugging_face_networks, timm_networks, torchvision_networks
from edgeadapt.host.encoders.input_config import InputConfig
from edgeadapt.host.encoders.networks import Normalised

SOURCES = ("timm", "torchvision", "hf")
HAVE_WEIGHTS = ("hf",)  # the name is a folder with them
HUBS = {"timm": timm_networks.HUB, "torchvision": torchvision_networks.HUB}


def source_of(spec: str) -> str:
    """``timm``, ``torchvision`` or ``hf``, or nothing if the network is another."""
    source = spec.partition(":")[0]
    return source if source in SOURCES and ":" in spec else ""


def input_config(spec: str) -> InputConfig:
    """Input size and moments of a network, from its own table or folder.

    Raises:
        InputError: nothing of that name.
        RuntimeUnavailable: timm is not installed.
    """
    name = spec.partition(":")[2]
    if source_of(spec) == "hf":
        return hugging_face_networks.folder_config(name)
    if source_of(spec) == "timm":
        return timm_networks.timm_config(name)
    return torchvision_networks.torchvision_config(name)


def size_option(spec: str, size: tuple[int, int]) -> dict[str, Any]:
    """The option that makes a network of timm for images of another size than its own."""
    if source_of(spec) != "timm":
        return {}
    return timm_networks.timm_size_option(spec.partition(":")[2], size)


def pretrained_network(
    spec: str, classes: int, pretrained: str = "", *, seed: int = 0, **options: Any
) -> nn.Module:
    """A network with trained weights for three channels, and its ``input_moments``.

    Args:
        spec: as in ``named_encoder``.
        classes: logits of a new classifier, whose weights depend on ``seed``; 0: none is needed.
        pretrained: a file, a folder of timm's, or one of ``HUBS``, which downloads; empty for a
            folder of Hugging Face, which has its weights.

    Raises:
        InputError: a name, file, hub or option that does not fit.
    """
    source, name = source_of(spec), spec.partition(":")[2]
    if not source:
        raise InputError(
            f"weights by name are those of timm:NAME, torchvision:NAME and hf:FOLDER, got {spec!r}"
        )
    if source in HAVE_WEIGHTS:
        if pretrained:
            raise InputError(f"{spec!r} has its weights in its folder; leave out {pretrained!r}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return hugging_face_networks.folder_network(name, classes, options)
    if pretrained.startswith("hub:") and pretrained != HUBS[source]:
        raise InputError(f"weights of {spec} are on {HUBS[source]!r}, got {pretrained!r}")
    build = (
        timm_networks.timm_network if source == "timm" else torchvision_networks.torchvision_network
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, classes, 3, options, pretrained)


def named_encoder(
    spec: str, pretrained: str = "", *, size: tuple[int, int] | None = None, **options: Any
) -> Normalised:
    """A trained network without its classifier, for ``host.export``: pixels to features.

    >>> encoder = named_encoder("timm:resnet18", "weights.safetensors")  # doctest: +SKIP

    Args:
        spec: ``"timm:NAME"``, ``"torchvision:NAME"`` or ``"hf:FOLDER"``, a local one.
        pretrained: as in ``pretrained_network``.
        size: (height, width) of the images; by default the network's own.
        options: further arguments of the network.

    Returns:
        Takes (B, 3, H, W) in [0, 255], or gray (B, 1, H, W), which all three channels are given.
    """
    if size is not None:
        options = {**size_option(spec, size), **options}
    network = pretrained_network(spec, 0, pretrained, **options)
    return Normalised(network, *network.input_moments).eval()  # type: ignore[misc]


def headless(network: nn.Module) -> nn.Module:
    """The network, in place, without the classifier of one of timm's: its output is its feature."""
    inner = network.network if isinstance(network, Normalised) else network
    if hasattr(inner, "reset_classifier") and hasattr(inner, "pretrained_cfg"):
        inner.reset_classifier(0)  # type: ignore[operator]
    return network


__all__ = [
    "HAVE_WEIGHTS",
    "HUBS",
    "SOURCES",
    "headless",
    "input_config",
    "named_encoder",
    "pretrained_network",
    "size_option",
    "source_of",
]
