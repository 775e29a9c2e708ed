"""Four classes that the encoder never saw, learned from ten labels each; and the conditions that a
whole demo opens.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import CLASSES, KNOWN, NEW
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.numerics.linalg import NUMERICS
from edgeadapt.scenarios.refitted_head import RefittedHead
from edgeadapt_bench.datasets.image_dataset import (
    ImageDataset,
    Say,
    bar,
    load_dataset,
    names_of,
    open_quick,
    spread,
)
from edgeadapt_bench.harness.measure import Row

NEW_IN_TEN, OLD_AMONG_OLD = 0.70, 0.90
PER_CLASS = 10
_ORACLE_PER_CLASS = 500
_ROOM = 256  # images per pass
Features = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Marks:
    """Accuracy of new classes among all ten, of old ones among the old, and of everything among all
    ten.
    """

    new_in_ten: float
    old_among_old: float
    old_in_ten: float
    all_ten: float


def marks(scores: NDArray[np.float32], y: NDArray[np.int64]) -> Marks:
    """From scores (N, 10) in the order of ``CLASSES``."""
    return marks_of(scores.argmax(axis=1), scores[:, : len(KNOWN)].argmax(axis=1), y)


def marks_of(
    in_ten: NDArray[np.int64], among_old: NDArray[np.int64], y: NDArray[np.int64]
) -> Marks:
    """From answers (N,) among all ten and among the old."""
    is_old, right = y < len(KNOWN), in_ten == y
    return Marks(
        float(right[~is_old].mean()),
        float((among_old == y)[is_old].mean()),
        float(right[is_old].mean()),
        float(right.mean()),
    )


def scores_of(learner: Learner, features: Features) -> NDArray[np.float32]:
    """Probabilities (N, 10) in the order of ``CLASSES``; a class that was not learned has none."""
    z, taps = features
    parts = [
        learner.predict(features={"z": z[i : i + _ROOM], "taps": taps[i : i + _ROOM]})
        for i in range(0, len(z), _ROOM)
    ]
    found = np.concatenate([part.probs for part in parts])
    names = parts[0].classes
    result = np.zeros((len(found), len(CLASSES)), np.float32)
    for column, name in enumerate(CLASSES):
        if name in names:
            result[:, column] = found[:, names.index(name)]
    return result


def rows_per_class(
    y: NDArray[np.int64], slots: tuple[int, ...], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``count`` random rows of each class, shuffled together."""
    return rng.permutation(
        np.concatenate(
            [rng.choice(np.flatnonzero(y == slot), count, replace=False) for slot in slots]
        )
    )


def learn_new(
    dataset: ImageDataset, rows: NDArray[np.int64], features: Features
) -> tuple[Marks, str]:
    """Add the new classes, hand over the labels, and judge; with the outcome of the commit."""
    with open_quick(dataset.bundle) as learner:
        for name in NEW:
            learner.add_class(name)
        learner.learn(
            dataset.training.x[rows], names_of(dataset.training.y[rows]), source="operator"
        )
        learner.settle()
        return marks(scores_of(learner, features), dataset.test.y), learner.history(1)[0].outcome


