"""Entropy of what the head predicts, which predictions are sure enough to learn from, and when
learning from them has gone wrong.

    H = - sum_k p_k log p_k,  p = softmax(logits / temperature)
    E0 = margin ln K                                         K classes in use
    reliability r = exp(E0 - H) s((E0 - H) / (0.05 ln K))    s the logistic function
    below <- below + 0.3 mean_i s_i ((E0 - H_i) / ln K - below)
            running mean of how far the sure ones lie below the margin, from 0
    reset once margin - below < 0.029

Sources: margin and exp(E0 - H): Niu et al., EATA, ICML 2022, arXiv 2204.02610, eq. 3-4. The guard:
Niu et al., SAR, ICLR 2023, arXiv 2302.12400, section 4: a moving average of the loss below 0.2 at K
= 1000, that is 0.029 ln K; ours starts at the margin and not at the first loss, and moves by 0.3
and not 0.1, since a refresh is rarer than a batch. Ours: the filter has a soft edge of a twentieth
of ln K instead of a step, so that two engines agree on a sample that lies on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import GivesReceipts, Head, Values

MARGIN = 0.4
_EDGE = 0.05  # of ln K
_SINKS = 0.2 / 6.907755  # of ln K: 0.2 of ln 1000
_RATE = 0.3


def entropy_of(logits: Tensor) -> Tensor:
    """(B,) nats of logits (B, K) that were divided by the temperature. Unused slots are at most
    -1e9 and count nothing.
    """
    logs = torch.log_softmax(logits, dim=1)
    return -(torch.exp(logs) * logs).sum(dim=1)


def most(t: Values) -> Tensor:
    """() ln K, the largest entropy over the classes in use; at least that of two."""
    return torch.log(torch.clamp(t["head.active"].sum(), min=2.0))


def reliability(entropy: Tensor, most: Tensor, margin: float = MARGIN) -> Tensor:
    """(B,) weight of each sample, at most exp(margin ln K); no gradient."""
    left = margin * most - entropy.detach()
    return torch.exp(left) * soft_step(left / (_EDGE * most))


def soft_step(value: Tensor) -> Tensor:
    """The logistic function, written out: engines approximate theirs, and below -18 one of them
    gives 0.
    """
    return 1.0 / (1.0 + torch.exp(-value))


def moved_below(
    below: Tensor,
    entropy: Tensor,
    weight: Tensor,
    most: Tensor,
    margin: float = MARGIN,
    steps: int = 1,
) -> Tensor:
    """(1,) the guard's running mean, as a share of ln K; from 0. ``entropy`` (B,), ``weight`` (B,)
    of which those of weight 0 do not count.

    ``steps`` calls on the same memory move it as far as one call would.
    """
    left = margin - entropy.detach() / most
    sure = weight * soft_step(left / _EDGE) / torch.clamp(weight.sum(), min=1e-6)
    return below + (1 - (1 - _RATE) ** (1 / steps)) * (sure * (left - below)).sum()


def has_sunk(below: Tensor, margin: float = MARGIN) -> Tensor:
    """() 1 where the guard says that predictions collapse."""
    return (margin - below < _SINKS).to(torch.float32).sum()


def require_gradient(head: Head, method: str) -> None:
    """A head that counts or looks up has no gradient with respect to the feature.

    Raises:
        InputError: names head and method.
    """
    if isinstance(head, GivesReceipts):
        raise InputError(
            f"adapt = {method!r} needs a head that a gradient goes through, and {head.name} looks"
            " its answers up"
        )
