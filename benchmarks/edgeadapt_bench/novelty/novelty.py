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

from edgeadapt.errors import InputError
from edgeadapt_bench.datasets.image_dataset import SAMPLE, load_dataset
from edgeadapt_bench.harness.measure import Row, Say, absent, at_least
from edgeadapt_bench.novelty.domain_routes import run_routing
from edgeadapt_bench.novelty.novelty_cases import (
    emoji_cases,
    far_cases,
    fashion_cases,
    shipped_case,
)
from edgeadapt_bench.novelty.novelty_features import Case, Lite0WithTaps, Seen

if TYPE_CHECKING:
    from edgeadapt.host.assembly.calibration import Fitted
    from edgeadapt.host.contracts import FactoryData, Scores

LIMITS_KIB = (64.0, 1024.0, None)
BEHIND = 0.01  # AUROC that the exporter's pick may lie behind the best score of its size
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
    from edgeadapt.host.methods.novelty.hypervector import Hypervector
    from edgeadapt_bench.novelty.logit_scores import Energy, MaxLogit, MaxSoftmax

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
    rounds = 20 if quick else _ROUNDS
    dataset = load_dataset(SAMPLE if quick else data)
    rows = _measure(
        "shipped", [shipped_case(dataset, quick)], comparisons(quick), say, rounds, plots
    )
    rows += run_routing(dataset, say, quick=quick)
    if quick:
        return rows
    encoder = Lite0WithTaps(say)
    rows += _measure("fashion", fashion_cases(encoder, dataset), comparisons(), say, rounds, plots)
    for name, cases in (
        ("emoji", emoji_cases),
        ("far", lambda told: far_cases(encoder, dataset, told)),
    ):
        try:
            rows += _measure(name, cases(say), comparisons(), say, rounds, plots)
        except InputError as error:
            rows.append(absent(name, str(error)))
    return rows


# -- cases -----------------------------------------------------------------------------------------
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
    from edgeadapt.host.methods.heads.ridge import Ridge
    from edgeadapt.host.methods.residual_shift import ResidualShift

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
        picked, lower = novelty_choice.choose_novelty(
            candidates, calibrate.Part(base, evidence, judge, np.arange(len(judge.y))), unseen, 0
        )
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
