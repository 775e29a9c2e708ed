"""The method suite in order: what is declared, what it does, and that it compiles. The cheap checks
come first.
"""

from __future__ import annotations

from typing import Any

from edgeadapt.host.contracts import Dims
from edgeadapt.testing._correction_checks import check_adapt, check_adjust, check_correct, check_fit
from edgeadapt.testing._declarations import (
    check_derived,
    check_factory,
    check_name,
    check_numerics,
    check_specs,
)
from edgeadapt.testing._encoder_checks import check_adapt_encoder
from edgeadapt.testing._graph_checks import check_compiles
from edgeadapt.testing._head_checks import check_learn, check_predict
from edgeadapt.testing._novelty_checks import check_novelty, check_shift
from edgeadapt.testing._smoother_checks import check_smooth
from edgeadapt.testing._subject import Subject, adapts_encoder, has
from edgeadapt.testing._toy import Toy

_CHECKS = {
    "learn": check_learn,
    "predict": check_predict,
    "novelty": check_novelty,
    "shift": check_shift,
    "correct": check_correct,
    "adjust": check_adjust,
    "smooth": check_smooth,
}


def run_suite(method: Any, *, features: int, taps: int, slots: int) -> None:
    """See :func:`edgeadapt.testing.check_method`.

    Raises:
        AssertionError: ``<method>: <function>: <property>``.
    """
    try:
        _run(method, features, taps, slots)
    except AssertionError as error:
        raise AssertionError(
            f"{getattr(method, 'name', type(method).__name__)}: {error}"
        ) from error


def _run(method: Any, features: int, taps: int, slots: int) -> None:
    check_name(method)
    if adapts_encoder(method):
        features, taps = method.encoder.dim, method.encoder.tap_dim
    dims = Dims(features, taps, slots)
    check_specs(method, dims)
    check_numerics(method, dims)
    check_factory(method, Toy(dims))
    subject = Subject.of(method, dims)
    check_derived(subject)
    for function, check in _CHECKS.items():
        if has(method, function):
            check(subject)
    if has(method, "adapt"):
        (check_adapt_encoder if adapts_encoder(method) else check_adapt)(subject)
    learning_rate = check_fit(subject) if has(method, "fit") else 0.0
    check_compiles(subject, learning_rate)
