"""``edgeadapt compile``: what it takes, what it prints, and what it says when it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgeadapt import cli
from edgeadapt.runtime import read_graph

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the host extra (torch)"
)

STEP = """
import torch
from torch import nn

tensors = {"head.weight": torch.ones(3, 4), "scale.value": torch.full((4,), 2.0)}
frozen = ["scale.*"]


def make_ports(generator, batch):
    return {"z": torch.randn(batch, 4, generator=generator), "sample_weight": torch.ones(batch)}


def step(ports, tensors):
    from templates import ROWS  # a file beside it

    pull = (ports["sample_weight"] @ (tensors["scale.value"] * ports["z"])).expand(ROWS, 4)
    return {"size": pull.abs().sum()}, {"head.weight": tensors["head.weight"] + 0.5 * pull}


def predict(ports, tensors):
    return {"score": ports["z"] @ tensors["head.weight"].T}, {}


def in_place(ports, tensors):
    return {}, {"head.weight": tensors["head.weight"].add_(1)}


def values():
    return {"head.weight": torch.zeros(3, 4), "scale.value": torch.ones(4)}


def module(classes=3):
    from edgeadapt.host import gradient_step
    from edgeadapt.host.steps.optimisers import SGD

    torch.manual_seed(0)
    loss = lambda out, ports: nn.functional.cross_entropy(out, ports["y"], reduction="none")
    return gradient_step(nn.Linear(4, classes), loss, SGD(), learning_rate=1.0)


def three(a, b, c):
    return {}, {}


def broken():
    raise KeyError("lost")


def bad_example(generator, batch):
    return torch.zeros(2, 4)


def failing_example(generator, batch):
    return {"z": torch.randn(batch, 4)[batch]}
"""
LABELLED = """
import torch

def labelled(generator, batch):
    x = torch.randn(batch, 4, generator=generator)
    return {"x": x, "y": torch.randint(0, 3, (batch,), generator=generator)}
