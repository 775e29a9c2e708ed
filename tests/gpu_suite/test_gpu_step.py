"""The step of the GPU suite on the CPU: the written-out reference is torch's, systems agree with
it, and one that does not is not timed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeadapt_bench.gpu import gpu_reference, gpu_step
from edgeadapt_bench.gpu.gpu_rates import LAUNCH, ON_THE_DEVICE
from edgeadapt_bench.gpu.gpu_result import GpuRow, measured
from edgeadapt_bench.gpu.gpu_step import EAGER, System, floor_us, rows
from edgeadapt_bench.harness.process import Clock

_BENCH = "edgeadapt_bench.gpu.gpu_step_"
NUMPY = System("numpy on the CPU", (f"{_BENCH}arrays", "numpy"), is_gpu=False)
OURS = System(
    "ONNX Runtime on the CPU",
    (f"{_BENCH}runtime", "onnxruntime", "/nowhere"),
    is_gpu=False,
    is_ours=True,
)
_BAD = """
import os, signal, sys, time
from edgeadapt_bench.gpu import gpu_reference
from edgeadapt_bench.gpu.gpu_step_arrays import Written
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.child.step_protocol import steps_of

class Bad(Written):
    count = 0
    def step(self, index):
        Bad.count += 1
        if sys.argv[1] == "crashes" and Bad.count > 20: os.kill(os.getpid(), signal.SIGSEGV)
        if sys.argv[1] == "hangs" and Bad.count > 20: time.sleep(600)
        return super().step(index)

if sys.argv[1] == "drifts": gpu_reference.LEARNING_RATE *= 1.01
if sys.argv[1] == "forgets": gpu_reference.BETA = 0.0
serve(steps_of(lambda material: Bad(material, "numpy")))
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_bad_system.py").write_text(_BAD)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    return "a_bad_system"


def run(
    *systems: System,
    rates: tuple[GpuRow, ...] = (),
    no_card: str = "",
    batches: tuple[int, ...] = (8,),
) -> list[GpuRow]:
    return rows(
        no_card, rates, Clock.of(120), lambda line: None, quick=True, only=systems, batches=batches
    )


def by_name(found: list[GpuRow]) -> dict[str, GpuRow]:
    assert len({row.name for row in found}) == len(found)
    return {row.name: row for row in found}


# -- the reference ---------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [1, 8])
def test_the_reference_is_torchs_float64_step_by_step(tmp_path: Path, batch: int) -> None:
    torch = pytest.importorskip("torch")
    from edgeadapt_bench.harness.child.step_protocol import StepInputs
    from edgeadapt_bench.steps._step_worker_torch import Eager

    reference = gpu_reference.write(tmp_path, batch)
    step_inputs = StepInputs(tmp_path)
    theirs, ours = Eager(step_inputs, dtype=torch.float64), gpu_reference.Exact(step_inputs.start)
    for index in range(gpu_reference.STEPS):
        given = step_inputs.at(index)
        assert theirs.step(index) == pytest.approx(
            float(ours.step(given["x"], given["y"])), rel=1e-12
        )
    for name, value in theirs.parameters().items():
        moved = np.abs(reference.ends[0][name] - step_inputs.start[name]).max()
        assert moved > 1e-4, name
        np.testing.assert_allclose(
            reference.ends[0][name], value, atol=1e-9 * moved, rtol=0, err_msg=name
        )


def test_the_graph_that_is_carried_has_the_tensors_of_the_step_as_it_is_compiled_today() -> None:
    pytest.importorskip("torch")
    from edgeadapt_bench.steps import adaptor_step

    from edgeadapt.runtime import GraphFile, open_runtime

    _, _, tensors = adaptor_step.step()
    signature = open_runtime().load(GraphFile("step", gpu_reference.GRAPH.read_bytes())).signature
    state = gpu_reference.tensors(gpu_reference.parameters())
    wanted = {name: tuple(value.shape) for name, value in tensors.items()}
    assert (
        {name: value.shape for name, value in state.items()}
        == wanted
        == {port.name: port.shape for port in signature.writes}
    )
    assert {port.name: port.shape for port in signature.ports} == {
        "x": (None, adaptor_step.WIDTH),
        "y": (None,),
    }
    packed = {name: adaptor_step.parameters()[name].numpy() for name in gpu_reference.parameters()}
    unpacked = gpu_reference.named(gpu_reference.tensors(packed))
    for name, value in adaptor_step.named(adaptor_step.step()[2]).items():
        np.testing.assert_array_equal(unpacked[name], value.numpy(), err_msg=name)


@pytest.mark.slow
def test_on_a_small_board_systems_run_in_groups_with_eager_in_each() -> None:
    pytest.importorskip("torch")
    eager = System(EAGER, (f"{_BENCH}torch", "cpu"), "torch")
    others = [replace(NUMPY, name=f"numpy {number}", is_gpu=True) for number in range(3)]
    said: list[str] = []
    found = by_name(
        rows(
            "",
            (),
            Clock.of(120),
            said.append,
            quick=True,
            only=[eager, *others],
            batches=(8,),
            at_once=2,
        )
    )
    assert {row.state for name, row in found.items() if "floor" not in name} == {
        "measured"
    } and not said
    assert all(found[f"batch 8: {other.name}, times faster than {EAGER}"].value for other in others)
    heats = gpu_step._heats([gpu_step._entrant(system) for system in (eager, *others)], 2)
    assert [[entrant.name for entrant in heat] for heat in heats] == [
        [EAGER, f"numpy {number}"] for number in range(3)
    ]


