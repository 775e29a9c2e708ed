"""One style of the emoji as a map-style data set, for recipes:
``kind = "edgeadapt_bench.datasets.emoji_style:emoji_style"``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt_bench.downloads.folder import load


@dataclass(frozen=True)
class EmojiStyle:
    """``len(dataset)`` drawings (64, 64, 3) uint8 with the number of their class."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8], int]:
        return self.x[row], int(self.y[row])


def emoji_style(style: str = "google") -> EmojiStyle:
    """The drawings of one style, all 14 classes.

    Raises:
        InputError: no such style, or the data are not here: ``edgeadapt data fetch emoji``.
    """
    kept = load("emoji")
    styles = kept["styles"].tolist()
    if style not in styles:
        raise InputError(f"emoji have no style {style!r}; there are {', '.join(styles)}")
    rows = kept["style"] == styles.index(style)
    return EmojiStyle(kept["x"][rows], kept["y"][rows].astype(np.int64), tuple(kept["classes"]))


__all__ = ["EmojiStyle", "emoji_style"]
