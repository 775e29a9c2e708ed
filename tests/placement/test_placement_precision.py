"""Graphs in float16 and int8: right kernels agree less there, and what is quantised when an engine
is built cannot be replaced later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_runtimes import MadeUp, Wrong, batch, predict_graph, scale_graph, table
from placement_trials import drive, rows

from edgeadapt.placement import PlacedRuntime
from edgeadapt.runtime import Tensors

Open = Callable[..., PlacedRuntime]
Register = Callable[..., None]


class OtherKernels(MadeUp):
    """By half a hundredth of every number: what other kernels of low precision differ by."""

    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        return self.changed(
            outputs, written, lambda value: (value * np.float32(1.005)).astype(value.dtype)
        )


class FarOff(Wrong):
    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        return self.changed(
            outputs, written, lambda value: (value * np.float32(1.05)).astype(value.dtype)
        )


@pytest.mark.parametrize(
    ("candidate", "precision", "where"),
    [
        (OtherKernels, "float32", "onnxruntime"),
        (OtherKernels, "float16", "made-up"),
        (OtherKernels, "int8", "made-up"),
        (FarOff, "int8", "onnxruntime"),
    ],
)
def test_how_much_is_rounding_depends_on_what_a_graph_computes_in(
    candidate: Any,
    precision: str,
    where: str,
    slow_cpu: dict[str, Any],
    register: Register,
    opened: Open,
) -> None:
    register(candidate)
    runtime = opened()
    tensors = runtime.upload(table())
    run = runtime.load(replace(predict_graph(), precision=precision))
    drive(runtime, lambda: run({"x": batch(8)}, tensors))
    assert runtime.where(run) == where


@pytest.mark.parametrize(
    ("precision", "where"),
    [("int8", "onnxruntime"), ("float16", "made-up"), ("float32", "made-up")],
)
def test_a_quantised_graph_with_other_constants_stays_where_they_are_built_in(
    precision: str, where: str, slow_cpu: dict[str, Any], register: Register, opened: Open
) -> None:
    class ByInput(MadeUp):
        refolds_by_input = True

    register(ByInput)
    runtime = opened()
    graph = replace(scale_graph(), precision=precision)
    run = runtime.load(graph, {"k.scale": np.array([3, 2, 1], np.float32)})
    x = np.ones((4, 3), np.float32)
    drive(runtime, lambda: run({"x": x}, Tensors()))
    assert runtime.where(run) == where
    np.testing.assert_array_equal(run({"x": x}, Tensors())[0]["y"], np.tile([3, 2, 1], (4, 1)))
    if precision == "int8":
        assert (
            "cannot quantise weights that are replaced"
            in rows(runtime, "check-scale")[0]["refused"]["made-up"]
        )
