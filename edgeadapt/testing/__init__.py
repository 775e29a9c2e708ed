"""Public check suites: what a plugin must do, as functions anyone can run on their own; and
``inspect_state``, what a learner is made of, for tests.

A device without torch can import this package; ``check_method``, ``check_identity_stub`` and those
of tuning, ``check_delta``, ``check_start`` and ``check_score``, need the ``host`` extra when they
are called.
"""

from __future__ import annotations

from edgeadapt.testing._method import check_identity_stub, check_method
from edgeadapt.testing._runtime import check_runtime
from edgeadapt.testing._tuning import check_delta, check_score, check_start
from edgeadapt.testing.state_inspection import StateInspection, inspect_state

__all__ = [
    "StateInspection",
    "check_delta",
    "check_identity_stub",
    "check_method",
    "check_runtime",
    "check_score",
    "check_start",
    "inspect_state",
]