"""


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own.py").write_text(STEP)
    (tmp_path / "templates.py").write_text("ROWS = 3\n" + LABELLED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "own.py"


def run(capture: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["compile", *map(str, arguments)])
    out, error = capture.readouterr()
    assert "Traceback" not in error
    return code, out, error


def test_a_step_is_compiled_saved_and_runs(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "own.py:step", "--out", "own.onnx")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert (
        lines["step:"].startswith("step: ")
        and " nodes, compiled in " in lines["step:"]
        and out.endswith("wrote own.onnx and own.safetensors\n")
    )
    assert "z float32[batch, 4]" in lines["ports"] and "size float32[]" in lines["outputs"]
    assert all("head.weight float32[3, 4]" in lines[key] for key in ("reads", "writes"))
    assert (
        lines["frozen"].split() == ["frozen", "scale.value"]
        and "state 48, frozen 16" in lines["bytes"]
    )
    assert f"model {step.with_name('own.onnx').stat().st_size:,}" in lines["bytes"]
    assert (
        "against float32" in lines["parity"]
        and "parity   ok: " in lines["parity"]
        and ", within the tolerance 1e-04" in lines["parity"]
    )
    learner, z = read_graph("own.onnx"), np.arange(8, dtype=np.float32).reshape(2, 4)
    assert (
        learner(z=z, sample_weight=np.array([1, 3], np.float32))["size"]
        == 3 * 2 * (z[0] + 3 * z[1]).sum()
    )
    np.testing.assert_array_equal(
        learner.state["head.weight"], np.tile(1 + z[0] + 3 * z[1], (3, 1))
    )


def test_what_makes_a_step_and_a_fixed_batch_in_json(
    step: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        capsys,
        "own.py:module",
        "--example",
        "templates.py:labelled",
        "--batch",
        3,
        "--tolerance",
        "1e-3",
        "--json",
    )
    found = json.loads(out)
    assert code == 0 and found["name"] == "module" and found["file"] is None
    assert found["ports"] == [
        {"name": "x", "dtype": "float32", "shape": [3, 4]},
        {"name": "y", "dtype": "int64", "shape": [3]},
    ]
    assert [port["name"] for port in found["writes"]] == ["model.weight", "model.bias"] and found[
        "state_bytes"
    ] == 60
    assert (
        found["parity"]["tolerance"] == 1e-3
        and 0 < found["parity"]["worst_error"] < 1e-3
        and found["parity"]["cases"] >= 10
    )
    assert (
        found["compile_s"] > 0
        and found["open_ms"] > 0
        and found["nodes"] > 5
        and found["model_bytes"] > 200
    )


def test_inference_freezes_everything_unless_told_otherwise(
    step: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step.write_text(STEP.replace('frozen = ["scale.*"]', ""))
    save_file({"head.weight": np.eye(3, 4, dtype=np.float32)}, "head.safetensors")
    values = ("--tensors", "head.safetensors", "--inference", "--json", "--batch", 2)
    everything = json.loads(run(capsys, "own.py:predict", "--out", "own.onnx", *values)[1])
    assert (
        read_graph("own.onnx")(z=np.ones((2, 4), np.float32))["score"].tolist() == [[1, 1, 1]] * 2
    )
    assert everything["frozen"] == ["head.weight"] and everything["reads"] == []
    values = ("--tensors", "values", *values[2:], "--frozen", "")
    nothing = json.loads(run(capsys, "own.py:predict", *values)[1])
    assert nothing["frozen"] == [] and [port["name"] for port in nothing["reads"]] == [
        "head.weight"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own.py"], "'own.py' is not FILE.py:NAME"),
        (["absent.py:step"], "absent.py: no such file"),
        (["own.py:stop"], "own.py: has nothing called 'stop'; it has: bad_example, "),
        (["own.py:three"], "own.py:three: takes 3 arguments; a step takes two"),
        (["own.py:broken"], "own.py:broken: failed: KeyError: 'lost'"),
        (["own.py:tensors"], "own.py:tensors: gives a dict; a step is a function"),
        (["own.py:step", "--example", "gone"], "has nothing called 'gone'"),
        (
            ["own.py:step", "--example", "tensors"],
            "own.py:tensors: is a dict, not a function (generator, batch) -> ports",
        ),
        (
            ["own.py:step", "--example", "bad_example"],
            "own.py:bad_example: gives a Tensor at batch 8",
        ),
        (
            ["own.py:step", "--example", "failing_example"],
            "own.py:failing_example: failed: IndexError",
        ),
        (
            ["own.py:step", "--tensors", "frozen"],
            "own.py:frozen: gives a list, not a dict of tensors",
        ),
        (
            ["own.py:step", "--tensors", "own.safetensors"],
            "own.safetensors: not a safetensors file",
        ),
        (
            ["own.py:step", "--frozen", "scale.*,encoder.*"],
            "no tensor is called 'encoder.*', so none can be frozen; there are: head.weight, scale",
        ),
        (["own.py:step", "--frozen", "*"], "step: writes the frozen tensor 'head.weight'"),
        (
            ["own.py:in_place"],
            "in_place: aten.add_.Tensor writes in place to the input 'head.weight'",
        ),
        (["own.py:predict"], "predict: is declared a step and writes no tensor"),
        (["own.py:step", "--inference"], "step: writes 'head.weight', so it is a step"),
        (["own.py:step", "--out", "own.bin"], "--out own.bin: give a path that ends in .onnx"),
        (["own.py:step", "--out", "no/own.onnx"], "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line_and_2(
    step: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, error = run(capsys, *arguments)
    assert code == 2 and out == ""
    assert error.startswith("edgeadapt: error: ") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found", "own.py: cannot be run: ModuleNotFoundError"),
        ("def step(:", "own.py: cannot be run: SyntaxError"),
        (
            "def step(ports, tensors): pass",
            "own.py: has no example ports; write make_ports(generator, batch)",
        ),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(
    step: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    step.write_text(text)
    code, _, error = run(capsys, "own.py:step")
    assert code == 2 and message in error


@pytest.mark.parametrize(
    "option", [("--batch", "0"), ("--batch", "many"), ("--tolerance", "0"), ("--tolerance", "2")]
)
def test_wrong_usage_is_2(step: Path, option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["compile", "own.py:step", *option])
    assert left.value.code == 2


def test_an_error_that_float32_explains_does_not_read_as_a_failure():
    from edgeadapt.commands.compile import _worst

    assert _worst(2e-6, 1e-4) == "2.0e-06, within the tolerance 1e-04"
    assert "not counted against the graph" in _worst(1.2e-3, 1e-4)
