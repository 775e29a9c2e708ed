"""Candidates that are registered for one test, and a CPU that is slow for one test."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from edgeadapt_onnxruntime._executable import OnnxExecutable

import edgeadapt.runtime
from edgeadapt.placement import PlacedRuntime

sys.path.append(str(Path(__file__).parent))  # fake_runtimes


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register these classes as the only runtimes beside ONNX Runtime on the CPU."""

    def put(*classes: Any) -> None:
        ours = [
            entry
            for entry in entry_points(group="edgeadapt.runtimes")
            if entry.name == "onnxruntime"
        ]
        for one in classes:
            one.opened = []
        made_up = [
            SimpleNamespace(
                name=one.name if len(classes) == 1 else one.__name__.lower(),
                load=lambda one=one: one,
            )
            for one in classes
        ]
        monkeypatch.setattr(edgeadapt.runtime, "entry_points", lambda group: [*ours, *made_up])

    return put


@pytest.fixture
def opened() -> Iterator[Callable[..., PlacedRuntime]]:
    """Open ``auto``; it is closed at the end."""
    made: list[PlacedRuntime] = []

    def open_auto(**options: Any) -> PlacedRuntime:
        runtime = edgeadapt.runtime.open_runtime("auto", **options)
        assert isinstance(runtime, PlacedRuntime)
        made.append(runtime)
        return runtime

    yield open_auto
    assert all(runtime.close() for runtime in made)
    assert not [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("placement") and thread.is_alive()
    ]


@pytest.fixture
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """ONNX Runtime on the CPU takes milliseconds longer: ``ms``, or by graph, and ``ms_per_row``.
    ``calls`` counts.
    """
    setting: dict[str, Any] = {"ms": 3.0, "ms_per_row": 0.0, "by_graph": {}, "calls": 0}
    plain = OnnxExecutable.__call__

    def slowly(self: Any, ports: Any, tensors: Any) -> Any:
        rows = max((len(value) for value in ports.values() if getattr(value, "ndim", 0)), default=0)
        setting["calls"] += 1
        time.sleep(
            1e-3
            * (setting["by_graph"].get(self._name, setting["ms"]) + rows * setting["ms_per_row"])
        )
        return plain(self, ports, tensors)

    monkeypatch.setattr(OnnxExecutable, "__call__", slowly)
    return setting
