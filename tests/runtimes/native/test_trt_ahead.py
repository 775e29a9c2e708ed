"""Engines that are built before a bundle is opened: all that a learner asks for, found again, and
told about.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from device_day import day_of_one_runtime
from edgeadapt_bench.datasets.mirrored_domain import samples
from edgeadapt_tensorrt import TensorRT
from fake_tensorrt import VERSIONS
from golden_files import GOLDEN
from tiny_models import predict_graph

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.inference.prebuild import Result, build_ahead, lost, requests
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.recovery.trust import check_offer
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import BundleError, RuntimeUnavailable
from edgeadapt.runtime import BuildsAhead, GraphFile, open_runtime

GROWING = GOLDEN / "growing.edge"
NAMES = [f"graphs/{name}.onnx" for name in ("encode", "read", "learn", "adapt", "refold")] + [
    "graphs/encode.onnx, weights that change"
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plans"


def ahead(bundle: Bundle, folder: Path | None, **options: Any) -> list[Result]:
    return list(build_ahead(TensorRT(cache=folder, **options), requests(bundle)))


def outcomes(results: list[Result]) -> dict[str, str]:
    return {result.name: result.outcome for result in results}


# -- what is asked for -----------------------------------------------------------------------------
@pytest.mark.parametrize("version", VERSIONS)
def test_a_learner_on_a_bundle_that_was_built_ahead_builds_nothing(
    tensorrt: Callable[[str], Any], bundle: Bundle, folder: Path, tmp_path: Path, version: str
) -> None:
    trt = tensorrt(version)
    results = ahead(bundle, folder)
    assert (
        [result.name for result in results] == NAMES
        and {result.outcome for result in results} == {"built"}
        and trt.fake.builds == 6
    )
    assert all(
        len(result.files) == 1 and 0 < result.nbytes < result.files[0].stat().st_size
        for result in results
    )
    runtime = TensorRT(cache=folder)
    with open_learner(
        bundle, state=tmp_path / "state", runtime=runtime, budget=Budget(busy_fraction=1.0)
    ) as learner:
        told = day_of_one_runtime(
            learner
        )  # learns, refreshes a correction, re-folds the encoder, rolls back
    assert told["domain"]
    assert runtime.compiler.build_count == 0 and trt.fake.builds == 6 and not runtime.notes


def test_nor_does_one_that_grows_adaptors(trt: Any, folder: Path) -> None:
    bundle = read_bundle(GROWING)
    results = ahead(bundle, folder)
    assert {result.outcome for result in results} == {"built"} and {"fit", "probe"} <= {
        role for spec in bundle.manifest.graphs for role in spec.roles
    }
    runtime = TensorRT(cache=folder)
    with open_learner(bundle, runtime=runtime, budget=Budget(busy_fraction=1.0)) as learner:
        for seed in range(19, 28):
            x, names = samples(32, seed, 1.0)
            seen = learner.observe(x, stream="line")
            learner.settle()
            if learner.domain("line") != "source":
                learner.label(list(seen.ids[:16]), names[:16], source="operator")
                learner.settle()
        assert [
            commit
            for commit in learner.history(200)
            if (commit.kind, commit.outcome) == ("grow", "grown")
        ]
    assert runtime.compiler.build_count == 0 and not runtime.notes


def test_nor_does_the_check_of_a_bundle_that_is_offered_to_a_daemon(
    trt: Any, bundle: Bundle, folder: Path
) -> None:
    ahead(bundle, folder)
    runtime = TensorRT(cache=folder)
    check_offer(bundle, Program(bundle, runtime), None)
    assert runtime.compiler.build_count == 0 and trt.fake.enqueued > 0


def test_what_is_asked_for_is_what_a_program_loads(bundle: Bundle) -> None:
    asked = requests(bundle)
    assert [request.name for request in asked] == NAMES
    refolded = asked[-1]
    assert refolded.constants and set(refolded.constants) <= set(refolded.graph.frozen)
    assert all(
        np.array_equal(value, bundle.frozen[name]) for name, value in refolded.constants.items()
    )


def test_a_profile_is_of_the_batches_that_a_graph_brings_else_of_the_runtime(
    trt: Any, bundle: Bundle, folder: Path
) -> None:
    ahead(bundle, folder, batches=(2, 4))
    found = [
        (
            {
                name: [shape[0] for shape in shapes]
                for name, shapes in built.config.profiles[0].shapes.items()
            }
            if built.config.profiles
            else {}
        )
        for built in trt.fake.built
    ]
    assert (
        found[0] == {"x": [1, 8, 32]}
        and found[3]["x"] == [1, 64, 64]
        and found[4] == {}
        and found[5] == found[0]
    )
    TensorRT(cache=folder, batches=(2, 4)).build(predict_graph(8, 4))
    assert trt.fake.built[-1].config.profiles[0].shapes["x"] == [[1, 8], [4, 8], [4, 8]]


def test_a_graph_may_bring_more_than_the_runtimes_largest_batch(trt: Any) -> None:
    file = predict_graph(4, 2)
    graph = TensorRT(cache=None, largest_batch=32).load(
        GraphFile(file.name, file.model, batches=(1, 64))
    )
    assert graph.engines.for_size(64) is graph.engines.for_size(1) and trt.fake.builds == 1


# -- kept, lost, refused ---------------------------------------------------------------------------
def test_what_is_kept_is_not_built_again_and_what_is_gone_is(
    trt: Any, bundle: Bundle, folder: Path
) -> None:
    first = ahead(bundle, folder)
    assert set(outcomes(ahead(bundle, folder)).values()) == {"kept"} and trt.fake.builds == 6
    first[1].files[0].unlink()
    first[2].files[0].write_bytes(first[2].files[0].read_bytes()[:-1])
    again = ahead(bundle, folder)
    assert [name for name, outcome in outcomes(again).items() if outcome == "built"] == NAMES[
        1:3
    ] and trt.fake.builds == 8
    assert [(result.name, result.nbytes, result.files) for result in again] == [
        (result.name, result.nbytes, result.files) for result in first
    ]


def test_a_kept_plan_that_tensorrt_refuses_is_built_again(
    tensorrt: Callable[[str], Any], bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt("10.16.2.10")
    ahead(bundle, folder)
    trt = tensorrt("10.16.2.10")
    load, refused = trt.Runtime.deserialize_cuda_engine, []

    def refuse_once(self: Any, plan: bytes) -> Any:
        refused.append(plan)
        return None if len(refused) == 1 else load(self, plan)

    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", refuse_once)
    assert list(outcomes(ahead(bundle, folder)).values()) == ["built"] + 5 * ["kept"]


def test_a_graph_that_does_not_build_names_node_and_reason_and_the_others_are_built(
    trt: Any, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # only the graph that adapts has one
    monkeypatch.setattr(fake_tensorrt, "UNSUPPORTED", {"Softmax"})
    results = ahead(bundle, folder)
    failed = [result for result in results if result.outcome == "failed"]
    assert [result.name for result in failed] == ["graphs/adapt.onnx"] and len(results) == 6
    assert (
        "does not take Softmax at node '" in failed[0].note
        and "Plugin not found for operator Softmax (UNSUPPORTED_NODE)" in failed[0].note
    )
    assert not failed[0].files and trt.fake.builds == 5


def test_whatever_an_engine_raises_costs_its_own_graph(
    trt: Any, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, real = TensorRT(cache=folder), TensorRT.build

    def build(self: TensorRT, graph: GraphFile, *arguments: Any) -> Any:
        if graph.name == "graphs/read.onnx":
            raise MemoryError("bad_alloc")
        return real(self, graph, *arguments)

    monkeypatch.setattr(TensorRT, "build", build)
    results = list(build_ahead(runtime, requests(bundle)))
    failed = [result for result in results if result.outcome == "failed"]
    assert [(result.name, result.note) for result in failed] == [
        ("graphs/read.onnx", "MemoryError: bad_alloc")
    ]
    assert all(result.outcome == "built" for result in results if result not in failed)


def test_a_graph_is_built_for_the_runtimes_device_whatever_thread_loads_it(
    trt: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, used = TensorRT(cache=None), set[int]()
    monkeypatch.setattr(runtime._shared.cuda, "use", lambda: used.add(threading.get_ident()))
    real = runtime.compiler.engine
    monkeypatch.setattr(
        runtime.compiler,
        "engine",
        lambda *arguments, **options: (
            built.append(threading.get_ident() in used) or real(*arguments, **options)
        ),
    )
    built: list[bool] = []
    thread = threading.Thread(target=lambda: runtime.load(requests(bundle)[0].graph))
    thread.start()
    thread.join()
    assert built == [True]


def test_weights_that_tensorrt_wants_constant_are_said_to_cost_a_build_each_time(
    trt: Any, bundle: Bundle, folder: Path
) -> None:
    refolded = requests(bundle)[-1]
    trt.fake.refuses_inputs = set(refolded.constants or ())
    last = ahead(bundle, folder)[-1]
    assert (
        last.outcome == "failed"
        and "as inputs it does not build, so each set of values is a build of its own" in last.note
    )
    assert "Could not find any implementation" in last.note


def test_a_folder_with_too_little_room_is_found_out(trt: Any, bundle: Bundle, folder: Path) -> None:
    results = ahead(bundle, folder, cache_mib=1)
    dropped = lost(results)
    assert dropped and NAMES[5] not in dropped  # the newest stays
    assert sum(file.stat().st_size for file in folder.glob("*.trt")) <= 1 << 20
    assert not lost(ahead(bundle, folder, cache_mib=64))


def test_a_plan_that_cannot_be_written_is_a_failure(
    trt: Any, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeadapt_tensorrt._store.os.replace", fail)
    results = ahead(bundle, folder)
    assert {result.outcome for result in results} == {"failed"} and all(
        "its plan is not kept: plan-" in result.note and "No space left on device" in result.note
        for result in results
    )


def test_nothing_is_built_where_nothing_can_be_kept(trt: Any, bundle: Bundle, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    for where in (folder, None):
        runtime = TensorRT(cache=where)
        assert isinstance(runtime, BuildsAhead) and runtime.cache is None
        with pytest.raises(RuntimeUnavailable, match="where nothing is kept"):
            list(build_ahead(runtime, requests(bundle)))
        with pytest.raises(RuntimeUnavailable, match="not built ahead: no plans are kept"):
            runtime.build(predict_graph(4, 2))
    assert trt.fake.builds == 0


def test_a_name_that_is_no_weight_is_refused(trt: Any, bundle: Bundle, folder: Path) -> None:
    with pytest.raises(BundleError, match="no frozen tensor 'zz' to replace"):
        TensorRT(cache=folder).build(requests(bundle)[0].graph, {"zz": np.zeros(1, np.float32)})


def test_onnx_runtime_on_the_cpu_builds_nothing_ahead() -> None:
    assert not isinstance(open_runtime("onnxruntime"), BuildsAhead)


# -- progress and interrupts -----------------------------------------------------------------------
def test_phases_and_steps_are_told_in_order(trt: Any, folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    built = TensorRT(cache=folder).build(
        predict_graph(4, 2), watch=lambda *step: told.append(step) or True
    )  # type: ignore[func-returns-value]
    assert [step for step in told if step[0] == "Building engine"] == [
        ("Building engine", at, 4) for at in range(5)
    ]
    assert (
        told[1] == ("Cloning network graph", 0, 2)
        and told[-1] == ("Building engine", 4, 4)
        and not built.was_kept
    )
    told.clear()
    assert (
        TensorRT(cache=folder)
        .build(predict_graph(4, 2), watch=lambda *step: told.append(step) or True)
        .was_kept
        and not told
    )  # type: ignore[func-returns-value]


def test_a_watch_that_says_no_cancels_the_build_and_keeps_nothing(trt: Any, folder: Path) -> None:
    runtime = TensorRT(cache=folder)
    with pytest.raises(RuntimeUnavailable, match="graph 'predict': its build was cancelled"):
        runtime.build(
            predict_graph(4, 2), watch=lambda phase, step, of: phase != "Computing profile costs"
        )
    assert not list(folder.iterdir()) and not trt.fake.raised
    assert not runtime.build(predict_graph(4, 2)).was_kept and trt.fake.builds == 2


def test_a_watch_that_raises_cancels_and_is_heard_though_tensorrt_passes_no_exception_on(
    trt: Any, folder: Path
) -> None:
    def broken(phase: str, step: int, of: int) -> bool:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        TensorRT(cache=folder).build(predict_graph(4, 2), watch=broken)
    assert not trt.fake.raised and not list(folder.iterdir())


def test_an_interrupt_cancels_the_build_under_way_and_the_next_goes_on(
    trt: Any, bundle: Bundle, folder: Path
) -> None:
    seen: list[Result] = []

    def interrupt(phase: str, step: int, of: int) -> None:
        if len(seen) == 2:
            raise KeyboardInterrupt

    def run() -> None:
        for result in build_ahead(TensorRT(cache=folder), requests(bundle), interrupt):
            seen.append(result)

    trt.fake.step_s = 0.01
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(seen) == 2 and trt.fake.builds == 3 and len(list(folder.glob("plan-*"))) == 2
    trt.fake.step_s = 0.0
    assert (
        list(outcomes(ahead(bundle, folder)).values()) == 2 * ["kept"] + 4 * ["built"]
        and trt.fake.builds == 7
    )


def test_a_tensorrt_that_tells_no_progress_builds_all_the_same(trt: Any, folder: Path) -> None:
    del trt.IProgressMonitor
    told: list[Any] = []
    assert (
        TensorRT(cache=folder)
        .build(predict_graph(4, 2), watch=lambda *step: bool(told.append(step)))
        .nbytes
        > 0
        and not told
    )


def test_a_build_ahead_takes_no_memory_that_stays(
    trt: Any, device: Any, bundle: Bundle, folder: Path
) -> None:
    runtime = TensorRT(cache=folder)
    before = device.count("bytes")
    list(build_ahead(runtime, requests(bundle)))
    assert (
        trt.fake.contexts == 0 and device.count("bytes") == before and len(os.listdir(folder)) == 7
    )


def test_a_result_whose_files_are_gone_is_lost(tmp_path: Path) -> None:
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.touch()
    results = [
        SimpleNamespace(name="a", files=(there,)),
        SimpleNamespace(name="b", files=(there, gone)),
        SimpleNamespace(name="c", files=()),
    ]
    assert lost(results) == ["b"]  # type: ignore[arg-type]
