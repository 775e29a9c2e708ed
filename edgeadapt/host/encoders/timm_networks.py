"""Networks of timm by name: random weights, those of a local file, or of a hub that is named."""

from __future__ import annotations

import difflib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.host.encoders.input_config import InputConfig

HUB = "hub:huggingface.co"
_OURS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "num_classes",
    "in_chans",
    "features_only",
    "cache_dir",
)


def timm_config(name: str) -> InputConfig:
    """What the weights of this name were trained with, from timm's own table; nothing is loaded.

    Raises:
        InputError: timm has no such network.
        RuntimeUnavailable: timm is not installed.
    """
    found = _known(name).get_pretrained_cfg(name).to_dict()
    return InputConfig.of_unit(found["input_size"][1:], found["mean"], found["std"])


def timm_network(
    name: str, classes: int, in_channels: int, options: dict[str, Any], pretrained: str = ""
) -> nn.Module:
    """A network of timm, whose moments of pixels are its ``input_moments``.

    Args:
        name: with or without a tag: ``resnet18``, ``vit_tiny_patch16_224.augreg_in21k``.
        classes: logits of a new classifier; 0: none, and the output is the feature (B, D).
        in_channels: 3 with ``pretrained``; a gray image is then given to all three.
        options: further arguments of ``timm.create_model``, such as ``drop_path_rate``; a network
            of one input size takes another as ``img_size``.
        pretrained: empty for random weights; a checkpoint (``.safetensors``, ``.pth``, ``.npz``); a
            folder with ``config.json`` and ``model.safetensors``, as the hub has them; or ``HUB``,
            which downloads. Nothing else does.

    Raises:
        InputError: a name, an option or a file that does not fit.
        RuntimeUnavailable: no timm.
    """
    timm = _known(name)
    for key in options:
        if key in _OURS:
            raise InputError(
                f"network 'timm:{name}' takes no option {key!r}; weights are random, or those that "
                f"encoder.pretrained names: a file, a folder, or {HUB!r}, which alone downloads"
            )
    loading: dict[str, Any] = {}
    if pretrained:
        loading = {"pretrained": True, "pretrained_cfg_overlay": _source(timm, name, pretrained)}
    state = torch.random.get_rng_state()
    try:
        network = timm.create_model(
            name, num_classes=classes, in_chans=in_channels, **options, **loading
        )
        if pretrained:
            torch.random.set_rng_state(state)
            _require_loaded(
                network,
                timm.create_model(name, num_classes=classes, in_chans=in_channels, **options),
                name,
                pretrained,
            )
    except InputError:
        raise
    except (
        TypeError,
        ValueError,
        KeyError,
        AssertionError,
        RuntimeError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"network 'timm:{name}' cannot be made with {options or 'no options'}"
            f"{f' from {pretrained}' if pretrained else ''}: {reason}"
        ) from error
    found = network.pretrained_cfg
    network.input_moments = InputConfig.of_unit(
        found["input_size"][1:], found["mean"], found["std"]
    ).moments(in_channels)
    return network  # type: ignore[no-any-return]


def timm_size_option(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """``img_size`` of a network that is built for one input size, where it is another."""
    found = _known(name).get_pretrained_cfg(name)
    own = tuple(found.input_size[1:])
    return {"img_size": size} if found.fixed_input_size and size != own else {}


def _known(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise RuntimeUnavailable(
            f"'timm:{name}' needs timm, which cannot be imported ({error}): "
            "pip install 'edgeadapt[timm]'"
        ) from error
    names, (base, tag, _) = timm.list_models(), name.partition(".")
    tags = timm.list_pretrained(f"{base}.*") if base in names else []
    if base not in names or (tag and name not in tags):
        close = tags or difflib.get_close_matches(name, names, 3, 0.3)
        raise InputError(f"timm has no network {name!r}; did you mean {', '.join(close[:5])}?")
    return timm


def _source(timm: Any, name: str, pretrained: str) -> dict[str, Any]:
    """What timm's own table of this name is overlaid with, so that it loads from there."""
    if pretrained == HUB:
        found = timm.get_pretrained_cfg(name)
        if not found.hf_hub_id:
            place = (
                f"at {found.url}: take them from there" if found.url else "nowhere that timm knows"
            )
            raise InputError(f"weights of 'timm:{name}' are not on {HUB[4:]} but {place}")
        return {}
    path = Path(pretrained)
    if path.is_dir():
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            architecture, overlay = config["architecture"], config["pretrained_cfg"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no config.json of a network of timm: {error}") from error
        if architecture != name.partition(".")[0]:
            raise InputError(f"{path}: holds weights of {architecture!r}, not of {name!r}")
        return {**overlay, "file": str(path / "model.safetensors"), "custom_load": False}
    if not path.is_file():
        raise InputError(
            f"{path}: no such file of weights; nothing downloads unless "
            f"encoder.pretrained = {HUB!r}"
        )
    return {"file": str(path), "custom_load": path.suffix == ".npz"}


def _require_loaded(network: nn.Module, fresh: nn.Module, name: str, pretrained: str) -> None:
    """timm does not say when a file holds other names than the network; what is as random tells."""
    heads = [path for path, m in network.named_modules() if m is network.get_classifier()]
    start = dict(fresh.named_parameters())
    left = [
        path
        for path, value in network.named_parameters()
        if value.dim() > 1
        and float(value.detach().std()) > 0
        and torch.equal(value, start[path])
        and not any(path.startswith(f"{head}.") for head in heads if head)
    ]
    if left:
        listed = ", ".join(left[:3])
        raise InputError(
            f"{pretrained}: has no weights for {len(left)} tensors of 'timm:{name}': {listed}"
        )


__all__ = ["HUB", "timm_config", "timm_network", "timm_size_option"]
