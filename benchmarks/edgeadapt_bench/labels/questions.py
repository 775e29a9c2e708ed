"""Which samples are worth a question: precision of what is asked, and what the answers recover,
beside other rules on the same windows.

    precision = share of questions whose answer is another class than the prediction at that time,
    new classes included
    recovery  = (accuracy - frozen) / (oracle - frozen)

on other images of the condition, after the last answer. The oracle is the bundle's own kind of head
refitted on the uncorrected encoder's features with 1,000 labels of the condition. Means over
conditions and seeds are taken before the quotient. Every rule asks in the same windows and as often
as ours did there, unless it is named ``at_once``: then it asks ten and ten, as soon as it may. "Ten
per class" are 60 labels, three in each of the first twenty windows of the condition. The best of
many random label sets of the same size, picked by the judging images, is an upper mark. Intervals:
paired bootstrap over streams (a condition and a seed).

New classes come into a stream of known ones, at once with a mild shift (severity 1) or without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import KNOWN, NEW
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.querying.strategy import choose_questions
from edgeadapt.host.data.images import ImageData
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.refitted_head import RefittedHead, recovery
from edgeadapt_bench.baselines.question_rules import (
    RIVALS,
    least_margin,
    paced,
    previous,
    random_rule,
)
from edgeadapt_bench.datasets.material import (
    BATCH,
    CONDITIONS,
    PREFIX,
    SAMPLE,
    Material,
    Say,
    load_material,
    open_quick,
)
from edgeadapt_bench.harness.measure import Row, absent, at_least, at_most
from edgeadapt_bench.harness.resampling import paired_interval
from edgeadapt_bench.labels.answers import Showing, showing
from edgeadapt_bench.labels.question_streams import (
    Asked,
    allowing,
    best_of_sets,
    marks,
    under_condition,
    watched,
)

PRECISION, RECOVERY, PER_CONDITION = 0.60, 0.60, 20
TEN_PER_CLASS = 10 * len(KNOWN)
MILD: tuple[str, ...] = ("clean", "brightness", "gaussian_noise")
_A_WINDOW = 3  # of the sixty
_SHARE_NEW = 0.3
_LENGTH, _NEW_LENGTH = 23 * BATCH, 16 * BATCH  # images after the onset
_SETS = 30


@dataclass(frozen=True)
class _Size:
    """How much is measured."""

    conditions: tuple[str, ...] = CONDITIONS
    mild: tuple[str, ...] = MILD
    seeds: tuple[int, ...] = (0, 1, 2)
    rivals: tuple[str, ...] = tuple(RIVALS)
    without_correction: tuple[str, ...] = ("random", "least_margin")
    length: int = _LENGTH
    new_length: int = _NEW_LENGTH
    sets: int = _SETS


_QUICK = _Size(("fog",), ("clean",), (1,), ("random",), (), 9 * BATCH, 9 * BATCH, 2)


@dataclass(eq=False)
class _Streams:
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


def run_questions(
    data: str | None,
    say: Say,
    quick: bool = False,
    plots: str | None = None,
    *,
    tuning: bool = False,
    conditions: tuple[str, ...] | None = None,
) -> list[Row]:
    """Precision and recovery of the questions, under conditions and with new classes.

    Args:
        data, tuning: see ``load_material``.
        quick: one short stream of each kind from the images that ship.
        plots: a folder for bars of precision and recovery per rule.
        conditions: other ones, for choosing defaults.
    """
    if plots is not None:
        from edgeadapt_bench.harness.plots import check

        check()
    size = _QUICK if quick else _Size()
    if conditions is not None:
        size = _Size(conditions, ("clean", *conditions[:2]))
    material = load_material(SAMPLE if quick else data, tuning=tuning)
    say(f"questions: {material.source}")
    corrected = _under_conditions(material, size, say)
    bare = _without_correction(material, size, say) if size.without_correction else None
    rows = _condition_rows(corrected, size)
    rows += _bare_rows(bare) if bare is not None else []
    rows += _new_class_rows(material, size, say)
    if plots is not None:
        _draw(corrected, Path(plots))
    return rows


def _under_conditions(material: Material, size: _Size, say: Say) -> _Streams:
    found, many = _Streams(), allowing(material.bundle, TEN_PER_CLASS)
    for condition, seed, shown in _showings(material, size):
        _mark(material, shown, found)
        ours = found.add("ours", under_condition(material, shown, choose_questions))
        for name in size.rivals:
            found.add(
                name, under_condition(material, shown, paced(RIVALS[name](seed), ours.counts))
            )
        found.add("none", under_condition(material, shown, lambda window: []))
        for name, rule in (("least_margin_at_once", least_margin), ("previous_at_once", previous)):
            found.add(name, under_condition(material, shown, rule))
        sixty = [_A_WINDOW] * (TEN_PER_CLASS // _A_WINDOW)
        found.add(
            "ours_60", under_condition(material, shown, paced(choose_questions, sixty), bundle=many)
        )
        found.add(
            "random_60",
            under_condition(material, shown, paced(random_rule(seed), sixty), bundle=many),
        )
        for count, best in best_of_sets(
            material, shown, (PER_CONDITION, TEN_PER_CLASS), size.sets, seed
        ).items():
            found.best.setdefault(count, []).append(best)
        _tell(say, f"{condition}, seed {seed}", found)
    return found


def _without_correction(material: Material, size: _Size, say: Say) -> _Streams:
    """The same with adaptation off: all that is recovered, the answers recover."""
    found, off = _Streams(), Policy(adapt="off")
    for condition, seed, shown in _showings(material, size):
        _mark(material, shown, found)
        ours = found.add("ours", under_condition(material, shown, choose_questions, off))
        for name in size.without_correction:
            found.add(
                name, under_condition(material, shown, paced(RIVALS[name](seed), ours.counts), off)
            )
        _tell(say, f"{condition}, seed {seed}, adaptation off", found)
    return found


def _showings(material: Material, size: _Size) -> list[tuple[str, int, Showing]]:
    images = material.known()
    return [
        (condition, seed, showing(images, condition, size.length, seed))
        for condition in size.conditions
        for seed in size.seeds
    ]


def _mark(material: Material, shown: Showing, found: _Streams) -> None:
    with open_quick(material.bundle, Policy(adapt="off")) as frozen:
        oracle = RefittedHead(frozen.predict(shown.oracle.x).embedding, shown.oracle.y, len(KNOWN))
        found.frozen.append(float(marks(frozen, shown.judge.x, shown.judge.y).mean()))
        found.oracle.append(oracle.accuracy(frozen.predict(shown.judge.x).embedding, shown.judge.y))


def _tell(say: Say, where: str, found: _Streams) -> None:
    arms = ", ".join(
        f"{name} {passes[-1].accuracy:.1%} ({sum(passes[-1].taught)} of {len(passes[-1].taught)})"
        for name, passes in found.arms.items()
    )
    say(f"{where}: frozen {found.frozen[-1]:.1%}, oracle {found.oracle[-1]:.1%}; {arms}")


# -- new classes -----------------------------------------------------------------------------------
def with_new_classes(
    material: Material, condition: str, length: int, seed: int
) -> tuple[NDArray[np.uint8], ImageData]:
    """A clean prefix of known classes, then a stream of which three tenths are of the four new
    ones, under a condition at severity 1.
    """
    rng = np.random.default_rng([seed, 14])
    known, new = material.known(), material.test.only(NEW)
    # calibration images are of known classes: training images of the others, which no training
    # showed
    if not len(new):
        new = material.training.only(NEW)
    rows = rng.permutation(len(known))
    prefix = min(PREFIX, len(known) // 5)
    mixed = np.arange(length) < round(_SHARE_NEW * length)
    rng.shuffle(mixed)
    old = rows[prefix + np.arange(length) % (len(known) - prefix)]
    fresh = rng.permutation(len(new))[np.arange(length) % len(new)]
    x = np.where(mixed.reshape(-1, *[1] * (known.x.ndim - 1)), new.x[fresh], known.x[old])
    y = np.where(mixed, new.y[fresh] + len(KNOWN), known.y[old])
    return known.x[rows[:prefix]], ImageData(
        corrupt(x, condition, 1, seed), y, material.test.classes
    )


def _new_class_rows(material: Material, size: _Size, say: Say) -> list[Row]:
    rows: list[Row] = []
    for condition in size.mild:
        found: dict[str, list[Asked]] = {}
        for seed in size.seeds:
            before, stream = with_new_classes(material, condition, size.new_length, seed)
            ours: Asked | None = None
            for name in ("ours", *size.rivals, "previous_at_once"):
                own = {"ours": choose_questions, "previous_at_once": previous}
                rule = (
                    own[name]
                    if name in own
                    else paced(RIVALS[name](seed), ours.counts if ours else ())
                )
                with open_quick(material.bundle, Policy(new_classes="add")) as learner:
                    asked = watched(learner, rule, before, stream.x, stream.y)
                ours = ours or asked
                found.setdefault(name, []).append(asked)
            told = ", ".join(
                f"{name} {sum(passes[-1].taught)} of {len(passes[-1].taught)}"
                for name, passes in found.items()
            )
            say(f"new classes, {condition}, seed {seed}: taught {told}")
        rows += _new_class_summary(condition, found)
    return rows


def _new_class_summary(condition: str, found: dict[str, list[Asked]]) -> list[Row]:
    ours = found["ours"]
    if not any(asked.taught for asked in ours):
        return [absent(f"precision_new_classes/{condition}/ours", "nothing was asked", PRECISION)]
    rows = [
        at_least(
            f"precision_new_classes/{condition}/ours",
            _pooled(ours),
            "share",
            PRECISION,
            _expected(ours),
        )
    ]
    told = {
        name: passes
        for name, passes in found.items()
        if name != "ours" and any(p.taught for p in passes)
    }
    rows += [
        Row(
            f"precision_new_classes/{condition}/{name}", _pooled(passes), "share", _expected(passes)
        )
        for name, passes in told.items()
    ]
    for name in [name for name in ("ours", "random", "previous_at_once") if name in found]:
        classes = [len(set(asked.names) & set(NEW)) for asked in found[name]]
        rows.append(
            Row(
                f"new_classes_asked_about/{condition}/{name}",
                float(np.mean(classes)),
                f"of {len(NEW)}",
            )
        )
        rows.append(
            Row(
                f"questions/{condition}/{name}",
                float(np.mean([len(a.taught) for a in found[name]])),
                "per stream",
            )
        )
    rows.append(
        at_most(
            f"questions_per_topic/{condition}",
            max(a.most_on_a_topic for a in ours),
            "questions",
            PER_CONDITION,
        )
    )
    return rows


# -- rows ------------------------------------------------------------------------------------------
def _pooled(passes: Sequence[Asked]) -> float:
    return float(np.mean([taught for asked in passes for taught in asked.taught]))


def _expected(passes: Sequence[Asked]) -> float:
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


def _compared(found: _Streams, place: str, target: float | None) -> list[Row]:
    """Precision and recovery of every rule that asked in our windows."""
    ours = found.arms["ours"]
    gap = max(float(np.mean(found.oracle)) - float(np.mean(found.frozen)), 1e-9)
    rows = [absent(f"precision/{place}/ours", "nothing was asked", target)]
    if any(asked.taught for asked in ours):
        rows = [
            at_least(f"precision/{place}/ours", _pooled(ours), "share", target, _expected(ours))
        ]
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
        precise = _against([a.precision for a in ours], [a.precision for a in passes])
        recovered = _against(found.accuracies("ours"), found.accuracies(name), gap)
        rows.append(
            Row(
                f"precision/{place}/{name}",
                _pooled(passes),
                f"share; ours less it {precise}",
                _expected(passes),
            )
        )
        rows.append(
            Row(
                f"recovery/{place}/{name}",
                found.recovered(found.accuracies(name)),
                f"share; ours less it {recovered}",
            )
        )
    return rows


def _condition_rows(found: _Streams, size: _Size) -> list[Row]:
    gap = max(float(np.mean(found.oracle)) - float(np.mean(found.frozen)), 1e-9)
    rows = _compared(found, "20", PRECISION)
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
    rows.append(
        at_most(
            "questions_per_condition/most",
            max(asked.most_on_a_topic for asked in found.arms["ours"]),
            "questions",
            PER_CONDITION,
        )
    )
    rows.append(
        Row(
            "questions_per_condition/mean",
            float(np.mean([len(asked.taught) for asked in found.arms["ours"]])),
            "questions",
        )
    )
    for index, condition in enumerate(size.conditions):
        part = found.arms["ours"][index * len(size.seeds) : (index + 1) * len(size.seeds)]
        if any(asked.taught for asked in part):
            rows.append(
                Row(f"precision_by_condition/{condition}", _pooled(part), "share", _expected(part))
            )
    for name in ("frozen", "oracle"):
        rows.append(Row(f"accuracy/{name}", float(np.mean(getattr(found, name))), "accuracy"))
    rows += [
        Row(
            f"accuracy/{arm}",
            float(np.mean(found.accuracies(arm))),
            "accuracy",
            float(np.mean(found.frozen)),
        )
        for arm in found.arms
    ]
    return rows


def _bare_rows(found: _Streams) -> list[Row]:
    return _compared(found, "20_adaptation_off", None)


def _draw(found: _Streams, folder: Path) -> None:
    from edgeadapt_bench.harness.plots import save_bars

    asked = {
        name: passes
        for name, passes in found.arms.items()
        if not name.endswith("_60") and any(p.taught for p in passes)
    }
    precise = {name: _pooled(passes) for name, passes in asked.items()}
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