def nearest_mean(
    program: Program, z: NDArray[np.float32], y: NDArray[np.int64], judge: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scores of the plain nearest class mean: factory means of the old classes, plain means of the
    new labels.
    """
    values = program.runtime.download(program.factory(), ["mean.moment"])["mean.moment"][
        :, : len(CLASSES)
    ].astype(np.float64)
    for slot in np.unique(y):
        values[:-1, slot], values[-1, slot] = z[y == slot].sum(axis=0), (y == slot).sum()
    weight = NUMERICS["nearest_mean"](values)[0]
    scores: NDArray[np.float32] = judge @ weight[:-1] + weight[-1]
    return scores


def joint_oracle(
    program: Program, dataset: ImageDataset, judge: NDArray[np.float32], rng: np.random.Generator
) -> Marks:
    """The head refitted with 500 labels of every class; among the old it is one that was fitted on
    the old alone.
    """
    fewest = min(_ORACLE_PER_CLASS, int(np.bincount(dataset.training.y).min()))
    rows = rows_per_class(dataset.training.y, tuple(range(len(CLASSES))), fewest, rng)
    z, y = program.encode(dataset.training.x[rows])[0], dataset.training.y[rows]
    is_old = y < len(KNOWN)
    everything = RefittedHead(z, y, len(CLASSES))
    old = RefittedHead(z[is_old], y[is_old], len(KNOWN))
    return marks_of(everything.predict(judge), old.predict(judge), dataset.test.y)


def run_classes(
    data: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    say: Say = print,
    *,
    draws: int = 20,
    stories: bool = True,
) -> list[Row]:
    """New classes at ten labels each, and what whole demos open.

    Args:
        data: see ``load_dataset``.
        seeds: of demos; draws of labels start at the first of them.
        draws: sets of labels.
        stories: play the demo once per seed (about 15 s each).
    """
    rows = _new_classes(load_dataset(data), seeds[0], draws, say)
    return rows + (_domains(seeds, say) if stories else [])


def _new_classes(dataset: ImageDataset, first: int, draws: int, say: Say) -> list[Row]:
    program = dataset.program()
    features = program.encode(dataset.test.x)
    new = tuple(range(len(KNOWN), len(CLASSES)))
    mine, means, oracles = [], [], []
    for seed in range(first, first + draws):
        rng = np.random.default_rng(seed)
        rows = rows_per_class(dataset.training.y, new, PER_CLASS, rng)
        found, outcome = learn_new(dataset, rows, features)
        mine.append(found)
        z = program.encode(dataset.training.x[rows])[0]
        means.append(
            marks(nearest_mean(program, z, dataset.training.y[rows], features[0]), dataset.test.y)
        )
        oracles.append(joint_oracle(program, dataset, features[0], rng))
        reached = (
            f"new in ten {found.new_in_ten:.1%}, old among old {found.old_among_old:.1%}, all ten"
            f" {found.all_ten:.1%}"
        )
        say(f"draw {seed}: {outcome}; {reached}")
    bars = {"new_in_ten": NEW_IN_TEN, "old_among_old": OLD_AMONG_OLD}
    result = []
    for key in ("new_in_ten", "old_among_old", "old_in_ten", "all_ten"):
        named = {"learner": mine, "nearest mean": means, "oracle": oracles}
        columns = {name: [float(getattr(m, key)) for m in found] for name, found in named.items()}
        say(f"{key}: " + "; ".join(f"{name} {spread(values)}" for name, values in columns.items()))
        result.append(
            bar(
                key,
                _mean(columns["learner"]),
                "accuracy",
                _mean(columns["nearest mean"]),
                at_least=bars.get(key),
            )
        )
        result.append(bar(f"oracle/{key}", _mean(columns["oracle"]), "accuracy"))
    return result


def _domains(seeds: tuple[int, ...], say: Say) -> list[Row]:
    from edgeadapt.demo.acts import CONDITIONS
    from edgeadapt.demo.scenario import play_demo

    rows = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="edgeadapt-bench-") as folder:
            report = play_demo(Path(folder), seed, lambda line: None)
        opened: Counter[str] = Counter()
        for act in report["acts"]:
            inside = range(act["first_batch"], act["last_batch"] + 1)
            opened[act["id"]] += sum(
                e["kind"] == "domain_opened" and e["batch"] in inside for e in report["events"]
            )
            for fact in act["facts"]:
                if fact["holds"] is False:
                    say(
                        f"demo, seed {seed}, act {act['id']}: {fact['label']}: {fact['value']} does"
                        " not hold"
                    )
        stray = opened.total() - opened["degraded"]
        say(f"demo, seed {seed}: conditions opened {dict(opened)}")
        rows.append(
            bar(
                f"domains_opened/seed{seed}",
                opened["degraded"],
                "conditions",
                exactly=len(CONDITIONS),
            )
        )
        rows.append(bar(f"domains_opened_elsewhere/seed{seed}", stray, "conditions", exactly=0))
        failed = sum(fact["holds"] is False for act in report["acts"] for fact in act["facts"])
        rows.append(bar(f"demo_facts_that_fail/seed{seed}", failed, "facts", at_most=0))
    return rows


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
