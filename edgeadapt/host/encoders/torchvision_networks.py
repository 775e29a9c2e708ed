"""Classifiers of torchvision by name: random weights, those of a local file, or of its hub."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeadapt.errors import InputError
from edgeadapt.host.encoders.batch_norm import replace_module
from edgeadapt.host.encoders.feature_place import feature_place
from edgeadapt.host.encoders.input_config import InputConfig

HUB = "hub:download.pytorch.org"


def torchvision_config(name: str) -> InputConfig:
    """What torchvision's own weights of this name were trained with; nothing is loaded.

    Raises:
        InputError: torchvision has no such network.
    """
    found = _models(name).get_model_weights(name).DEFAULT.transforms()
    side = found.crop_size[0]
    return InputConfig.of_unit((side, side), found.mean, found.std)


def torchvision_network(
    name: str, classes: int, in_channels: int, options: dict[str, Any], pretrained: str = ""
) -> nn.Module:
    """A classifier of torchvision.

    Args:
        classes: logits of its classifier, which is new; 0, with ``pretrained``: as it was trained.
        in_channels: other than 3, the first convolution is new; with ``pretrained`` it is 3.
        options: further arguments of the network, such as ``image_size`` of a transformer.
        pretrained: empty for random weights; a state dict (``.pth`` or ``.safetensors``); or
            ``HUB``, which downloads. Nothing else does. The network then has ``input_moments``.

    Raises:
        InputError: a name, an option or a file that does not fit.
    """
    models = _models(name)
    wanted = {"weights": "DEFAULT" if pretrained == HUB else None}
    if not pretrained:
        wanted["num_classes"] = classes  # type: ignore[assignment]
    try:
        network: nn.Module = models.get_model(name, **wanted, **options)
    except (TypeError, ValueError, OSError) as error:
        raise InputError(
            f"network 'torchvision:{name}' refused its arguments {options}: {error}"
        ) from error
    if pretrained:
        if pretrained != HUB:
            _load(network, name, Path(pretrained))
        network.input_moments = torchvision_config(name).moments(3)
        if classes:
            _renew_classifier(network, name, classes)
    elif in_channels != 3:
        _replace_first_convolution(network, in_channels)
    return network


def _models(name: str) -> Any:
    import torchvision  # late: a user's own network does not need it

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(f"torchvision has no classifier {name!r}; it has {', '.join(known)}")
    return torchvision.models


def _load(network: nn.Module, name: str, path: Path) -> None:
    if not path.is_file():
        raise InputError(
            f"{path}: no such file of weights; nothing downloads unless "
            f"encoder.pretrained = {HUB!r}"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True)
        )
        network.load_state_dict(state)
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        TypeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not the weights of 'torchvision:{name}': {reason}") from error


def _renew_classifier(network: nn.Module, name: str, classes: int) -> None:
    side = torchvision_config(name).size
    generator = torch.Generator().manual_seed(0)
    examples = (torch.randn(2, 3, *side, generator=generator) for _ in range(2))
    is_training = network.training
    place = feature_place(network.eval(), *examples)
    network.train(is_training)
    if not place.is_input:
        raise InputError(
            f"the classifier of 'torchvision:{name}' is no linear layer that could be made anew "
            f"for {classes} classes"
        )
    old = network.get_submodule(place.path)
    width: Any = old.in_features
    replace_module(network, place.path, nn.Linear(width, classes))


def _replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    path, first = next(
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d)
    )
    replacement = nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,
        first.stride,
        first.padding,
        first.dilation,
        first.groups,
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    replace_module(network, path, replacement)


__all__ = ["HUB", "torchvision_config", "torchvision_network"]
