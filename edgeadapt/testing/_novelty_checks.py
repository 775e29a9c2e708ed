"""``novelty`` and ``shift`` tell apart what they must, and keep still where they must."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.host.assembly.novelty_choice import auroc
from edgeadapt.testing._subject import Subject, expect
from edgeadapt.testing._toy import Rows

AUROC = 0.9
_WINDOW = 32
_MEAN, _VARIANCE = 0.2, (0.5, 2.0)
_SHIFT_RATIO, _ONE_CLASS_RATIO = 10.0, 4.0


def check_novelty(subject: Subject) -> None:
    toy = subject.toy
    known, novel = toy.rows(21, 60), toy.rows(22, 60, (toy.novel,))
    displaced = toy.displaced(toy.rows(23, 20), 24)
    scores = subject.novelty(subject.state, known)
    expect(
        tuple(scores.shape) == (len(known),), f"novelty: scores are (B,), got {tuple(scores.shape)}"
    )
    expect(bool(scores.isfinite().all()), "novelty: scores are finite")
    for label, rows in (
        ("samples of an unknown class", novel),
        ("samples far from every class", displaced),
    ):
        area = auroc(scores.numpy(), subject.novelty(subject.state, rows).numpy())
        expect(
            area > AUROC,
            f"novelty: {label} score above known ones: AUROC above {AUROC}, got {area:.2f}",
        )
    grown = subject.learned(subject.state, toy.rows(25, 60, (toy.novel,)))
    before = _share_above(subject.novelty(subject.state, novel), scores)
    after = _share_above(subject.novelty(grown, novel), subject.novelty(grown, known))
    expect(
        before >= 0.8,
        "novelty: 80% of an unknown class is above the threshold that 5% of known samples pass,"
        f" got {before:.0%}",
    )
    expect(
        after <= before / 2,
        f"novelty: a class that was learned stops being novel: {before:.0%} of it were before,"
        f" {after:.0%} after",
    )


def _share_above(scores: Tensor, known: Tensor) -> float:
    return float((scores > torch.quantile(known, 0.95)).to(torch.float32).mean())


def check_shift(subject: Subject) -> None:
    toy = subject.toy
    clean = toy.rows(31, 160)
    residual = subject.residual(subject.state, clean)
    expect(
        residual.dim() == 2 and len(residual) == len(clean),
        f"shift: residuals are (B, R), got {tuple(residual.shape)}",
    )
    expect(
        residual.shape[1] <= 256,
        f"shift: residuals have at most 256 columns, got {residual.shape[1]}",
    )
    mean, variance = float(residual.mean(dim=0).abs().mean()), float(residual.var(dim=0).mean())
    expect(
        mean <= _MEAN,
        f"shift: residuals have mean about 0 on clean data, got {mean:.2f} per column",
    )
    expect(
        _VARIANCE[0] <= variance <= _VARIANCE[1],
        f"shift: residuals have variance about 1 on clean data, got {variance:.2f}",
    )
    mixed = _window_ratio(residual)
    moved = _window_ratio(subject.residual(subject.state, toy.shifted(clean))) / mixed
    expect(
        moved >= _SHIFT_RATIO,
        f"shift: windows of shifted data are {_SHIFT_RATIO:.0f} times as large as clean ones, got"
        f" {moved:.1f}",
    )
    for k in toy.known:
        _expect_small(
            subject, subject.state, toy.rows(32, 5 * _WINDOW, (k,)), mixed, f"of class {k} alone"
        )
    grown = subject.learned(subject.state, toy.rows(33, 60, (toy.novel,)))
    _expect_small(
        subject,
        grown,
        toy.rows(34, 5 * _WINDOW, (toy.novel,)),
        mixed,
        "of a class that was learned",
    )


def _expect_small(
    subject: Subject, state: dict[str, Tensor], rows: Rows, mixed: float, label: str
) -> None:
    ratio = _window_ratio(subject.residual(state, rows)) / mixed
    expect(
        ratio <= _ONE_CLASS_RATIO,
        f"shift: windows {label} are at most {_ONE_CLASS_RATIO:.0f} times a mixed window, got"
        f" {ratio:.1f}",
    )


def _window_ratio(residual: Tensor) -> float:
    """Mean square of the window mean, over windows and columns; about 1 / window on clean data."""
    windows = residual[: len(residual) // _WINDOW * _WINDOW].reshape(-1, _WINDOW, residual.shape[1])
    return float((windows.mean(dim=1) ** 2).mean())
