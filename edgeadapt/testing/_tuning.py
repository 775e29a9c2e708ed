"""The three doors of the tuning suites. The rooms behind them import torch, so they are opened when
they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeadapt.host.tuning.contracts import Delta, Score, Start


def check_delta(delta: Delta) -> None:
    """Check that a delta does what the tuner relies on, on a toy network.

    The network has padded, strided, grouped, depth-wise and 1x1 convolutions, linear layers, batch
    norms, a layer norm and an embedding. The delta is tried at all that it applies to.

    =======  =======================================================================================
    sizes    from 0 on, increasing; at least one site has some
    shapes   a larger size trains more numbers; what is declared is what is trained
    start    float32, finite, the same for the same seed; weights and outputs are the base's to 1e-6
    merged   pure: neither base nor numbers change, the same twice, and a trace computes the same.
             It returns the site's own weight and bias. Every value gets a gradient within two
             steps, and the base none. 60 steps halve the loss of a change that was planted with the
             delta's own numbers. The merged network computes what was trained, bit for bit, its
             graph has as many nodes as the base's and agrees with it to 1e-4
    =======  =======================================================================================

    Args:
        delta: see ``edgeadapt.host.tuning.contracts.Delta``.

    Raises:
        AssertionError: names the delta, the function and the property that does not hold.
    """
    from edgeadapt.testing._deltas import run_delta_suite

    run_delta_suite(delta)


def check_start(start: Start, delta: Delta) -> None:
    """Check first values for a delta, at every linear and convolution site of the toy network of
    :func:`check_delta`.

    They have the shapes that the delta declares, are float32, finite and the same for the same
    seed; a file holds at most ``start.stored`` times what is trained; weights and outputs are the
    base's to 1e-5. All this also with statistics of one direction
    or one entry alone, whose matrices are singular.

    Args:
        start: see ``edgeadapt.host.tuning.contracts.Start``.
        delta: that it is for, by ``start.delta``.

    Raises:
        AssertionError: names the start and the property that does not hold.
    """
    from edgeadapt.testing._starts import run_start_suite

    run_start_suite(start, delta)


def check_score(score: Score, delta: Delta) -> None:
    """Check a score, at every linear and convolution site of the toy network of
    :func:`check_delta`.

    There is one finite value for each size; a larger size never costs more, and the largest costs
    less than none; sites differ. An allocator that reads it stays within its budget, and a larger
    budget never costs more.

    Args:
        score: see ``edgeadapt.host.tuning.contracts.Score``.
        delta: whose sizes it judges.

    Raises:
        AssertionError: names the score and the property that does not hold.
    """
    from edgeadapt.testing._scores import run_score_suite

    run_score_suite(score, delta)


__all__ = ["check_delta", "check_score", "check_start"]
