"""The entropy step through EfficientNet-Lite0: label-free adaptation of the batch-norms (Tent, Wang
et al., ICLR 2021, arXiv 2006.10726).

    loss = mean_b H(softmax(W f(x_b) + b)),  f with batch statistics;
            trained: 49 gains and 49 offsets, 42,016 numbers, momentum SGD

x (B, 3, 96, 96) float32, normalised. Convolutions and head are frozen. The trained numbers are one
flat vector, all gains and then all offsets, taken apart with ``torch.split``, whose gradient is one
concatenation: the whole state is two tensors instead of 196, and the update is one operator for all
layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeadapt.host.compile import MakePorts, Step
from edgeadapt.host.steps.optimisers import Momentum
from edgeadapt_bench.datasets.lite0 import PIXELS, lite0

CLASSES = 20
LEARNING_RATE, BETA = 1e-3, 0.9
AFFINE = "norms.affine"

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A convolution without bias, its batch-norm, and what follows.

    ``pads`` is (left, right, top, bottom). ``begins`` marks the first layer of a block, ``ends``
    the last; ``is_residual`` adds the block's input behind its last layer.
    """

    weight: str
    channels: int
    stride: int
    pads: tuple[int, int, int, int]
    groups: int
    eps: float
    is_clipped: bool
    begins: bool = False
    is_residual: bool = False


def layers(network: nn.Module) -> tuple[tuple[Layer, ...], Values]:
    """The packaged network as a list, with its convolution weights and ``norms.affine``."""
    found: list[Layer] = []
    frozen: Values = {}
    gains: list[Tensor] = []
    offsets: list[Tensor] = []

    def add(
        name: str,
        convolution: nn.Conv2d,
        norm: nn.BatchNorm2d,
        *,
        is_clipped: bool,
        begins: bool = False,
        is_residual: bool = False,
    ) -> None:
        padding = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))
        key = f"encoder.{name}"
        frozen[key] = convolution.weight.detach().clone()
        gains.append(norm.weight.detach().clone())
        offsets.append(norm.bias.detach().clone())
        found.append(
            Layer(
                key,
                norm.num_features,
                convolution.stride[0],
                tuple(padding),
                convolution.groups,
                norm.eps,
                is_clipped,
                begins,
                is_residual,
            )
        )

    add("stem", network._conv_stem, network._bn0, is_clipped=True)
    for index, block in enumerate(network._blocks):
        arguments = block._block_args
        expands = arguments.expand_ratio != 1
        is_residual = (
            block.id_skip
            and arguments.stride == 1
            and arguments.input_filters == arguments.output_filters
        )
        if expands:
            add(f"{index}.expand", block._expand_conv, block._bn0, is_clipped=True, begins=True)
        add(
            f"{index}.depthwise",
            block._depthwise_conv,
            block._bn1,
            is_clipped=True,
            begins=not expands,
        )
        add(
            f"{index}.project",
            block._project_conv,
            block._bn2,
            is_clipped=False,
            is_residual=is_residual,
        )
    add("last", network._conv_head, network._bn1, is_clipped=True)
    return tuple(found), {**frozen, AFFINE: torch.cat([*gains, *offsets])}


def features(walk: tuple[Layer, ...], affine: Tensor, frozen: Values, x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1280), every batch-norm on the statistics of this batch."""
    sizes = [layer.channels for layer in walk]
    parts = torch.split(affine, sizes + sizes)
    entry = x
    for layer, gain, offset in zip(walk, parts[: len(walk)], parts[len(walk) :], strict=True):
        if layer.begins:
            entry = x
        left, right, top, bottom = layer.pads
        is_even = left == right and top == bottom
        padded = x if is_even else F.pad(x, layer.pads)
        x = F.conv2d(
            padded,
            frozen[layer.weight],
            None,
            layer.stride,
            (top, left) if is_even else 0,
            1,
            layer.groups,
        )
        x = F.batch_norm(x, None, None, gain, offset, True, 0.0, layer.eps)
        if layer.is_clipped:
            x = F.relu6(x)
        if layer.is_residual:
            x = x + entry
    return x.mean((2, 3))


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions, in nats."""
    logs = F.log_softmax(logits, 1)
    return -(logs.exp() * logs).sum(1).mean()


def head(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weight (20, 1280) and bias of the frozen classifier, scaled so that predictions are neither
    flat nor certain.
    """
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(CLASSES, 1280, generator=generator), torch.zeros(CLASSES)


def ports(generator: torch.Generator, batch: int) -> Values:
    """``x`` (B, 3, 96, 96) float32: smooth random images, since pixels of noise alone leave the
    network's last maps almost constant.
    """
    coarse = torch.randn(batch, 3, 12, 12, generator=generator)
    smooth = F.interpolate(coarse, size=(PIXELS, PIXELS), mode="bilinear", align_corners=False)
    return {"x": 0.6 * smooth + 0.1 * torch.randn(batch, 3, PIXELS, PIXELS, generator=generator)}


def step(seed: int = 0) -> tuple[Step, MakePorts, Values]:
    """What ``compile_step`` takes: the function, its example ports and its tensors; :func:`frozen`
    names those that never change.

    The output is called ``entropy`` and not ``loss``: at this learning rate no 50 steps halve it.

    Raises:
        RuntimeUnavailable: the network's packages are not installed.
    """
    walk, tensors = layers(lite0().network)
    tensors["head.weight"], tensors["head.bias"] = head(seed)
    optimiser = Momentum(BETA)

    def loss(affine: Tensor, given: Values, values: Values) -> Tensor:
        z = features(walk, affine, values, given["x"])
        return entropy(F.linear(z, values["head.weight"], values["head.bias"]))

    gradient: Callable[..., tuple[Tensor, Tensor]] = torch.func.grad_and_value(loss)

    def learn(given: Values, values: Values) -> tuple[Values, Values]:
        slope, value = gradient(values[AFFINE], given, values)
        new, state = optimiser.update(
            {AFFINE: values[AFFINE]}, {AFFINE: slope}, values, LEARNING_RATE
        )
        return {"entropy": value}, {**new, **state}

    return learn, ports, {**tensors, **optimiser.state({AFFINE: tensors[AFFINE]})}


def frozen(tensors: Values) -> tuple[str, ...]:
    """The tensors of :func:`step` that never change: convolutions and head."""
    return tuple(name for name in tensors if not name.endswith(AFFINE))
