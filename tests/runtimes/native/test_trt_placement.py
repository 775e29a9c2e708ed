"""``auto`` with this runtime as a candidate: a learner whose graphs move to the GPU that is not
there, and what happens when it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_day import days
from edgeadapt_onnxruntime import OnnxRuntime
from edgeadapt_onnxruntime._executable import OnnxExecutable
from placement_trials import settle

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.placement import PlacedRuntime, Rules
from edgeadapt.runtime import open_runtime


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make ONNX Runtime on the CPU slower, and more so for the encoder, so that the fake is worth
    it.
    """
    plain = OnnxExecutable.__call__

    def make(ms: float, encoder_ms: float) -> None:
        def slowly(self: Any, ports: Any, tensors: Any) -> Any:
            time.sleep(1e-3 * (encoder_ms if self._name == "graphs/encode.onnx" else ms))
            return plain(self, ports, tensors)

        monkeypatch.setattr(OnnxExecutable, "__call__", slowly)

    return make


@pytest.fixture
def auto(trt: Any) -> Iterator[PlacedRuntime]:
    runtime = open_runtime("auto", rules=Rules(calls=2))
    assert isinstance(runtime, PlacedRuntime) and [place.name for place in runtime.places] == [
        "onnxruntime",
        "tensorrt",
    ]
    yield runtime
    assert runtime.close()


def test_a_learner_whose_graphs_move_to_tensorrt_is_the_learner_of_the_cpu(
    auto: PlacedRuntime, trt: Any, slow: Callable[..., None], tmp_path: Path
) -> None:
    right, learned, _ = days(OnnxRuntime(), tmp_path / "cpu", lambda learner: None)
    slow(4.0, encoder_ms=40.0)
    moved: set[str] = set()

    def between(learner: Learner) -> None:
        settle(auto)
        moved.update(role for role, where in learner.placement().items() if "tensorrt" in where)

    told, found, _ = days(auto, tmp_path / "auto", between)
    # twenty labels that contradict the head: a rounding decides which of them are believed, with
    # TensorRT alone, too
    right.pop("worse")
    for name, value in right.items():
        np.testing.assert_allclose(told[name], value, atol=1e-4, err_msg=name)
    for name, value in learned.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    assert {"encode", "predict", "learn"} <= moved and trt.fake.enqueued > 20
    report = auto.report()
    assert report["runtimes"]["tensorrt"]["state"] == "serves" and not report["lost"]
    assert any(row["is_refolded"] for row in report["graphs"])


def test_a_gpu_that_fails_gives_the_call_back_to_the_cpu(
    auto: PlacedRuntime, device: Any, slow: Callable[..., None]
) -> None:
    from placement_trials import drive

    bundle = read_bundle(bundle_path())
    spec = next(spec for spec in bundle.manifest.graphs if "encode" in spec.roles)
    run = auto.load(bundle.graph_file(spec))
    x = np.random.default_rng(0).integers(0, 255, (8, 28, 28)).astype(np.uint8)
    right = run({"x": x}, auto.upload({}))[0]["z"]
    slow(4.0, encoder_ms=40.0)
    drive(auto, lambda: run({"x": x}, auto.upload({})))
    assert auto.where(run) == "tensorrt"
    device.broken()
    np.testing.assert_array_equal(run({"x": x}, auto.upload({}))[0]["z"], right)
    assert auto.where(run) == "onnxruntime" and "DeviceError" in auto.report()["notes"][-1]


def test_a_build_ends_with_the_trials(auto: PlacedRuntime, trt: Any) -> None:
    trt.fake.step_s = 0.5  # of seven
    bundle = read_bundle(bundle_path())
    spec = next(spec for spec in bundle.manifest.graphs if "encode" in spec.roles)
    run = auto.load(bundle.graph_file(spec))
    end = time.monotonic() + 10
    while not trt.fake.builds:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert auto.close(2.0)
    assert not auto.report()["doing"] and not run.refused and not auto.report()["notes"]
    x = np.random.default_rng(0).integers(0, 255, (8, 28, 28)).astype(np.uint8)
    assert run({"x": x}, auto.upload({}))[0]["z"].shape[0] == 8 and auto.where(run) == "onnxruntime"
