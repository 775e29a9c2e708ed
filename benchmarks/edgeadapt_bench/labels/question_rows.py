"""Rows of the questions suite: precision and recovery of every rule, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeadapt.scenarios.refitted_head import recovery
from edgeadapt_bench.baselines.question_rules import BASELINES
from edgeadapt_bench.datasets.image_dataset import BATCH, CONDITIONS
from edgeadapt_bench.harness.measure import Row, absent, at_least, at_most, reported
from edgeadapt_bench.harness.resampling import paired_interval
from edgeadapt_bench.labels.question_streams import Asked

PRECISION, RECOVERY, PER_CONDITION = 0.60, 0.60, 20


MILD: tuple[str, ...] = ("clean", "brightness", "gaussian_noise")


_LENGTH, _NEW_LENGTH = 23 * BATCH, 16 * BATCH  # images after the onset


_SETS = 30


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    conditions: tuple[str, ...] = CONDITIONS
    mild: tuple[str, ...] = MILD
    seeds: tuple[int, ...] = (0, 1, 2)
    baselines: tuple[str, ...] = tuple(BASELINES)
    without_correction: tuple[str, ...] = ("random", "least_margin")
    length: int = _LENGTH
    new_length: int = _NEW_LENGTH
    sets: int = _SETS


@dataclass(eq=False)
class Passes:
    """Passes of every arm over the same streams, and the marks beside them."""

    arms: dict[str, list[Asked]] = field(default_factory=dict)
    frozen: list[float] = field(default_factory=list)
    oracle: list[float] = field(default_factory=list)
    best: dict[int, list[float]] = field(default_factory=dict)

    def add(self, arm: str, asked: Asked) -> Asked:
        self.arms.setdefault(arm, []).append(asked)
        return asked

    def recovered(self, accuracies: Sequence[float]) -> float:
        return recovery(
            float(np.mean(accuracies)), float(np.mean(self.frozen)), float(np.mean(self.oracle))
        )

    def accuracies(self, arm: str) -> list[float]:
        return [asked.accuracy for asked in self.arms[arm]]


def pooled(passes: Sequence[Asked]) -> float:
    return float(np.mean([taught for asked in passes for taught in asked.taught]))


def expected(passes: Sequence[Asked]) -> float:
    """Precision of random questions in the same windows, as many in each."""
    told = [asked for asked in passes if asked.taught]
    return float(
        np.average([asked.chance for asked in told], weights=[len(asked.taught) for asked in told])
    )


def _against(a: Sequence[float], b: Sequence[float], scale: float = 1.0) -> str:
    """``+0.10 (0.05 to 0.15)``: the paired difference over streams; streams that one of the two has
    nothing to say about are left out.
    """
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x == x and y == y]
    if not pairs:
        return "no pair"
    gain, low, high = (
        value / scale for value in paired_interval([x for x, _ in pairs], [y for _, y in pairs])
    )
    return f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"


def compared(found: Passes, place: str, target: float | None) -> list[Row]:
    """Precision and recovery of every rule that asked in our windows."""
    ours = found.arms["ours"]
    gap = max(float(np.mean(found.oracle)) - float(np.mean(found.frozen)), 1e-9)
    rows = [absent(f"precision/{place}/ours", "nothing was asked", target)]
    if any(asked.taught for asked in ours):
        rows = [at_least(f"precision/{place}/ours", pooled(ours), "share", target, expected(ours))]
    rows.append(
        at_least(
            f"recovery/{place}/ours",
            found.recovered(found.accuracies("ours")),
            "share",
            RECOVERY if target is not None else None,
        )
    )
    for name, passes in found.arms.items():
        if (
            name in ("ours", "none")
            or name.endswith("_60")
            or not any(asked.taught for asked in passes)
        ):
            continue
        accuracies, unit = found.accuracies(name), "share; ours less it"
        precise = _against([a.precision for a in ours], [a.precision for a in passes])
        recovered = _against(found.accuracies("ours"), accuracies, gap)
        rows += reported(
            f"{place}/{name}",
            ("precision", pooled(passes), f"{unit} {precise}", expected(passes)),
            ("recovery", found.recovered(accuracies), f"{unit} {recovered}"),
        )
    return rows


def condition_rows(found: Passes, size: Size) -> list[Row]:
    gap = max(float(np.mean(found.oracle)) - float(np.mean(found.frozen)), 1e-9)
    rows = compared(found, "20", PRECISION)
    rows.append(Row("recovery/20/no_questions", found.recovered(found.accuracies("none")), "share"))
    chosen, drawn = (found.recovered(found.accuracies(arm)) for arm in ("ours_60", "random_60"))
    apart = _against(found.accuracies("ours_60"), found.accuracies("random_60"), gap)
    rows.append(
        at_least(
            "recovery/10_per_class/ours", chosen, f"share; less random {apart}", RECOVERY, drawn
        )
    )
    for count, best in found.best.items():
        rows.append(
            Row(f"recovery/best_of_{size.sets}_random_sets/{count}", found.recovered(best), "share")
        )
    most = max(asked.most_on_a_topic for asked in found.arms["ours"])
    mean = float(np.mean([len(asked.taught) for asked in found.arms["ours"]]))
    rows += [
        at_most("questions_per_condition/most", most, "questions", PER_CONDITION),
        Row("questions_per_condition/mean", mean, "questions"),
    ]
    for index, condition in enumerate(size.conditions):
        part = found.arms["ours"][index * len(size.seeds) : (index + 1) * len(size.seeds)]
        if any(asked.taught for asked in part):
            rows.append(
                Row(f"precision_by_condition/{condition}", pooled(part), "share", expected(part))
            )
    frozen = float(np.mean(found.frozen))
    rows.append(Row("accuracy/frozen", frozen, "accuracy"))
    rows.append(Row("accuracy/oracle", float(np.mean(found.oracle)), "accuracy"))
    return rows + [
        Row(f"accuracy/{arm}", float(np.mean(found.accuracies(arm))), "accuracy", frozen)
        for arm in found.arms
    ]


def draw_bars(found: Passes, folder: Path) -> None:
    from edgeadapt_bench.harness.plots import save_bars

    asked = {
        name: passes
        for name, passes in found.arms.items()
        if not name.endswith("_60") and any(p.taught for p in passes)
    }
    precise = {name: pooled(passes) for name, passes in asked.items()}
    save_bars(
        folder / "questions_precision.png",
        precise,
        title="Questions whose answer teaches",
        x_label="share",
        level={"target": PRECISION},
    )
    everything = {name: found.recovered(found.accuracies(name)) for name in found.arms}
    save_bars(
        folder / "questions_recovery.png",
        everything,
        title="Recovery",
        x_label="share of the way to 1,000 labels",
        level={"target": RECOVERY},
    )
