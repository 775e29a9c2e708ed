"""The suites that hold the whole against its bars: each runs on the shipped bundle and says what a user could pick instead.

``edgeadapt bench NAME`` runs one. All take a data folder, seeds and a line printer, and return rows.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeadapt.bench.answers import run_answers
from edgeadapt.bench.classes import run_classes
from edgeadapt.bench.detection import run_detection
from edgeadapt.bench.guarding import run_guard
from edgeadapt.bench.material import Say
from edgeadapt.bench.measure import Row

Suite = Callable[[str | None, tuple[int, ...], Say], list[Row]]
SPINE: dict[str, Suite] = {"detection": run_detection, "answers": run_answers, "classes": run_classes, "guard": run_guard}

__all__ = ["SPINE", "Suite", "run_answers", "run_classes", "run_detection", "run_guard"]
