"""The checks against the fake CUDA and TensorRT: they pass on a device that is right, and fail on
one that is not.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from edgeadapt_bench.gpu import gpu
from edgeadapt_bench.gpu.gpu_check import Task, run
from edgeadapt_bench.gpu.gpu_device import find
from edgeadapt_bench.gpu.gpu_result import GpuRow, table
from edgeadapt_bench.gpu.gpu_step import rows, systems
from edgeadapt_bench.harness.process import Clock

Use = Callable[[Path], None]
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="the fake TensorRT reads graphs with onnx"
)
_RIGHT = "    if (to && from) { pthread_mutex_unlock(&lock); memmove(to, from, op->size);"
WRONG = {
    "device": (_RIGHT, _RIGHT.replace("op->size)", "op->size - (op->size > 4096))")),
    "pinned": (
        "if (kind == TO_HOST && !find(to, size)) pageable++;",
        "if (kind == TO_HOST && !find(to, size)) pageable++; if (kind == ON_DEVICE) LEAVE(OK);",
    ),
    "mapped": ("if (to) memset(to, op->value, op->size);", ""),
    "pool": (_RIGHT, _RIGHT.replace("op->size)", "op->size - 1)")),
    "full": (
        "if (live_bytes + size > capacity) LEAVE(NO_MEMORY);",
        "if (live_bytes + size > capacity) LEAVE(ILLEGAL);",
    ),
    "arrays": ("out[0] = block && is_tagged(pointer) ? 2 : 0;", "out[0] = 2;"),
    "events": (
        "if (op->kind == WAIT) drain(op->other, op->other_seq);",
        "if (op->kind == WAIT) {}",
    ),
    "priorities": ("stream->priority = priority;", "stream->priority = 0;"),
    "replay": (
        "for (Op *op = graph->head; op; op = op->next) push(stream, *op);",
        (
            "if (stream->enqueued < 8) for (Op *op = graph->head; op; op = op->next) push(stream,"
            " *op);"
        ),
    ),
    "broken": (
        "if (stream && stream->capture) { stream->capture->is_invalid = 1; return 1; } return 0;",
        "return stream && stream->capture;",
    ),
}
_MODULES = {check: module for module, check, _ in gpu._CUDART}


def one(check: str) -> list[GpuRow]:
    return run(
        Task("cudart", check, f"edgeadapt_bench.gpu.gpu_{_MODULES[check]}", check, 60.0),
        Clock.of(60),
    )


def test_the_whole_layer_passes_on_the_fake_and_the_result_says_that_it_is_one(
    fake_library: Path, use_fake: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_fake(fake_library)
    refused, taken = tmp_path / "measurements", tmp_path / "elsewhere"
    assert (
        gpu.main(["--out", str(refused), "--elsewhere", str(taken), "--quick", "--parts", "cudart"])
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "takes measured cards only, and the GPU was a fake of the tests" in said
        and "no figure means anything" in said
        and not refused.exists()
    )
    (path,) = taken.glob("*.json")
    content = json.loads(path.read_text())
    assert (
        content["card"]
        == {
            "name": "Fake Orin",
            "board": "",
            "capability": "8.7",
            "driver": "12.6",
            "is_fake": True,
        }
        and "fake" in path.name
    )
    states = {row["name"]: row["state"] for row in content["rows"]}
    not_here = {name for name, state in states.items() if state == "not run"}
    assert (
        not_here <= {"arrays of torch", "arrays of cupy"}
        and list(states.values()).count("passed") == 12
        and list(states.values()).count("measured") == 8
    )


@pytest.mark.parametrize("check", list(WRONG))
def test_a_check_fails_on_a_device_that_is_wrong(
    build_fake: Callable[..., Path], use_fake: Use, check: str
) -> None:
    use_fake(build_fake(WRONG[check]))
    found = one(check)
    assert "failed" in {row.state for row in found}, table(found)


def test_without_a_driver_the_reason_is_one_that_a_user_understands(without_gpu: None) -> None:
    card, reason = find()
    assert (
        card is None
        and reason
        == "no NVIDIA driver: libcuda.so.1 does not load (a container needs --runtime nvidia)"
    )


def test_a_driver_that_ends_the_process_is_no_gpu(
    build_fake: Callable[..., Path], use_fake: Use
) -> None:
    use_fake(
        build_fake(
            (
                "API int cuInit(unsigned flags) { (void)flags; return driver_state; }",
                "API int cuInit(unsigned flags) { abort(); }",
            )
        )
    )
    card, reason = find()
    assert card is None and reason == "asking NVIDIA's driver failed: killed by SIGABRT"


@needs_onnx
def test_native_tensorrt_takes_the_step_with_graphs_and_without_and_copies_no_tensor(
    fake_library: Path, use_fake: Use, tmp_path: Path
) -> None:
    use_fake(fake_library)
    native = [
        system for system in systems(tmp_path / "plans") if system.name.startswith("TensorRT")
    ]
    found = {
        row.name: row
        for row in rows(
            "", (), Clock.of(120), lambda line: None, quick=True, only=native, batches=(8,)
        )
    }
    for system in native:
        row = found[f"batch 8: {system.name}"]
        assert row.state == "measured" and float(row.reason.split()[0]) < 1e-5, row
        copies = found[f"{row.name}, tensors copied over the host in 100 steps"]
        assert (copies.value, copies.target, copies.holds) == (0.0, "<= 0", True)
        graphs = int(row.reason.split(", ")[-1].split()[0])
        assert (graphs == 0) == ("no CUDA graphs" in system.name)
    assert (
        "inputs in place" in found["batch 8: TensorRT"].reason
        and "inputs from the host" in found["batch 8: TensorRT, inputs from the host"].reason
    )


@needs_onnx
def test_bundle_correction_and_story_run_on_native_tensorrt(
    fake_library: Path, use_fake: Use, tmp_path: Path
) -> None:
    use_fake(fake_library)
    given = {"runtime": "tensorrt", "plans": str(tmp_path)}
    parity, story, correction = (
        run(
            Task(part, part, f"edgeadapt_bench.gpu.gpu_{part}", check, 120.0, {**given, **more}),
            Clock.of(300),
        )
        for part, check, more in (
            ("parity", "graph", {"file": "graphs/read.onnx"}),
            ("scenario", "story", {}),
            ("correction", "correction", {"quick": True}),
        )
    )
    assert [(row.state, row.holds) for row in parity] == [("measured", True)]
    assert [row.state for row in story] == ["passed"] * 5 + ["measured"] * 3 and all(
        row.holds for row in story[5:]
    ), table(story)
    assert [row.state for row in correction] == ["measured"] * 2 and correction[
        0
    ].target == "<= 1.02"


def test_a_graph_that_gives_other_numbers_does_not_hold() -> None:
    import numpy as np
    from edgeadapt_bench.gpu.gpu_parity import CLOSE, _off

    wanted = np.array([1.0, -4.0, 0.5], np.float32)
    assert (
        _off(wanted, wanted) == 0
        and _off(wanted + np.float32(0.02), wanted) == pytest.approx(0.005, rel=1e-3)
        and CLOSE < 0.005
    )
    assert _off(np.array([1.0, np.nan, 0.5], np.float32), wanted) == float("inf")
