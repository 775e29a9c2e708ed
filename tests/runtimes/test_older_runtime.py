"""A runtime that was written before the protocol had members with defaults, and derives from
nothing of ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from edgeadapt_onnxruntime import OnnxRuntime

import edgeadapt
from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.placement import PlacedRuntime
from edgeadapt.runtime import BuildsAhead, Executable, GraphFile, Runtime, Tensors, with_defaults
from edgeadapt.testing import inspect_state


class Older:
    name = "older"
    __slots__ = ("_engine",)

    def __init__(self) -> None:
        self._engine = OnnxRuntime()

    def load(self, graph: GraphFile, constants: Mapping[str, Any] | None = None) -> Executable:
        return self._engine.load(graph, constants)

    def upload(self, values: Mapping[str, Any]) -> Tensors:
        return self._engine.upload(values)

    def download(self, tensors: Tensors, names: Iterable[str] | None = None) -> dict[str, Any]:
        return self._engine.download(tensors, names)


class OlderThatSays(Older):
    """What the protocol of then allowed."""

    runs_where_called = True
    spent = None
    refolds_by_input = True


def test_a_learner_opens_on_an_older_runtime_and_reports_the_one_place_it_has() -> None:
    older = Older()
    with edgeadapt.open(read_bundle(bundle_path()), runtime=older) as learner:  # type: ignore[arg-type]
        x = np.zeros((2, *learner.manifest.input.shape), learner.manifest.input.dtype)
        assert len(learner.predict(x).labels) == 2
        assert set(learner.placement().values()) == {"older"}
        report = learner.placement_report()
        assert report["runtimes"] == {"older": {"state": "serves", "why": "it is the only one"}}
        assert inspect_state(learner).program.runtime is older
        assert inspect_state(learner).meter._spent is time.perf_counter


def test_what_an_older_runtime_says_of_itself_stays() -> None:
    says = with_defaults(OlderThatSays())
    assert (says.runs_where_called, says.refolds_by_input, says.lost) == (True, True, "")
    assert says.spent is time.thread_time and says.close()
    assert isinstance(says, Runtime) and not isinstance(says, BuildsAhead)


def test_an_older_runtime_may_be_the_reference_of_a_placement() -> None:
    placing = PlacedRuntime(Older(), [])  # type: ignore[arg-type]
    assert placing.spent is time.perf_counter and not placing.runs_where_called
    assert placing.close()
