"""A graph on disk, and on a device: what comes back, what is refused, and what survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from edgeadapt.errors import BundleError, CompileError, InputError, StateError
from edgeadapt.host.compile import compile_graph
from edgeadapt.runtime import read_graph

DECAY = np.array([0.5, 0.25, 0.125], np.float32)


def make_ports(generator, batch):
    return {"x": torch.randn(batch, 3, generator=generator), "rate": torch.tensor(0.5)}


def learn(ports, tensors):
    """Sum of what came in, decayed by a frozen factor; exact in float32 for small numbers."""
    total = tensors["sum.x"] * tensors["decay.factor"] + ports["rate"] * ports["x"].sum(0)
    return {"total": total}, {"sum.x": total, "sum.count": tensors["sum.count"] + 1}


def predict(ports, tensors):
    return {"score": ports["x"] @ tensors["sum.x"] + tensors["offset.b"]}, {}


TENSORS = {
    "sum.x": torch.zeros(3),
    "sum.count": torch.zeros(()),
    "decay.factor": torch.from_numpy(DECAY.copy()),
}
STEP = compile_graph("sum/step", learn, make_ports, TENSORS, frozen=["decay.factor"], check=False)
PREDICT = compile_graph(
    "predict",
    predict,
    make_ports,
    {"sum.x": torch.ones(3), "offset.b": torch.ones(())},
    check=False,
)


@pytest.fixture
def path(tmp_path):
    return STEP.save(tmp_path / "step.onnx")


def x(*rows):
    return np.array(rows, np.float32)


# -- what comes back -------------------------------------------------------------------------------
def test_a_fresh_process_without_torch_and_onnx_runs_the_steps(path):
    script = """
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import json, numpy as np
from edgeadapt.runtime import read_graph
step = read_graph(sys.argv[1])
totals = [step(x=np.full((2, 3), n, np.float32), rate=0.5)["total"].tolist() for n in (1, 2, 4)]
step.save_state(sys.argv[2])
host = sorted(m for m in sys.modules if m.startswith("edgeadapt.host"))
print(json.dumps([totals, float(step.state["sum.count"]), host]))
"""
    saved = path.with_name("state.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", script, path, saved],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    totals, count, host = json.loads(done.stdout)
    want, state = [], np.zeros(3, np.float32)
    for n in (1, 2, 4):
        state = state * DECAY + n
        want.append(state.tolist())
    assert totals == want and count == 3 and host == []
    np.testing.assert_array_equal(load_file(saved)["sum.x"], state)


def test_the_second_file_has_the_values_and_describes_the_graph(path):
    with safe_open(path.with_suffix(".safetensors"), "numpy") as file:
        described = json.loads(file.metadata()["edgeadapt.graph"])
        assert sorted(file.keys()) == ["decay.factor", "sum.count", "sum.x"]
    assert described["ports"] == [
        {"name": "x", "dtype": "float32", "shape": [None, 3]},
        {"name": "rate", "dtype": "float32", "shape": []},
    ]
    assert described["reads"] == ["sum.x", "sum.count"] and described["writes"] == [
        "sum.x",
        "sum.count",
    ]
    assert described["frozen"] == ["decay.factor"] and described["outputs"][0]["name"] == "total"
    assert path.read_bytes() == STEP.model


def test_it_starts_from_the_values_that_save_was_given(tmp_path):
    step = read_graph(
        STEP.save(
            tmp_path / "step.onnx", {"sum.x": torch.full((3,), 8.0), "decay.factor": torch.zeros(3)}
        )
    )
    np.testing.assert_array_equal(step.state["sum.x"], [8, 8, 8])
    np.testing.assert_array_equal(step(x=x([1, 2, 3]), rate=1.0)["total"], [1, 2, 3])


def test_a_state_goes_on_where_it_was_saved(path):
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(4, 3)).astype(np.float32) for _ in range(6)]
    through, first = read_graph(path), read_graph(path)
    for batch in batches:
        through(x=batch, rate=0.1)
    for batch in batches[:3]:
        first(x=batch, rate=0.1)
    saved = path.with_name("state.safetensors")
    first.save_state(saved)
    second = read_graph(path, state=saved)
    for batch in batches[3:]:
        second(x=batch, rate=0.1)
    assert all(np.array_equal(value, through.state[name]) for name, value in second.state.items())
    assert set(second.state) == {"sum.x", "sum.count"}


def test_a_graph_that_predicts_sees_what_another_learns(path):
    step = read_graph(path)
    predictor = read_graph(PREDICT.save(path.parent), state=step)
    # the step's zeros, its own offset
    np.testing.assert_array_equal(predictor(x=x([1, 1, 1]))["score"], [1])
    step(x=x([1, 2, 3]), rate=1.0)
    np.testing.assert_array_equal(predictor(x=x([1, 1, 1], [1, 0, 0]))["score"], [7, 2])
    assert set(step.state) == {"sum.x", "sum.count"} and set(predictor.state) == {
        "sum.x",
        "offset.b",
    }


def test_no_step_is_lost_between_threads(path):
    step = read_graph(path)
    threads = [
        threading.Thread(target=lambda: [step(x=x([0, 0, 0]), rate=0.0) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert step.state["sum.count"] == 200


def test_the_state_that_is_given_out_is_a_copy(path):
    step = read_graph(path)
    step.state["sum.x"][:] = 5
    assert not step.state["sum.x"].any()


# -- input -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ({"x": x([1, 2, 3])}, "port 'rate' is missing"),
        ({"x": x([1, 2, 3]), "rate": 1.0, "y": 2}, "no port 'y'"),
        ({"x": x([1, 2]), "rate": 1.0}, r"'x' takes float32\[batch, 3\], got float32\[1, 2\]"),
        ({"x": np.ones((1, 3)), "rate": 1.0}, r"got float64\[1, 3\]"),
        ({"x": x([1, np.nan, 3]), "rate": 1.0}, "'x' has values that are not finite"),
        ({"x": x([1, 2, 3]), "rate": float("inf")}, "'rate' has values that are not finite"),
        ({"x": "one", "rate": 1.0}, "'x'"),
    ],
)
def test_refused_input_changes_nothing(path, ports, message):
    step = read_graph(path)
    step(x=x([1, 2, 3]), rate=1.0)
    before = step.state
    with pytest.raises(InputError, match=message):
        step(**ports)
    assert all(np.array_equal(value, before[name]) for name, value in step.state.items())


# -- saving the state ------------------------------------------------------------------------------
def test_a_state_that_diverged_is_not_written_over_a_good_one(path):
    step, saved = read_graph(path), path.with_name("state.safetensors")
    step.save_state(saved)
    good = saved.read_bytes()
    for _ in range(3):
        step(x=np.full((4, 3), 3e38, np.float32), rate=1.0)
    with pytest.raises(
        StateError, match=r"sum\.x has values that are not finite; a step of 'sum/step' diverged"
    ):
        step.save_state(saved)
    assert saved.read_bytes() == good


def test_a_write_that_fails_leaves_the_old_file_and_no_other(path, monkeypatch):
    step, saved = read_graph(path), path.with_name("state.safetensors")
    step.save_state(saved)
    good = saved.read_bytes()
    step(x=x([1, 2, 3]), rate=1.0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StateError, match="No space left on device"):
        step.save_state(saved)
    assert saved.read_bytes() == good and len(list(path.parent.iterdir())) == 3
    with pytest.raises(StateError, match="No such file"):
        step.save_state(path.parent / "no" / "state.safetensors")


def test_the_state_of_another_graph_is_refused(path):
    other = path.with_name("other.safetensors")
    for values, message in (
        ({"sum.x": x(1, 2, 3)}, r"it has no tensor 'sum\.count'"),
        (
            {"sum.x": x(1, 2, 3), "sum.count": x(0).reshape(()), "z.z": x(1)},
            r"it has a tensor 'z\.z'",
        ),
        (
            {"sum.x": x(1, 2), "sum.count": x(0).reshape(())},
            r"sum\.x is float32\[2\], the graph takes float32\[3\]",
        ),
        ({"sum.x": np.zeros(3), "sum.count": x(0).reshape(())}, r"sum\.x is float64\[3\]"),
        (
            {"sum.x": x(1, np.inf, 3), "sum.count": x(0).reshape(())},
            r"sum\.x has values that are not finite",
        ),
    ):
        save_file(values, other)
        with pytest.raises(StateError, match=message):
            read_graph(path, state=other)
    other.write_bytes(other.read_bytes()[:-4])
    with pytest.raises(StateError, match="not a safetensors file"):
        read_graph(path, state=other)
    with pytest.raises(StateError, match="No such file"):
        read_graph(path, state=path.with_name("absent.safetensors"))


def test_a_graph_with_a_tensor_of_another_shape_cannot_share(path, tmp_path):
    narrow = compile_graph(
        "narrow",
        lambda p, t: ({"y": p["x"] * t["sum.x"]}, {}),
        lambda g, b: {"x": torch.ones(b, 2)},
        {"sum.x": torch.ones(2)},
        check=False,
    )
    with pytest.raises(InputError, match=r"sum\.x is float32\[3\], the graph takes float32\[2\]"):
        read_graph(narrow.save(tmp_path), state=read_graph(path))


# -- damage ----------------------------------------------------------------------------------------
def test_two_files_of_different_compilations_are_refused(path):
    path.write_bytes(PREDICT.model)
    with pytest.raises(BundleError, match=r"is not the model that step\.safetensors belongs to"):
        read_graph(path)


def test_damaged_files_are_refused_by_name(path, tmp_path):
    weights = path.with_suffix(".safetensors")
    whole, values = weights.read_bytes(), load_file(weights)
    with safe_open(weights, "numpy") as file:
        metadata = file.metadata()
    for damage, message in (
        (lambda: weights.write_bytes(whole[: len(whole) // 2]), "not a safetensors file"),
        (lambda: weights.write_bytes(b""), "not a safetensors file"),
        (lambda: save_file(values, weights), "its header does not describe a graph"),
        (
            lambda: save_file(values, weights, {"edgeadapt.graph": "{}"}),
            "its header does not describe a graph",
        ),
        (
            lambda: save_file(
                values,
                weights,
                {
                    "edgeadapt.graph": (
                        metadata["edgeadapt.graph"].replace('"format":1', '"format":9')
                    )
                },
            ),
            "format 9",
        ),
        (
            lambda: save_file(
                {k: v for k, v in values.items() if k != "decay.factor"}, weights, metadata
            ),
            r"no value for decay\.factor",
        ),
        (
            lambda: save_file({**values, "sum.x": values["sum.x"][:2]}, weights, metadata),
            r"sum\.x is float32\[2\], the graph takes float32\[3\]",
        ),
        (
            lambda: save_file({**values, "decay.factor": x(1, 2)}, weights, metadata),
            r"'decay\.factor' must be float32\[3\]",
        ),
        (
            lambda: save_file({**values, "decay.factor": DECAY * np.nan}, weights, metadata),
            r"decay\.factor has values that are not finite",
        ),
        (
            lambda: save_file(
                values,
                weights,
                {
                    "edgeadapt.graph": (
                        metadata["edgeadapt.graph"].replace(
                            '"reads":["sum.x"', '"reads":["decay.factor"'
                        )
                    )
                },
            ),
            r"differ about the tensor 'decay\.factor'",
        ),
        (weights.unlink, "No such file"),
    ):
        damage()
        with pytest.raises(BundleError, match=message):
            read_graph(path)
    with pytest.raises(BundleError, match=r"absent\.onnx: No such file"):
        read_graph(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match=r"opened by its NAME\.onnx"):
        read_graph(weights)


def test_save_refuses_what_a_device_could_not_open(tmp_path):
    for path, tensors, message in (
        (tmp_path, None, "'sum/step' is not a file name"),
        (tmp_path / "step.bin", None, r"ends in \.onnx"),
        (
            tmp_path / "step.onnx",
            {"sum.y": torch.zeros(3)},
            r"uses no tensor 'sum\.y'; it uses: sum\.x",
        ),
        (tmp_path / "step.onnx", {"sum.x": torch.zeros(4)}, r"sum\.x is torch\.float32\[4\]"),
        (tmp_path / "step.onnx", {"sum.x": torch.tensor([1.0, float("nan"), 0])}, "not finite"),
    ):
        with pytest.raises(CompileError, match=message):
            STEP.save(path, tensors)
    assert not list(tmp_path.iterdir())
