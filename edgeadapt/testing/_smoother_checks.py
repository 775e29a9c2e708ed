"""``smooth``: what is sure stays, what is unsure follows the samples that are like it, and what
does not count pulls nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.host.contracts import INACTIVE, one_hot
from edgeadapt.testing._subject import Subject, expect
from edgeadapt.testing._toy import Rows

_SURE = 1e3  # logit of an answer that nothing should turn, whatever the sharpness
_FOLLOW = 0.9


def check_smooth(subject: Subject) -> None:
    rows = subject.toy.rows(48, 12)
    logits = _said(subject, rows)
    smoothed = _smoothed(subject, rows.z, logits, rows.ones)
    expect(smoothed.shape == logits.shape, f"smooth: gives (B, K), got {tuple(smoothed.shape)}")
    expect(bool(smoothed.isfinite().all()), "smooth: logits are finite")
    expect(
        torch.allclose(
            _smoothed(subject, rows.z[:1], logits[:1], rows.ones[:1]), logits[:1], atol=1e-3
        ),
        "smooth: a sample alone stays as it is",
    )
    _check_sure(subject, rows)
    _check_unsure(subject, rows)
    _check_weight(subject, rows)


def _said(subject: Subject, rows: Rows) -> Tensor:
    """Sure and right answers; slots that no class uses are masked as heads do."""
    said = _SURE * one_hot(rows.y, subject.toy.dims.slots)
    said[:, [subject.toy.novel, subject.toy.unused]] = INACTIVE
    return said


def _smoothed(subject: Subject, z: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
    smoothed: Tensor = subject.method.smooth(subject.state, z, logits, weight)
    return smoothed


def _check_sure(subject: Subject, rows: Rows) -> None:
    said = _said(subject, rows)
    lonely = int((rows.y == subject.toy.known[0]).nonzero()[0])
    said[lonely] = said[lonely].roll(1)  # alone against its whole class
    said[lonely, [subject.toy.novel, subject.toy.unused]] = INACTIVE
    expect(
        bool(
            (_smoothed(subject, rows.z, said, rows.ones).argmax(dim=1) == said.argmax(dim=1)).all()
        ),
        "smooth: a sure answer stays, whatever the others say",
    )


def _check_unsure(subject: Subject, rows: Rows) -> None:
    said, unsure = _said(subject, rows), torch.arange(len(rows)) % 3 == 0
    said[unsure] = torch.where(said[unsure] < 0, said[unsure], 0.0)  # every known class alike
    answers = _smoothed(subject, rows.z, said, rows.ones).argmax(dim=1)
    share = float((answers == rows.y)[unsure].to(torch.float32).mean())
    expect(
        share >= _FOLLOW,
        f"smooth: unsure samples follow those that are like them: {_FOLLOW:.0%} of them, got"
        f" {share:.0%}",
    )


def _check_weight(subject: Subject, rows: Rows) -> None:
    said, unsure = _said(subject, rows), torch.arange(len(rows)) % 3 == 0
    said[unsure] = torch.where(said[unsure] < 0, said[unsure], 0.0)
    weight = (torch.arange(len(rows)) % 2).to(torch.float32)
    live = weight > 0
    junk_z = torch.where(live[:, None], rows.z, rows.z.roll(1, dims=0))
    junk = torch.where(live[:, None], said, said.roll(1, dims=0))
    one, two = (
        _smoothed(subject, z, given, weight)[live] for z, given in ((rows.z, said), (junk_z, junk))
    )
    expect(
        torch.allclose(one, two, rtol=1e-4, atol=1e-4),
        "smooth: rows of weight 0 pull no other row, whatever they contain",
    )
