"""A whole learner over several runtimes is the learner that it is on the CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_day import days, images
from edgeadapt_onnxruntime import OnnxRuntime
from fake_runtimes import MadeUp, Slow, Wrong
from placement_trials import PATIENCE_S, settle

from edgeadapt.demo.sample import KNOWN, bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import StateError
from edgeadapt.placement import PlacedRuntime, Rules
from edgeadapt.testing import inspect_state


def same(told: dict[str, Any], right: dict[str, Any]) -> None:
    assert (
        told.keys() == right.keys()
        and right["domain"]
        and np.abs(right["worse"] - right["back"]).max() > 0.01
    )
    for name, value in right.items():
        np.testing.assert_allclose(told[name], value, atol=1e-4, err_msg=name)


def test_a_learner_whose_graphs_move_is_the_learner_of_the_cpu(
    slow_cpu: dict[str, Any],
    register: Callable[..., None],
    opened: Callable[..., PlacedRuntime],
    tmp_path: Path,
) -> None:
    slow_cpu["ms"] = 0.0
    right, learned, _ = days(OnnxRuntime(), tmp_path / "cpu", lambda learner: None)
    slow_cpu.update(ms=0.5, by_graph={"graphs/encode.onnx": 0.0, "graphs/adapt.onnx": 0.0})
    register(MadeUp)
    runtime = opened(rules=Rules(calls=2))
    moved: set[str] = set()

    def between(learner: Learner) -> None:
        settle(runtime)
        moved.update(role for role, where in learner.placement().items() if where != "onnxruntime")

    told, found, placement = days(runtime, tmp_path / "auto", between)
    same(told, right)
    assert found.keys() == learned.keys()
    # the made-up runtime computes with the same kernels: what was learned is the same, bit for bit
    for name, value in learned.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert {"predict", "learn"} <= moved and "made-up" in "+".join(placement.values())
    refolded = [row for row in runtime.report()["graphs"] if row["is_refolded"]]
    assert refolded and not runtime.lost


@pytest.mark.parametrize("candidate", [Slow, Wrong])
def test_a_learner_beside_a_candidate_that_is_no_good_stays_on_the_cpu(
    candidate: Any, register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(candidate)
    runtime = opened(rules=Rules(calls=1))
    x, names = images(64, KNOWN, 3)
    with (
        open_learner(bundle_path(), runtime=runtime) as learner,
        open_learner(bundle_path(), runtime=OnnxRuntime()) as plain,
    ):
        for at in (0, 32):
            for one in (learner, plain):
                seen = one.observe(x[at : at + 32])
                one.label(seen.ids, names[at : at + 32])
                one.settle()
            settle(runtime)
        assert set(learner.placement().values()) == {"onnxruntime"}
        np.testing.assert_array_equal(learner.predict(x).probs, plain.predict(x).probs)
        assert learner.digest() is not None and candidate.opened[0].calls > 0


def test_a_learner_that_opens_auto_closes_what_it_opened(register: Callable[..., None]) -> None:
    register(MadeUp)
    with open_learner(bundle_path(), runtime="auto") as learner:
        learner.predict(images(1, KNOWN, 1)[0])
        report = learner.placement_report()
        assert report["roles"] == learner.placement() and report["runtimes"].keys() == {
            "onnxruntime",
            "made-up",
        }
        assert any(thread.name.startswith("placement") for thread in threading.enumerate())
    end = time.monotonic() + PATIENCE_S
    while any(thread.name.startswith("placement") for thread in threading.enumerate()):
        assert time.monotonic() < end


def test_a_bundle_that_does_not_open_leaves_no_thread(
    register: Callable[..., None], tmp_path: Path
) -> None:
    register(MadeUp)
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateError):
        open_learner(bundle_path(), state=tmp_path / "state", runtime="auto")
    end = time.monotonic() + PATIENCE_S
    while any(thread.name.startswith("placement") for thread in threading.enumerate()):
        assert time.monotonic() < end


def test_a_learner_on_one_runtime_reports_that_one() -> None:
    with open_learner(bundle_path(), runtime=OnnxRuntime()) as learner:
        report = learner.placement_report()
    assert (
        report["runtimes"] == {"onnxruntime": {"state": "serves", "why": "it is the only one"}}
        and not report["graphs"]
        and not report["lost"]
    )
    assert set(report["roles"].values()) == {"onnxruntime"}


def test_what_the_worker_spends_on_a_device_is_metered(
    slow_cpu: dict[str, Any], register: Callable[..., None], opened: Callable[..., PlacedRuntime]
) -> None:
    register(MadeUp)
    runtime = opened()
    with open_learner(bundle_path(), runtime=runtime) as learner:
        assert inspect_state(learner).meter._spent == runtime.spent
    with open_learner(bundle_path(), runtime=OnnxRuntime()) as learner:
        assert inspect_state(learner).meter._spent is time.thread_time
