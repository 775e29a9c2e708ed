"""Writes what ``ort_training.py`` loads: the artifacts of onnxruntime-training, and its gradient
graph with a momentum update behind it.

onnxruntime-training has no momentum: its ``SGDOptimizerV2`` takes a rate, parameters and gradients.
So two things are built. The *artifacts* are the step that its training API takes. The *momentum
graph* is the graph that its gradient builder makes, with ``v <- beta v + g; p <- p - lr v`` added
in plain ONNX, for its ordinary inference session.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import _ort_training_package  # noqa: F401
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.training import artifacts
from onnxruntime.training.onnxblock._training_graph_utils import build_gradient_graph

FLOAT = TensorProto.FLOAT


def forward(start: dict[str, np.ndarray], batch: int, eps: float) -> onnx.ModelProto:
    """The loss of the adaptor, parameters as initialisers."""
    width, classes = start["down.weight"].shape[1], start["head.weight"].shape[0]
    nodes = [
        helper.make_node(
            "LayerNormalization",
            ["x", "norm.gain", "norm.offset"],
            ["normed", "mean", "deviation"],
            axis=-1,
            epsilon=eps,
        ),
        helper.make_node("Gemm", ["normed", "down.weight", "down.bias"], ["before"], transB=1),
        helper.make_node("Gelu", ["before"], ["inner"], domain="com.microsoft"),
        helper.make_node("Gemm", ["inner", "up.weight", "up.bias"], ["correction"], transB=1),
        helper.make_node("Add", ["x", "correction"], ["adapted"]),
        helper.make_node("Gemm", ["adapted", "head.weight", "head.bias"], ["logits"], transB=1),
        helper.make_node(
            "SoftmaxCrossEntropyLoss", ["logits", "y"], ["loss", "logs"], reduction="mean"
        ),
    ]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, [batch, width]),
        helper.make_tensor_value_info("y", TensorProto.INT64, [batch]),
    ]
    outputs = [helper.make_tensor_value_info("loss", FLOAT, [])]
    values = [onnx.numpy_helper.from_array(value, name) for name, value in start.items()]
    inner = [
        helper.make_tensor_value_info(name, FLOAT, [batch, size])
        for name, size in (
            ("normed", width),
            ("logits", classes),
            ("logs", classes),
            ("adapted", width),
        )
    ]
    graph = helper.make_graph(nodes, "adaptor", inputs, outputs, values, value_info=inner)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    )
    model.ir_version = 8
    return model


def with_momentum(
    model: onnx.ModelProto, names: list[str], rate: float, beta: float
) -> onnx.ModelProto:
    """The gradient graph, and the update of every parameter."""
    gradient, _ = build_gradient_graph(model, set(names), set(), "loss")
    graph = gradient.graph
    kept = [value for value in graph.output if not value.name.endswith("_grad")]
    del graph.output[:]
    graph.output.extend(kept)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    graph.initializer.extend(
        [
            helper.make_tensor("momentum.beta", FLOAT, [], [beta]),
            helper.make_tensor("momentum.rate", FLOAT, [], [rate]),
        ]
    )
    for name in names:
        velocity = f"velocity.{name}"
        graph.node.extend(
            [
                helper.make_node("Mul", [velocity, "momentum.beta"], [f"{name}.kept"]),
                helper.make_node("Add", [f"{name}.kept", f"{name}_grad"], [f"{velocity}.next"]),
                helper.make_node("Mul", [f"{velocity}.next", "momentum.rate"], [f"{name}.change"]),
                helper.make_node("Sub", [name, f"{name}.change"], [f"{name}.next"]),
            ]
        )
        graph.input.append(helper.make_tensor_value_info(velocity, FLOAT, shapes[name]))
        graph.output.extend(
            [
                helper.make_tensor_value_info(f"{end}.next", FLOAT, shapes[name])
                for end in (name, velocity)
            ]
        )
    return gradient


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    with np.load(folder / "start.npz") as given:
        start = {name: given[name] for name in given.files}
    with np.load(folder / "inputs.npz") as given:
        batch = given["x"].shape[1]
    model = forward(start, batch, settings["eps"])
    gradient = with_momentum(
        onnx.ModelProto.FromString(model.SerializeToString()),
        list(start),
        settings["learning_rate"],
        settings["beta"],
    )
    (folder / "ort_momentum.onnx").write_bytes(gradient.SerializeToString())
    artifacts.generate_artifacts(
        model,
        requires_grad=list(start),
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=str(folder),
        prefix="ort_",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
