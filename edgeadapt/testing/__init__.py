"""Public check suites: what a plugin must do, as functions anyone can run on their own.

A device without torch can import this room; ``check_method`` and ``check_identity_stub`` need the
``host`` extra when they are called.
"""

from __future__ import annotations

from edgeadapt.testing._method import check_identity_stub, check_method
from edgeadapt.testing._runtime import check_runtime

__all__ = ["check_identity_stub", "check_method", "check_runtime"]
