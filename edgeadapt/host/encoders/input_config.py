"""What a network's weights were trained with: the size of its images, and their moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WHITE = 255.0


@dataclass(frozen=True)
class InputConfig:
    """Of a colour image.

    Attributes:
        size: (height, width) in pixels.
        mean, std: of the three channels, in pixel values from 0 to 255.
        is_bgr: the network takes blue first.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_bgr: bool = False

    @classmethod
    def of_unit(
        cls, size: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> InputConfig:
        """From moments of images in [0, 1]."""
        height, width = size
        return cls((height, width), tuple(_WHITE * v for v in mean), tuple(_WHITE * v for v in std))

    def moments(self, channels: int) -> tuple[list[float], list[float]] | None:
        """``(mean, std)`` for so many channels: gray has their average, other numbers have none."""
        if channels == len(self.mean):
            return list(self.mean), list(self.std)
        if channels == 1:
            return [sum(self.mean) / len(self.mean)], [sum(self.std) / len(self.std)]
        return None


__all__ = ["InputConfig"]
