"""Novelty scores beside each other: new classes, far data, and known classes under shift.

Every score is the method that ships, with a ridge head and the shift residuals beside it, fitted on
factory samples of the known classes alone. AUROC is P(a novel sample scores above a known one);
FPR95 the share of novel samples below the threshold that 95% of known ones stay under. Figures are
means over class splits; intervals resample the samples of every split. The exporter chooses by
held-out classes of the factory samples and by transformed images, never by what is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import NEW
from edgeadapt.errors import InputError
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt_bench.datasets.material import SAMPLE, SEVERITY, Material, load_material
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import load_pool
from edgeadapt_bench.downloads import folder as fetched
from edgeadapt_bench.harness.measure import Row, Say, absent, at_least
from edgeadapt_bench.novelty.novelty_material import Case, Lite0WithTaps, Seen, per_class
from edgeadapt_bench.novelty.routing import run_routing

if TYPE_CHECKING:
    from edgeadapt.host.assembly.calibration import Fitted
    from edgeadapt.host.contracts import FactoryData, Scores

SPLITS = 3
SHIFTS = ("fog", "gaussian_noise")
LIMITS_KIB = (64.0, 1024.0, None)
BEHIND = 0.01  # AUROC that the exporter's pick may lie behind the best score of its size
_PER_CLASS, _REPORTED, _FAR, _UNSEEN = 600, 2500, 1000, 150
_ROUNDS = 200
_SLOTS = 16
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """AUROC and FPR95 of one score on one split, and of its resamples (R,)."""

    auroc: float
    fpr95: float
    resampled: F64


def comparisons(quick: bool = False) -> dict[str, Scores]:
    """Every candidate of the exporter, and unless ``quick`` variants of the hyperdimensional gate
    and scores of the logits alone.
    """
    from edgeadapt.host.exporting.settings import NOVELTY
    from edgeadapt.host.methods.hypervector import Hypervector
    from edgeadapt.host.methods.logit_scores import Energy, MaxLogit, MaxSoftmax

    candidates = {name: make() for name, make in NOVELTY.items()}
    if quick:
        return candidates
    return candidates | {
        "hypervector_of_z": Hypervector(taps=False),
        "hypervector_256": Hypervector(width=256),
        "hypervector_1_bit": Hypervector(bits=1),
        "hypervector_centred": Hypervector(centred=True),
        "hypervector_normalised": Hypervector(normalised=True),
        "hdff": Hypervector(centred=True, levelled=False),
        "energy": Energy(),
        "max_logit": MaxLogit(),
        "max_softmax": MaxSoftmax(),
    }


def run_novelty(
    data: str | None, say: Say, quick: bool = False, plots: str | None = None
) -> list[Row]:
    """Every score on every kind of novelty; the exporter's pick; routing of conditions.

    Args:
        data: folder of Fashion-MNIST, or None.
        quick: the shipped sample and encoder alone, one split, in seconds.
        plots: a folder for pictures.

    Raises:
        RuntimeUnavailable: torch, or for the full suite the packages of Lite0, are not installed.
    """
    if plots is not None:
        from edgeadapt_bench.harness.plots import check

        check()
    rounds = 20 if quick else _ROUNDS
    material = load_material(SAMPLE if quick else data)
    rows = _measure("shipped", [_shipped(material, quick)], comparisons(quick), say, rounds, plots)
    rows += run_routing(material, say, quick=quick)
    if quick:
        return rows
    encoder = Lite0WithTaps(say)
    rows += _measure("fashion", _fashion(encoder, material), comparisons(), say, rounds, plots)
    for name, cases in (("emoji", _emoji), ("far", lambda told: _far(encoder, material, told))):
        try:
            rows += _measure(name, cases(say), comparisons(), say, rounds, plots)
        except InputError as error:
            rows.append(absent(name, str(error)))
    return rows


# -- cases -----------------------------------------------------------------------------------------
def _shipped(material: Material, quick: bool) -> Case:
    """The shipped encoder, which was trained on the six known classes alone."""
    program = material.program()
    stored = np.float16

    def see(x: NDArray[np.uint8], y: NDArray[np.int64]) -> Seen:
        z, taps = program.encode(x)
        return Seen(z.astype(stored).astype(np.float32), taps.astype(stored).astype(np.float32), y)

    from edgeadapt.host.assembly.novelty_choice import unseen_images

    held = material.calibration
    fit, judge = np.array_split(np.random.default_rng(0).permutation(len(held)), 2)
    known, novel = material.known(), material.test.only(NEW)
    known, novel = (
        part.take(np.random.default_rng(0).permutation(len(part))[: 300 if quick else None])
        for part in (known, novel)
    )
    unseen = unseen_images(held.x[judge[: 100 if quick else 600]], 0)
    shifted = {name: see(corrupt(known.x, name, SEVERITY, 0), known.y) for name in SHIFTS}
    return Case(
        see(held.x[fit], held.y[fit]),
        see(held.x[judge], held.y[judge]),
        see(known.x, known.y),
        {"novel": see(novel.x, novel.y)},
        shifted,
        see(unseen, np.full(len(unseen), -1)),
    )


def _class_splits(classes: int, known: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The first classes against the rest, then random halves."""
    orders = [
        np.arange(classes),
        *(np.random.default_rng(seed).permutation(classes) for seed in range(1, SPLITS)),
    ]
    return [(np.sort(order[:known]), np.sort(order[known:])) for order in orders]


