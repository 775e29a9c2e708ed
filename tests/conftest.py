"""A device has no torch: without it the host's tests are left out, and pytest's header says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# module -> folders of tests that build their graphs with it
_NEEDS = {"torch": ("host",), "onnx": ("host", "bundle")}
_missing = [module for module in _NEEDS if importlib.util.find_spec(module) is None]
collect_ignore = sorted(
    {str(Path(__file__).parent / folder) for module in _missing for folder in _NEEDS[module]}
)


def pytest_report_header() -> list[str]:
    left_out = {folder for module in _missing for folder in _NEEDS[module]}
    return (
        [f"without {', '.join(_missing)}: tests/{', tests/'.join(sorted(left_out))} left out"]
        if _missing
        else []
    )
