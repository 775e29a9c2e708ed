"""How ``adaptors.TRAINING`` was chosen: ``python -m edgeadapt_bench.adaptors.search_tuning``
prints the grid, best first, per kind.

Conditions that no report shows, training images only; one member of each kind; 50 and 120 labels. A
setting's mark is the mean accuracy over families of streams, so that four corruptions of one
encoder do not outweigh a subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
from edgeadapt.host.methods.adaptors.family import LARGEST_MATRIX, Training
from edgeadapt.host.methods.adaptors.linear import LinearAdaptor
from edgeadapt.host.methods.adaptors.low_rank import LowRank
from edgeadapt.host.methods.adaptors.scale_shift import ScaleShift
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor
from edgeadapt_bench.adaptors.candidate_fit import Tensors, adapted_logits, train
from edgeadapt_bench.adaptors.search import labelled
from edgeadapt_bench.adaptors.search_streams import FAMILIES, Stream
from edgeadapt_bench.harness.measure import Say

DRAWS = ((50, 3), (120, 4))  # labels, seed
RATES = {
    "scale_shift": (0.1, 0.03, 0.01, 0.003),
    "low_rank": (0.01, 0.003, 0.001, 0.0003),
    "bottleneck": (0.01, 0.003, 0.001, 0.0003),
    "linear": (0.01, 0.003, 0.001, 0.0003),
}
DECAYS = (0.0, 1.0, 3.0)
STEPS = (25, 50, 100, 150, 200)
BATCH = 32
Setting = tuple[float, float, int]
"""Learning rate, decay, steps."""


def grid(
    streams: Iterable[Stream],
    rates: dict[str, Sequence[float]] | None = None,
    steps: Sequence[int] = STEPS,
) -> dict[str, dict[Setting, float]]:
    """Kind -> setting -> mark, best first."""
    found: dict[str, dict[Setting, dict[str, list[float]]]] = {}
    for stream in streams:
        kinds: list[TrainedAdaptor] = [ScaleShift(), LowRank(8), Bottleneck(32)]
        kinds += [LinearAdaptor()] if stream.source.dims.features <= LARGEST_MATRIX else []
        for adaptor in kinds:
            for rate in (rates or RATES)[adaptor.kind]:
                for decay in DECAYS:
                    candidate = replace(adaptor, decay=decay, scale=stream.source.scale)
                    for step, accuracies in _trained(candidate, stream, rate, steps).items():
                        families = found.setdefault(adaptor.kind, {}).setdefault(
                            (rate, decay, step), {}
                        )
                        families.setdefault(stream.name.partition("/")[0], []).extend(accuracies)
    marks = {
        kind: {s: float(np.mean([np.mean(v) for v in f.values()])) for s, f in settings.items()}
        for kind, settings in found.items()
    }
    return {
        kind: dict(sorted(settings.items(), key=lambda item: -item[1]))
        for kind, settings in marks.items()
    }


def _trained(
    candidate: TrainedAdaptor, stream: Stream, rate: float, steps: Sequence[int]
) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {step: [] for step in steps}
    for labels, seed in DRAWS:
        z, y = labelled(stream, labels, seed)

        def watch(step: int, t: Tensors) -> None:
            if step in found:
                logits = adapted_logits(candidate, stream.source, stream.source.t, t, stream.test_z)
                found[step].append(float((logits.argmax(axis=1) == stream.test_y).mean()))

        train(
            candidate,
            stream.source,
            stream.source.t,
            z,
            y,
            Training(rate, max(steps), BATCH, candidate.decay),
            seed=seed,
            watch=watch,
        )
    return found


def main(data: str | None = None, say: Say = print) -> None:
    """Print the ten best settings of each kind."""
    streams = (stream for family in FAMILIES.values() for stream in family(data, say, tuning=True))
    for kind, settings in grid(streams).items():
        say(f"{kind}: learning rate, decay, steps -> mean accuracy")
        for (rate, decay, steps), mark in list(settings.items())[:10]:
            say(f"  {rate:g}, {decay:g}, {steps} -> {mark:.4f}")


if __name__ == "__main__":
    main()
