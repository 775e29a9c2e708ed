"""Fuzzing of everything a device reads that somebody else may have written. ``python tests/fuzz
--executions 1000000``

A target says what it starts from, how to spoil it and what reads it; see ``target.py``. A campaign
runs targets in child processes with bounded time and memory, and follows inputs that reach new
lines.
"""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent
for folder in ("bundle", "support"):  # the tiny bundle and the images are those of the tests
    if str(_TESTS / folder) not in sys.path:
        sys.path.append(str(_TESTS / folder))