def _fashion(encoder: Lite0WithTaps, material: Material) -> list[Case]:
    training, test = material.training, material.test
    chosen = per_class(training.y, _PER_CLASS, 0)
    reported = np.random.default_rng(0).permutation(len(test))[:_REPORTED]
    factory = encoder.see("factory", training.x[chosen], training.y[chosen])
    clean = encoder.see("test", test.x[reported], test.y[reported])
    shifted = {
        name: encoder.see(name, corrupt(test.x[reported], name, SEVERITY, 0), test.y[reported])
        for name in SHIFTS
    }
    is_judge = np.random.default_rng(1).random(len(chosen)) < 0.5
    cases = []
    for known, novel in _class_splits(len(training.classes), len(training.classes) // 2):
        mine = np.flatnonzero(is_judge & np.isin(factory.y, known))
        cases.append(
            Case(
                factory.rows(~is_judge).of(known),
                factory.rows(is_judge).of(known),
                clean.of(known),
                {"novel": clean.of(novel)},
                {name: seen.of(known) for name, seen in shifted.items()},
                _unseen(encoder, training.x[chosen[mine]]),
            )
        )
    return cases


def _emoji(say: Say) -> list[Case]:
    pool = load_pool("emoji", None, say)
    count = len(pool.classes)
    return [_case_of(pool, known, novel) for known, novel in _class_splits(count, count // 2)]


def _case_of(pool: Pool, known: NDArray[np.int64], novel: NDArray[np.int64]) -> Case:
    """Features without taps; units (an emoji in all its styles) stay on one side of evidence and
    judge.
    """
    first_style, test_style = pool.group == 0, pool.test_group == 0
    train = Seen(
        pool.z[first_style], np.zeros((int(first_style.sum()), 0), np.float32), pool.y[first_style]
    )
    test = Seen(
        pool.test_z[test_style],
        np.zeros((int(test_style.sum()), 0), np.float32),
        pool.test_y[test_style],
    )
    is_judge = np.random.default_rng(1).random(len(train)) < 0.5
    return Case(
        train.rows(~is_judge).of(known),
        train.rows(is_judge).of(known),
        test.of(known),
        {"novel": test.of(novel)},
        {},
    )


def _far(encoder: Lite0WithTaps, material: Material, say: Say) -> list[Case]:
    """All ten classes are known; digits and emoji are not. One draw of factory samples: the
    interval is that of the reported ones.
    """
    training, test = material.training, material.test
    chosen = per_class(training.y, _PER_CLASS, 0)
    reported = np.random.default_rng(0).permutation(len(test))[:_REPORTED]
    factory = encoder.see("factory", training.x[chosen], training.y[chosen])
    clean = encoder.see("test", test.x[reported], test.y[reported])
    others = {}
    for name in ("mnist", "emoji"):
        x = fetched.load(name)["x"]
        # the first half served for choosing
        rows = len(x) // 2 + np.random.default_rng(0).permutation(len(x) // 2)[:_FAR]
        others[name] = encoder.see(name, x[rows], np.full(len(rows), -1))
    is_judge = np.random.default_rng(2).random(len(chosen)) < 0.5
    unseen = _unseen(encoder, training.x[chosen[np.flatnonzero(is_judge)]])
    return [Case(factory.rows(~is_judge), factory.rows(is_judge), clean, others, {}, unseen)]


def _unseen(encoder: Lite0WithTaps, x: NDArray[np.uint8]) -> Seen:
    """Some judging images turned, inverted, swapped and averaged: the exporter's second mark."""
    from edgeadapt.host.assembly.novelty_choice import unseen_images

    turned = unseen_images(x[np.random.default_rng(0).permutation(len(x))[:_UNSEEN]], 0)
    return encoder.see("unseen", turned, np.full(len(turned), -1))


# -- measuring -------------------------------------------------------------------------------------
def _data(seen: Seen) -> FactoryData:
    from edgeadapt.host.assembly.calibration import factory_weights
    from edgeadapt.host.contracts import FactoryData

    return FactoryData(seen.z, seen.taps, seen.y, factory_weights(seen.y, 25.0), _SLOTS)


def _measure(
    name: str,
    cases: Sequence[Case],
    scores: dict[str, Scores],
    say: Say,
    rounds: int,
    plots: str | None,
) -> list[Row]:
    """Rows of one kind of novelty, the baseline of each being the cosine to raw prototypes in the
    same run.
    """
    from edgeadapt.host.assembly import calibration as calibrate
    from edgeadapt.host.assembly import novelty_choice
    from edgeadapt.host.exporting.settings import Settings
    from edgeadapt.host.methods.residual_shift import ResidualShift
    from edgeadapt.host.methods.ridge import Ridge

    head, sense = Ridge(penalty=Settings().penalty, balance=Settings().balance), ResidualShift()
    marks: dict[str, dict[str, list[Mark]]] = {}
    picks: dict[float | None, list[str]] = {limit: [] for limit in LIMITS_KIB}
    spent: dict[str, list[float]] = {score: [] for score in scores}
    accuracy: dict[str, list[float]] = {}
    for number, case in enumerate(cases):
        evidence, judge = _data(case.evidence), _data(case.judge)
        base = calibrate.Fitted.of(head, sense, evidence)
        for score, method in scores.items():
            fitted = base.with_score(method, evidence)
            spent[score].append(1e6 * novelty_choice.score_seconds(method, fitted, judge))
            for kind, mark in _marks(
                case,
                lambda seen, fitted=fitted, method=method: fitted.novelty(
                    method, seen.z, seen.taps
                ),
                rounds,
            ):
                marks.setdefault(kind, {}).setdefault(score, []).append(mark)
            if score.startswith("hypervector"):
                accuracy.setdefault(score, []).append(_accuracy(method, fitted, case.known))
        accuracy.setdefault("ridge", []).append(
            float((base.logits(case.known.z).argmax(axis=1) == case.known.y).mean())
        )
        unseen = None if case.unseen is None else (case.unseen.z, case.unseen.taps)
        candidates = Settings().novelty_candidates()
        part = calibrate.Part(base, evidence, judge, np.arange(len(judge.y)))
        picked, lower = novelty_choice.choose_novelty(candidates, part, unseen, 0)
        for limit, chosen in picks.items():  # the marks do not depend on the limit
            small = [
                score
                for score in lower
                if limit is None
                or novelty_choice.score_bytes(scores[score], evidence.dims) <= 1024 * limit
            ]
            chosen.append(
                picked.name if limit is None else max(small, key=lambda score: lower[score])
            )
        say(
            f"novelty: {name} {number + 1}/{len(cases)}: the exporter picks"
            f" {', '.join(f'{chosen[-1]} ({_limit(limit)})' for limit, chosen in picks.items())}"
        )
    sizes = {
        score: novelty_choice.score_bytes(method, _data(cases[0].evidence).dims)
        for score, method in scores.items()
    }
    rows = []
    for kind, by_score in marks.items():
        rows += _rows(f"{name}/{kind}", by_score, say)
        if kind in cases[0].others:
            rows += _pick_rows(
                f"{name}/{kind}",
                {score.name: by_score[score.name] for score in Settings().novelty_candidates()},
                picks,
                sizes,
            )
        if plots is not None:
            _picture(
                Path(plots) / f"novelty-{name}-{kind.replace('/', '-')}.png",
                f"{name}: {kind}",
                by_score,
            )
    for score in scores:
        rows.append(Row(f"{name}/{score}/bytes", sizes[score] / 1024, "KiB"))
        rows.append(
            Row(
                f"{name}/{score}/time",
                float(np.median(spent[score])),
                "us per sample",
                float(np.median(spent["cosine"])),
            )
        )
    known = float(np.mean(accuracy.pop("ridge")))
    return rows + [
        Row(f"{name}/{score}/known_accuracy", 100 * float(np.mean(values)), "%", 100 * known)
        for score, values in accuracy.items()
    ]


def _marks(
    case: Case, score: Callable[[Seen], NDArray[np.float32]], rounds: int
) -> list[tuple[str, Mark]]:
    known = score(case.known)
    found = [(name, _mark(known, score(other), rounds)) for name, other in case.others.items()]
    for name, shifted in case.shifted.items():
        moved = score(shifted)
        found.append((f"{name}/clean_against_shifted", _mark(known, moved, rounds)))
        found.append(
            (
                f"{name}/shifted_known_against_novel",
                _mark(moved, score(case.others["novel"]), rounds),
            )
        )
    return found


def _mark(known: NDArray[np.float32], novel: NDArray[np.float32], rounds: int) -> Mark:
    return Mark(*_auroc_fpr(known, novel), resampled=_resampled(known, novel, rounds))


def _auroc_fpr(known: NDArray[np.float32], novel: NDArray[np.float32]) -> tuple[float, float]:
    from edgeadapt.host.assembly.novelty_choice import auroc

    return auroc(known, novel), float((novel <= np.quantile(known, 0.95)).mean())


def _resampled(known: NDArray[np.float32], novel: NDArray[np.float32], rounds: int) -> F64:
    """AUROC of ``rounds`` bootstrap resamples of both sides (Efron and Tibshirani, 1993): counts of
    distinct values, drawn multinomially.
    """
    values, place = np.unique(np.concatenate([known, novel]), return_inverse=True)
    rng = np.random.default_rng(0)
    drawn = []
    for part in (place[: len(known)], place[len(known) :]):
        counts = np.bincount(part, minlength=len(values))
        drawn.append(rng.multinomial(len(part), counts / len(part), size=rounds))
    below = np.cumsum(drawn[0], axis=1) - 0.5 * drawn[0]
    result: F64 = (drawn[1] * below).sum(axis=1) / (len(known) * len(novel))
    return result


def _accuracy(method: Any, fitted: Fitted, known: Seen) -> float:
    import torch

    predicted = method.classify(
        fitted.values, torch.from_numpy(known.z), torch.from_numpy(known.taps)
    ).numpy()
    return float((predicted == known.y).mean())


# -- rows ------------------------------------------------------------------------------------------
def _rows(name: str, by_score: dict[str, list[Mark]], say: Say) -> list[Row]:
    rows = []
    cosine = by_score["cosine"]
    for score, found in by_score.items():
        low, high = np.quantile(np.mean([mark.resampled for mark in found], axis=0), [0.025, 0.975])
        values = [mark.auroc for mark in found]
        say(
            f"{name}/{score}: AUROC {np.mean(values):.3f} [{low:.3f}, {high:.3f}], splits"
            f" {min(values):.3f} to {max(values):.3f}"
        )
        rows.append(
            Row(
                f"{name}/{score}/auroc",
                float(np.mean(values)),
                f"[{low:.3f}, {high:.3f}]",
                float(np.mean([mark.auroc for mark in cosine])),
            )
        )
        rows.append(
            Row(
                f"{name}/{score}/fpr95",
                float(np.mean([mark.fpr95 for mark in found])),
                "share",
                float(np.mean([mark.fpr95 for mark in cosine])),
            )
        )
    return rows


def _pick_rows(
    name: str,
    by_score: dict[str, list[Mark]],
    picks: dict[float | None, list[str]],
    sizes: dict[str, int],
) -> list[Row]:
    """How the exporter's pick compares with the best score of its size, which is known only
    afterwards.
    """
    rows = []
    for limit, chosen in picks.items():
        small = [score for score in by_score if limit is None or sizes[score] <= 1024 * limit]
        best = max(float(np.mean([mark.auroc for mark in by_score[score]])) for score in small)
        picked = float(
            np.mean([by_score[score][split].auroc for split, score in enumerate(chosen)])
        )
        rows.append(at_least(f"{name}/pick/{_limit(limit)}", picked, "AUROC", best - BEHIND, best))
    return rows


def _limit(limit: float | None) -> str:
    return "any_size" if limit is None else f"at_most_{limit:g}_KiB"


def _picture(path: Path, title: str, by_score: dict[str, list[Mark]]) -> None:
    from edgeadapt_bench.harness.plots import save_bars

    ordered = sorted(by_score, key=lambda score: -np.mean([mark.auroc for mark in by_score[score]]))
    values = {score: float(np.mean([mark.auroc for mark in by_score[score]])) for score in ordered}
    spread = {score: float(np.std([mark.auroc for mark in by_score[score]])) for score in ordered}
    save_bars(path, values, title=title, x_label="AUROC", spread=spread, level={"cannot tell": 0.5})


__all__ = ["comparisons", "run_novelty"]
