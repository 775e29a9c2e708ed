"""What the guard sees and what it lets through, as tables: batches by share of wrong labels, paired
tests by samples and loss.

Labels are drawn from real images through the door that every label takes
(``LabelNoiseDetector.of``); nothing is learned, so one learner answers for all draws. The paired
test is worked out on drawn outcomes, because a candidate of a given loss cannot be had to order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeadapt.bundle.schema import GuardPolicy
from edgeadapt.device.learner import Learner
from edgeadapt.device.numerics.statistics import sign_test
from edgeadapt.device.storage.features import as_stored
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.host.data.images import ImageData
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.orders import batches
from edgeadapt_bench.datasets.image_dataset import (
    CONDITIONS,
    SEVERITY,
    ImageDataset,
    Say,
    bar,
    open_quick,
)
from edgeadapt_bench.datasets.label_noise import flipped, wrong_names
from edgeadapt_bench.harness.measure import Row

SIZES = (5, 8, 16, 32, 64)
SHARES = (0.0, 0.1, 0.2, 0.4, 0.8)
FLIP = "flip"
LOSSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
SAMPLES = (20, 64, 256, 300)
CHURN = 0.02
"""Share of samples that change sides in each direction without any loss."""


def verdict_of(
    count: int,
    loss: float,
    churn: float,
    rng: np.random.Generator,
    policy: GuardPolicy | None = None,
) -> bool:
    """Is a candidate vetoed that loses ``loss`` of its samples more than it wins, on ``count``
    samples of which ``churn`` change either way?
    """
    policy = policy or GuardPolicy()
    wins, losses, _ = rng.multinomial(
        count, [churn, churn + loss, max(0.0, 1.0 - 2 * churn - loss)]
    )
    return bool(
        (losses - wins) / count > policy.margin
        and sign_test(int(wins), int(losses)) < policy.significance
    )


def paired_rows(say: Say, draws: int = 2000) -> list[Row]:
    """Chance of a veto, by samples and true loss."""
    rng, rows = np.random.default_rng(0), []
    say(
        "paired test, chance of a veto; columns: accuracy lost "
        + " ".join(f"{loss:.0%}" for loss in LOSSES)
    )
    for count in SAMPLES:
        chances = [
            float(np.mean([verdict_of(count, loss, CHURN, rng) for _ in range(draws)]))
            for loss in LOSSES
        ]
        say(f"  {count} samples: " + " ".join(f"{chance:.3f}" for chance in chances))
        rows += [
            bar(f"veto/{count}_samples/loss_{loss:g}", chance, "chance")
            for loss, chance in zip(LOSSES, chances, strict=True)
        ]
    return rows


def held_rows(
    dataset: ImageDataset, say: Say, draws: int = 40, conditions: Sequence[str] = CONDITIONS
) -> list[Row]:
    """Share of batches that are held, by size and share of wrong labels: at the factory, and under
    conditions where nobody taught yet.
    """
    known = dataset.known()
    rows: list[Row] = []
    say(
        "held, by batch size; columns: wrong labels "
        + " ".join(f"{share:.0%}" for share in SHARES)
        + ", one class of six flipped"
    )
    for where, names in (("factory", ("clean",)), ("new_condition", tuple(conditions))):
        held = {(size, kind): 0.0 for size in SIZES for kind in (*SHARES, FLIP)}
        for name in names:
            with open_quick(dataset.bundle) as learner:
                for key, share in _held(learner, known, name, draws).items():
                    held[key] += share / len(names)
        for size in SIZES:
            say(
                f"  {where}, {size} labels: "
                + " ".join(f"{held[size, kind]:.3f}" for kind in (*SHARES, FLIP))
            )
            rows += [
                bar(f"held/{where}/{size}_labels/{kind}", held[size, kind], "share")
                for kind in (*SHARES, FLIP)
            ]
    return rows


def _held(
    learner: Learner, known: ImageData, condition: str, draws: int
) -> dict[tuple[int, float | str], float]:
    rng = np.random.default_rng(1)
    shown, drawn = np.split(rng.permutation(len(known))[: 256 + 2000], [256])
    seen = known.x if condition == "clean" else known.x.copy()
    if condition != "clean":
        seen[shown], seen[drawn] = (
            corrupt(known.x[part], condition, SEVERITY, seed)
            for seed, part in enumerate((shown, drawn))
        )
    for part in batches(len(shown), 32):
        learner.observe(seen[shown[part]])
        learner.settle()
    live, program, domain = learner._live.current, learner._program, learner.domain()
    features = as_stored(*program.encode(seen[drawn], live.encoder_in(domain)))
    result = {}
    for size in SIZES:
        for kind in (*SHARES, FLIP):
            held = 0
            for _ in range(draws):
                rows = rng.choice(len(drawn), size, replace=False)
                y = known.y[drawn[rows]]
                names = (
                    flipped(y, rng)
                    if isinstance(kind, str)
                    else wrong_names(y, kind, learner.classes, rng)
                )
                batch = [
                    _row(domain, name, features[row]) for name, row in zip(names, rows, strict=True)
                ]
                held += learner._label_worker._updates._noise.of(live, batch) != ""
            result[size, kind] = held / draws
    return result


def _row(domain: str, name: str, features: np.ndarray) -> EvidenceRow:
    return EvidenceRow("", "somebody", "bench", domain, 0.0, name, 1.0, "", True, features)
