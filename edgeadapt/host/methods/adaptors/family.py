"""The family of adaptors among which a device searches, and how each kind is trained.

Scale and shift, low rank 4 to 32, bottleneck 8 to 64, and a full matrix where features are few: 10
to 656 KiB at 1280 features.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Dims
from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
from edgeadapt.host.methods.adaptors.linear import LinearAdaptor
from edgeadapt.host.methods.adaptors.low_rank import LowRank
from edgeadapt.host.methods.adaptors.scale_shift import ScaleShift
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor

RANKS = (4, 8, 16, 32)
WIDTHS = (8, 16, 32, 64)
LARGEST_MATRIX = 256
"""Features up to which a full matrix is a candidate."""


@dataclass(frozen=True)
class Training:
    """How one kind is trained on the device.

    Attributes:
        learning_rate, steps, batch: of momentum SGD on shuffled labelled samples.
        decay: towards the identity.
    """

    learning_rate: float
    steps: int
    batch: int
    decay: float


TRAINING: dict[str, Training] = {
    "scale_shift": Training(0.1, 200, 32, 0.0),
    "low_rank": Training(0.01, 150, 32, 3.0),
    "bottleneck": Training(0.01, 150, 32, 3.0),
    "linear": Training(0.003, 150, 32, 3.0),
}
"""By kind; chosen on conditions that are never reported, on training data: ``python -m
edgeadapt_bench.adaptors.search_tuning`` prints the grid.
"""


def training(candidate: TrainedAdaptor) -> Training:
    """How a candidate is trained; its own ``decay`` is the one that counts."""
    return TRAINING[candidate.kind]


def family(dims: Dims, state_kib: float | None = None, scale: float = 10.0) -> list[TrainedAdaptor]:
    """Candidates for an encoder, smallest first.

    Args:
        dims: of the bundle. A low rank is offered below the feature width only, a full matrix up to
            ``LARGEST_MATRIX`` features.
        state_kib: the most that the parameters of one may take, momentum not counted: it lives
            while a step is made. None for no limit.
        scale: inverse temperature of the head's logits.

    Raises:
        InputError: none fits; the message has the size of the smallest.
    """
    found: list[TrainedAdaptor] = [ScaleShift(scale=scale, decay=TRAINING["scale_shift"].decay)]
    found += [
        LowRank(rank, scale=scale, decay=TRAINING["low_rank"].decay)
        for rank in RANKS
        if rank < dims.features
    ]
    found += [
        Bottleneck(width, scale=scale, decay=TRAINING["bottleneck"].decay) for width in WIDTHS
    ]
    if dims.features <= LARGEST_MATRIX:
        found.append(LinearAdaptor(scale=scale, decay=TRAINING["linear"].decay))
    found.sort(key=lambda candidate: candidate.parameter_count(dims))
    if state_kib is None:
        return found
    fitting = [
        candidate for candidate in found if 4 * candidate.parameter_count(dims) <= 1024 * state_kib
    ]
    if not fitting:
        smallest = 4 * found[0].parameter_count(dims) / 1024
        raise InputError(
            f"no adaptor fits into {state_kib:g} KiB; the smallest takes {smallest:.1f} KiB at"
            f" {dims.features} features"
        )
    return fitting


__all__ = ["LARGEST_MATRIX", "RANKS", "TRAINING", "WIDTHS", "Training", "family", "training"]
