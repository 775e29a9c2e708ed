"""The suites that hold the whole against its bars: each runs on the shipped bundle and says what a
user could pick instead.

``edgeadapt bench NAME`` runs one. All take a data folder, seeds and a line printer, and return
rows.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeadapt_bench.datasets.material import Say
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.labels.answers import run_answers
from edgeadapt_bench.labels.classes import run_classes
from edgeadapt_bench.labels.guarding import run_guard
from edgeadapt_bench.shift.detection import run_detection

Suite = Callable[[str | None, tuple[int, ...], Say], list[Row]]
SPINE: dict[str, Suite] = {
    "detection": run_detection,
    "answers": run_answers,
    "classes": run_classes,
    "guard": run_guard,
}
