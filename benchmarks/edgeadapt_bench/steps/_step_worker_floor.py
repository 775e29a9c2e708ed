"""What the adaptor step costs at least: its nine matrix products and one pass over parameters,
gradient and velocity.

Forward: down, up, head. Backward: for each of the three the gradient of the weight and of the input
(the one of ``down`` feeds the gradient of the normalisation's gain). They are done one by one, each
by torch or by numpy, or all by one ONNX Runtime graph, whichever was fastest when this process
started; the pass is torch's fused SGD kernel over all numbers as one vector, which reads three
arrays and writes two. Nothing overlaps: this is a sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.child.step_protocol import StepInputs, steps_of

_TRIALS, _CALLS = 5, 20


class Floor:
    """A step that learns nothing: it has no loss and no parameters to compare."""

    def __init__(self, step_inputs: StepInputs) -> None:
        settings = step_inputs.settings
        width, inner, classes = settings["width"], settings["bottleneck"], settings["classes"]
        batch = len(step_inputs.inputs["y"][0])
        shapes = [(batch, width, inner), (batch, inner, width), (batch, width, classes)]
        products = (
            [(b, k, n) for b, k, n in shapes]
            + [(n, b, k) for b, k, n in shapes]
            + [(b, n, k) for b, k, n in shapes]
        )
        operands = [
            (torch.randn(rows, shared), torch.randn(shared, columns))
            for rows, shared, columns in products
        ]
        single = [
            min((_torch_product(a, b), _numpy_product(a, b)), key=_seconds) for a, b in operands
        ]

        def one_by_one() -> None:
            for product in single:
                product()

        ways = {"torch and numpy": one_by_one, "onnxruntime": _graph_of_products(operands)}
        seconds = {name: _seconds(way) for name, way in ways.items()}
        name = min(seconds, key=seconds.__getitem__)
        self.multiply = ways[name]
        count = sum(value.size for value in step_inputs.start.values())
        self.values, self.slopes, self.velocity = (torch.zeros(count) for _ in range(3))
        self.arguments = {
            "weight_decay": 0.0,
            "momentum": settings["beta"],
            "lr": settings["learning_rate"],
            "dampening": 0.0,
            "nesterov": False,
            "maximize": False,
            "is_first_step": False,
        }
        self.facts: dict[str, Any] = {
            "products": name,
            "pass_us": 1e6 * _seconds(self.update),
            **{f"products_us/{way}": 1e6 * took for way, took in seconds.items()},
        }

    def update(self) -> None:
        torch._fused_sgd_([self.values], [self.slopes], [self.velocity], **self.arguments)

    def step(self, index: int) -> float:
        self.multiply()
        self.update()
        return 0.0

    def reset(self) -> None:
        """Nothing to take back."""

    def parameters(self) -> dict[str, np.ndarray]:
        return {}


def _torch_product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    out = torch.empty(a.shape[0], b.shape[1])
    return lambda: torch.mm(a, b, out=out)


def _numpy_product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    left, right = a.numpy(), b.numpy()
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    return lambda: np.matmul(left, right, out=out)


def _graph_of_products(
    operands: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Callable[[], object]:
    """One graph with a node per product, inputs and outputs bound once."""
    floats, nodes, given, made = onnx.TensorProto.FLOAT, [], [], []
    for index, (a, b) in enumerate(operands):
        nodes.append(onnx.helper.make_node("MatMul", [f"a{index}", f"b{index}"], [f"c{index}"]))
        given += [
            onnx.helper.make_tensor_value_info(f"{side}{index}", floats, list(value.shape))
            for side, value in (("a", a), ("b", b))
        ]
        made.append(
            onnx.helper.make_tensor_value_info(f"c{index}", floats, [a.shape[0], b.shape[1]])
        )
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "products", given, made),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for index, (a, b) in enumerate(operands):
        binding.bind_ortvalue_input(
            f"a{index}", onnxruntime.OrtValue.ortvalue_from_numpy(a.numpy())
        )
        binding.bind_ortvalue_input(
            f"b{index}", onnxruntime.OrtValue.ortvalue_from_numpy(b.numpy())
        )
        out = np.empty((a.shape[0], b.shape[1]), np.float32)
        binding.bind_ortvalue_output(f"c{index}", onnxruntime.OrtValue.ortvalue_from_numpy(out))
    return lambda: session.run_with_iobinding(binding)


def _seconds(run: Callable[[], object]) -> float:
    """Of one call: the best of several warm blocks."""
    best = float("inf")
    for _ in range(_TRIALS):
        started = time.perf_counter()
        for _ in range(_CALLS):
            run()
        best = min(best, (time.perf_counter() - started) / _CALLS)
    return best


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        serve(steps_of(Floor))
