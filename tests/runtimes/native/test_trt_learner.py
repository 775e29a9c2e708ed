"""The shipped bundle on this runtime: the same numbers as on ONNX Runtime, and a learner that
predicts, learns, rolls back and reopens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_day import day_of_one_runtime, images
from edgeadapt_onnxruntime import OnnxRuntime
from edgeadapt_tensorrt import TensorRT
from fake_tensorrt import VERSIONS

from edgeadapt.bundle import Bundle
from edgeadapt.demo.sample import CLASSES
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.runtime import Runtime


def ports_of(spec: Any, batch: int, rng: np.random.Generator) -> dict[str, Any]:
    """Values that every graph of the bundle takes."""
    values = {}
    for port in spec.ports:
        shape = tuple(batch if dim is None else dim for dim in port.shape)
        if port.dtype == "float32":
            values[port.name] = rng.uniform(0, 1, shape).astype(np.float32)
        else:
            values[port.name] = rng.integers(0, 6 if port.name == "y" else 255, shape).astype(
                port.dtype
            )
    return values


@pytest.mark.parametrize("version", VERSIONS)
def test_every_graph_of_the_demo_gives_the_numbers_of_onnx_runtime(
    tensorrt: Callable[[str], Any], version: str, bundle: Bundle
) -> None:
    tensorrt(version)
    runtimes: list[Runtime] = [OnnxRuntime(), TensorRT(cache=None)]
    names = {read for spec in bundle.manifest.graphs for read in spec.reads}
    rng = np.random.default_rng(0)
    seen = 0
    for spec in bundle.manifest.graphs:
        values = {
            s.name: rng.uniform(0.5, 1.5, s.shape).astype(s.dtype)
            for s in bundle.manifest.tensors
            if s.name in names
        }
        for batch in (1, 5, 32):
            ports = ports_of(spec, batch, rng)
            results = []
            for runtime in runtimes:
                tensors = runtime.upload(values)
                graph = runtime.load(bundle.graph_file(spec))
                for _ in range(4):  # the fourth is a replay of a CUDA graph
                    outputs, written = graph(ports, tensors)
                results.append(outputs | runtime.download(written))
            assert results[0].keys() == results[1].keys() and results[0]
            for name, value in results[0].items():
                np.testing.assert_array_equal(
                    results[1][name], value, err_msg=f"{spec.file} {name}"
                )
                seen += bool(np.ptp(value) > 0) if value.size else 0
    assert seen > 30


def test_a_whole_learner_lives_on_it_as_on_onnx_runtime(
    trt: Any, device: Any, bundle: Bundle, tmp_path: Path
) -> None:
    told, digests, budget = [], [], Budget(busy_fraction=1.0)
    runtimes: list[Runtime] = [OnnxRuntime(), TensorRT(cache=None)]
    for runtime in runtimes:
        state = tmp_path / runtime.name
        with open_learner(bundle, state=state, runtime=runtime, budget=budget) as learner:
            told.append(day_of_one_runtime(learner))
            digests.append(learner.digest())
            assert set(learner.placement().values()) == {runtime.name}
        with open_learner(bundle, state=state, runtime=runtime, budget=budget) as learner:
            assert learner.digest() == digests[-1]
            told[-1]["reopened"] = learner.predict(images(40, CLASSES, 9)[0]).probs
    assert told[1]["domain"] and np.abs(told[1]["learned"][:, :6] - told[1]["before"]).max() > 0.05
    for name, value in told[0].items():
        np.testing.assert_allclose(told[1][name], value, atol=1e-4, err_msg=name)
    # most runs are replays of CUDA graphs
    assert device.count("launches") > 2 * trt.fake.enqueued > 50
    assert trt.fake.builds == 6  # five graphs, and the encoder with weights that change
    assert device.count("pageable") == 0