# -- systems ---------------------------------------------------------------------------------------
def test_numpy_and_onnx_runtime_agree_with_float64_and_are_timed() -> None:
    found = by_name(run(NUMPY, OURS, batches=(1, 8)))
    for batch in (1, 8):
        for system in (NUMPY, OURS):
            row = found[f"batch {batch}: {system.name}"]
            assert (
                row.state == "measured"
                and row.value
                and row.low
                and row.high
                and row.low <= row.value <= row.high
            )
            assert float(row.reason.split()[0]) < 1e-5
        assert found[f"batch {batch}: the floor"].state == "not run"


def test_torch_on_the_cpu_agrees_and_ratios_are_to_eager() -> None:
    pytest.importorskip("torch")
    eager = System(EAGER, (f"{_BENCH}torch", "cpu"), "torch")
    found = by_name(
        run(
            eager,
            replace(OURS, name="TensorRT", is_gpu=True),
            rates=(
                measured("cudart", LAUNCH, 5.0, "us"),
                measured("cudart", ON_THE_DEVICE, 100.0, "GB/s"),
            ),
        )
    )
    ours, theirs, ratio = (
        found[f"batch 8: {name}"]
        for name in ("TensorRT", EAGER, f"TensorRT, times faster than {EAGER}")
    )
    assert (
        ours.value
        and theirs.value
        and ratio.value == pytest.approx(theirs.value / ours.value, rel=0.5)
    )
    floor = found["batch 8: the floor"].value
    over = found["batch 8: TensorRT, over the floor"].value
    assert floor == pytest.approx(floor_us(8, 5.0, 100.0)) and over == pytest.approx(
        ours.value / floor
    )
    assert f"batch 8: {EAGER}, times faster than {EAGER}" not in found


def test_the_floor_is_one_launch_and_state_twice_and_inputs_once() -> None:
    numbers = 1280 * 64 + 64 + 64 * 1280 + 1280 + 1280 * 20 + 20 + 2 * 1280
    assert numbers == 193_364 and gpu_reference.state_bytes() == 2 * 4 * numbers
    moved = 2 * 2 * 4 * numbers + 32 * (1280 * 4 + 8)
    assert floor_us(32, 6.0, 200.0) == pytest.approx(6.0 + 1e6 * moved / 200e9)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("drifts", "does not take the same step"), ("forgets", "does not take the same step")],
)
def test_a_system_that_takes_another_step_is_not_timed(bad: str, how: str, reason: str) -> None:
    found = by_name(run(System("bad", (bad, how), is_gpu=False), OURS))
    assert found["batch 8: bad"].state == "failed" and reason in found["batch 8: bad"].reason
    assert found[f"batch 8: {OURS.name}"].state == "measured"


@pytest.mark.parametrize(
    ("how", "reason"), [("crashes", "killed by SIGSEGV"), ("hangs", "no answer within 3 s")]
)
def test_a_system_that_crashes_or_hangs_costs_its_own_rows(
    bad: str, how: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_step, "_TURN_S", 3.0)
    found = by_name(run(System("bad", (bad, how), is_gpu=False), OURS))
    assert found["batch 8: bad"].state == "failed" and reason in found["batch 8: bad"].reason
    assert found[f"batch 8: {OURS.name}"].state == "measured"


def test_what_is_not_installed_or_has_no_card_is_not_run_and_its_targets_are_named() -> None:
    absent = System("CuPy", (f"{_BENCH}arrays", "cupy"), "a_package_that_nobody_has", is_gpu=False)
    found = by_name(
        rows(
            "no NVIDIA driver",
            (),
            Clock.of(60),
            lambda line: None,
            quick=True,
            only=[absent, *gpu_step.systems(Path("/nowhere"))[2:3], *_best()],
            batches=(32,),
        )
    )
    assert {row.state for row in found.values()} == {"not run"}
    assert (
        found["batch 32: CuPy"].reason
        == "a_package_that_nobody_has is not installed in this Python"
    )
    assert (
        found["batch 32: torch eager"].reason
        == found["batch 32: TensorRT"].reason
        == "no NVIDIA driver"
    )
    targets = {row.target for row in found.values()} - {""}
    assert targets == {">= 5", "<= 1.5", "<= 0"}


def _best() -> list[System]:
    return [system for system in gpu_step.systems(Path("/nowhere")) if system.name == gpu_step.BEST]


def test_when_time_is_up_a_row_says_so() -> None:
    _, row = rows("", (), Clock.of(1), lambda line: None, quick=True, only=[OURS], batches=(8,))
    assert row.state == "not run" and "--limit" in row.reason
