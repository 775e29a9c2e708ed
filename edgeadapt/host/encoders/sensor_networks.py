"""Networks for sensors: a convolutional one over time for signals, and a perceptron for vectors.
Both have batch-norm, which adapts.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeadapt.errors import InputError


class SensorCnn(nn.Module):
    """A 1-D convolutional network for signals (B, C, L) of any length.

    ``block(x) = relu(bn(conv(x)))``; the first keeps the length, every further one halves it; then
    the average over time, then linear. Named submodules for taps: ``blocks.0``, ``blocks.1``, ...;
    the classifier is ``head``. About 54,000 parameters with three channels.

    Args:
        classes: number of logits, at least 2.
        in_channels: channels of the signal.
        widths: channels of the blocks, at least one; the features have ``feature_dim =
            widths[-1]``.
        kernel: odd, in samples.

    Raises:
        InputError: an argument out of range.

    Source: Wang, Yan and Oates, IJCNN 2017, arXiv 1611.06455, the fully convolutional network; ours
    halves the length, for the device.
    """

    def __init__(
        self, classes: int, in_channels: int, widths: Sequence[int] = (32, 64, 128), kernel: int = 5
    ) -> None:
        super().__init__()
        _check("sensor-cnn", classes, in_channels, widths)
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"sensor-cnn needs an odd kernel of at least 1; got {kernel}")
        self.feature_dim = widths[-1]
        self.blocks = nn.Sequential()
        for index, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            convolution = nn.Conv1d(
                before, width, kernel, 1 if index == 0 else 2, kernel // 2, bias=False
            )
            self.blocks.append(nn.Sequential(convolution, nn.BatchNorm1d(width), nn.ReLU()))
        self.head = nn.Linear(self.feature_dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """x (B, C, L) float32, normalised -> (B, widths[-1]), the average of the last block over
        time.
        """
        last: Tensor = self.blocks(x)
        return last.mean(2)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, L) float32, normalised -> logits (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class SensorMlp(nn.Module):
    """A perceptron with batch-norm for vectors (B, F): ``relu(bn(linear(x)))`` per width, then
    linear.

    Named submodules: ``layers.0``, ``layers.1``, ...; the classifier is ``head``.

    Args:
        classes: number of logits, at least 2.
        in_channels: F, values of a vector.
        widths: of the layers, at least one; the features have ``feature_dim = widths[-1]``.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(self, classes: int, in_channels: int, widths: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        _check("sensor-mlp", classes, in_channels, widths)
        self.feature_dim = widths[-1]
        self.layers = nn.Sequential()
        for before, width in zip((in_channels, *widths), widths, strict=False):
            self.layers.append(
                nn.Sequential(
                    nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()
                )
            )
        self.head = nn.Linear(self.feature_dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """x (B, F) float32, normalised -> (B, widths[-1])."""
        last: Tensor = self.layers(x)
        return last

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F) float32, normalised -> logits (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _check(name: str, classes: int, in_channels: int, widths: Sequence[int]) -> None:
    if classes < 2 or in_channels < 1 or not widths or min(widths) < 1:
        raise InputError(
            f"{name} needs classes >= 2, in_channels >= 1 and positive widths; got {classes},"
            f" {in_channels}, {tuple(widths)}"
        )


__all__ = ["SensorCnn", "SensorMlp"]
