"""The frames that ``bench serve`` shows to the daemon and to the bare loop: clean legs and legs
under a condition by turns, always the same.

    frame n  =  image order[n mod N], under condition leg(n),
            leg(n) = n div LEG;  even legs are clean, odd ones take the conditions in turn
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.scenarios.corruptions import corrupt

CONDITIONS = ("gaussian_noise", "fog", "contrast")
SEVERITY = 3
LEG = 1024  # frames


@dataclass(frozen=True, eq=False)
class FrameSequence:
    """Frames by number.

    Attributes:
        x: (1 + conditions, N, ...) uint8, clean first.
        y: (N,) rows of ``names``, in the order of the frames.
        weight, bias: (D, K), (K,) of the factory head, for who has nothing else.
    """

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    names: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, path: str) -> FrameSequence:
        with np.load(path) as kept:
            return cls(
                kept["x"],
                kept["y"],
                tuple(str(name) for name in kept["names"]),
                kept["weight"],
                kept["bias"],
            )

    def frame(self, number: int) -> NDArray[np.uint8]:
        """A copy, as a camera hands over a new buffer for every frame."""
        leg = number // LEG
        shown: NDArray[np.uint8] = self.x[
            1 + leg // 2 % (len(self.x) - 1) if leg % 2 else 0, number % len(self.y)
        ].copy()
        return shown

    def label(self, number: int) -> str:
        return self.names[self.y[number % len(self.y)]]

    def is_shifted(self, number: int) -> bool:
        return number // LEG % 2 == 1


def write_frames(
    path: Path,
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
    names: tuple[str, ...],
    head: tuple[NDArray[Any], NDArray[Any]],
) -> None:
    """Keep frames of these images (N, ...), shuffled by a fixed seed."""
    order = np.random.default_rng(0).permutation(len(y))
    shown = np.stack(
        [x[order], *(corrupt(x[order], condition, SEVERITY, 0) for condition in CONDITIONS)]
    )
    np.savez(path, x=shown, y=y[order], names=np.array(names), weight=head[0], bias=head[1])
