"""Which novelty score a bundle gets: the one that tells what the factory did not know from what it
knew, on data it was not fitted on.

What stands for the unknown is classes held out of the head, and, for images, inputs that no
training showed. Where there is neither, as for feature vectors of one class, nothing is judged, and
no mark is made up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.host.assembly.calibration import Fitted, Part
from edgeadapt.host.contracts import Dims, FactoryData, Scores


def auroc(known: NDArray[Any], novel: NDArray[Any]) -> float:
    """P(a novel score is above a known one), ties counted half."""
    scores = np.concatenate([known, novel])
    order = scores.argsort(kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    sums = np.zeros(len(counts))
    np.add.at(sums, inverse, ranks)
    ranks = (sums / counts)[inverse]
    return float(
        (ranks[len(known) :].sum() - len(novel) * (len(novel) + 1) / 2) / (len(known) * len(novel))
    )


def score_bytes(score: Scores, dims: Dims) -> int:
    """Bytes that a score adds to a bundle and to a device: its frozen tensors, evidence and derived
    copies.
    """
    return sum(
        int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        for spec in score.tensors(dims)
    )


def score_seconds(
    score: Scores, fitted: Fitted, judge: FactoryData, batch: int = 32, rounds: int = 7
) -> float:
    """Seconds per sample of the score alone, in torch on this machine: the fastest of a few
    rounds.
    """
    z, taps = torch.from_numpy(judge.z[:batch]), torch.from_numpy(judge.taps[:batch])
    logits = fitted.head.predict(fitted.values, z)
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        score.novelty(fitted.values, z, taps, logits)
        spent.append(time.perf_counter() - started)
    return min(spent) / len(z)


def choose_novelty(
    candidates: Sequence[Scores],
    part: Part,
    unseen: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    seed: int,
    *,
    novelty_kib: float | None = None,
    slowest: float = 20.0,
) -> tuple[Scores, dict[str, float]]:
    """The score that tells novel samples from known ones best, by the lower of two marks; of equals
    the smallest.

    Classes held out of the head, each third in turn (of two classes each), and, for images, inputs
    that the encoder was never trained on (``unseen_images``). An encoder that was trained on the
    held-out classes separates them almost perfectly by any score, so the first mark alone says
    little about classes that are new to it.

    Args:
        part: rows that judge, and head and residuals that were fitted without them.
        unseen: features (M, D) and taps (M, T) of unseen images; None for feature vectors.
        novelty_kib: candidates of more bytes (frozen, evidence and derived) are left out; None for
            no limit.
        slowest: candidates that take more than this many times the median of all per sample are
            left out.

    Returns:
        The score, and the lower mark (AUROC) of every candidate that was judged; no marks, and the
        first candidate, where nothing can be judged.

    Raises:
        InputError: no candidate is small enough; the message names the smallest.
    """
    evidence, judge = part.evidence, part.judge
    sizes = {score.name: score_bytes(score, evidence.dims) for score in candidates}
    small = [
        score
        for score in candidates
        if novelty_kib is None or sizes[score.name] <= 1024 * novelty_kib
    ]
    if not small:
        least = min(candidates, key=lambda score: sizes[score.name])
        raise InputError(
            f"no novelty score fits into novelty_kib = {novelty_kib:g}; the smallest,"
            f" {least.name!r}, takes {sizes[least.name] / 1024:.1f} KiB"
        )
    complete = {score.name: part.fitted.with_score(score, evidence) for score in small}
    seconds = {score.name: score_seconds(score, complete[score.name], judge) for score in small}
    judged = [
        score
        for score in small
        if seconds[score.name] <= slowest * float(np.median(list(seconds.values())))
    ]
    lower = held_out_marks(judged, part, seed)
    judged = [score for score in judged if score.name in lower] or judged
    if unseen is not None:
        for score in judged:
            fitted = complete[score.name]
            mark = auroc(fitted.novelty(score, judge.z, judge.taps), fitted.novelty(score, *unseen))
            lower[score.name] = min(lower.get(score.name, 1.0), mark)
    if not lower:
        return judged[0], {}
    return max(judged, key=lambda score: (lower[score.name], -sizes[score.name])), lower


def held_out_marks(candidates: Sequence[Scores], part: Part, seed: int) -> dict[str, float]:
    """AUROC of classes that the head did not learn, the mean over thirds of the classes, or over
    each of two.

    Returns:
        A mark of every score that can be judged: none of a single class, and none of a score that
        compares classes (``fewest_classes``) where only one of two is left to be known.
    """
    classes = np.random.default_rng(seed).permutation(part.evidence.classes)
    marks: dict[str, list[float]] = {}
    for held_out in np.array_split(classes, min(3, len(classes))) if len(classes) > 1 else ():
        known = np.setdiff1d(classes, held_out)
        data = part.evidence.only(known)
        inside, outside = part.judge.only(known), part.judge.only(held_out)
        base = Fitted.of(part.fitted.head, part.fitted.sense, data)
        for score in candidates:
            if len(known) >= getattr(score, "fewest_classes", 1):
                fitted = base.with_score(score, data)
                scores = (fitted.novelty(score, rows.z, rows.taps) for rows in (inside, outside))
                marks.setdefault(score.name, []).append(auroc(*scores))
    return {name: float(np.mean(values)) for name, values in marks.items()}


def unseen_images(x: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Images that no training showed: a quarter turn, a half turn, quadrants swapped, inverted, and
    the mean of two.

    Args:
        x: (N, H, W) or (N, H, W, C) uint8, H = W for the quarter turn to be taken.
    """
    rng = np.random.default_rng(seed)
    height, width = x.shape[1] // 2, x.shape[2] // 2
    swapped = np.roll(x, (height, width), axis=(1, 2))
    mixed = ((x.astype(np.uint16) + x[rng.permutation(len(x))]) // 2).astype(np.uint8)
    variants = [np.rot90(x, 2, (1, 2)), swapped, 255 - x, mixed]
    if x.shape[1] == x.shape[2]:
        variants.append(np.rot90(x, 1, (1, 2)))
    return np.ascontiguousarray(np.concatenate(variants))
