"""Scores of single samples: how hard a sample is for the current head. All come from the forward
pass that already ran.

    perplexity   1 / p_y   the one-token case of exp(mean negative log-likelihood)
    entropy      - sum_k p_k ln p_k
    el2n         |p - onehot(y)|   Paul et al., NeurIPS 2021 (arXiv 2107.07075)
    grand        |p - onehot(y)| sqrt(|z|^2 + 1)               the same; exact for the last layer
    grounding    p_y / blank_y = perplexity without / with
                     image grounding of Adapt-infinity: how much the content of the input matters

Source: Maharana et al., ICLR 2025 (arXiv 2410.10636), section 4. Its code gives perplexity as an
arithmetic mean of 1 / p over tokens in one place and as a geometric mean in another; with one label
per sample the two agree. Its grounding runs the model twice; with a frozen encoder the features of
a blank input are a constant, so ``blank`` is computed once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeadapt.device.coreset.gradients import gradient_norms, residuals
from edgeadapt.device.coreset.samples import F64, Samples
from edgeadapt.errors import InputError

_LEAST = 1e-12  # probability


def perplexity(samples: Samples) -> F64:
    """(N,) 1 / p_y, from 1."""
    return 1.0 / np.maximum(_given(samples)[np.arange(len(samples)), samples.y], _LEAST)


def entropy(samples: Samples) -> F64:
    """(N,) in nats, 0 .. ln K."""
    p = np.maximum(_given(samples), _LEAST)
    return np.asarray(-(p * np.log(p)).sum(axis=1))


def el2n(samples: Samples) -> F64:
    """(N,) 0 .. sqrt(2)."""
    return np.asarray(np.sqrt((residuals(_given(samples), samples.y) ** 2).sum(axis=1)))


def grand(samples: Samples) -> F64:
    """(N,) length of the gradient of the last layer."""
    return gradient_norms(residuals(_given(samples), samples.y), samples.z)


def grounding(samples: Samples) -> F64:
    """(N,) above 1 where the input makes its label likelier than a blank one does.

    Raises:
        InputError: ``blank`` is not given.
    """
    if samples.blank is None:
        raise InputError(
            "the grounding expert needs Samples(blank=...), the probabilities of an input without"
            " content"
        )
    return np.maximum(samples.blank, _LEAST)[samples.y] ** -1 * np.maximum(
        _given(samples)[np.arange(len(samples)), samples.y], _LEAST
    )


EXPERTS: dict[str, Callable[[Samples], F64]] = {
    expert.__name__: expert for expert in (perplexity, entropy, el2n, grand, grounding)
}


def scores(samples: Samples) -> dict[str, F64]:
    """Every expert whose inputs are there."""
    return {
        name: expert(samples)
        for name, expert in EXPERTS.items()
        if name != "grounding" or samples.blank is not None
    }


def _given(samples: Samples) -> F64:
    if samples.p is None:
        raise InputError(
            "difficulty experts need Samples(p=...), the probabilities of the current head"
        )
    return samples.p
