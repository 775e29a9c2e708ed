"""A transposed convolution with stride and dilation becomes plain convolutions; compilers of GPUs
build only those.
"""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper

from edgeadapt.errors import CompileError
from edgeadapt.host.compile import compile_inference, engine
from edgeadapt.host.compile.engine import build
from edgeadapt.host.compile.lint import lint

CASES = {
    "one axis": ((4, 3, 4), (9,), {"stride": 3, "dilation": 2}),
    "two axes": (
        (4, 6, 3, 3),
        (7, 6),
        {"stride": 2, "dilation": 2, "padding": 1, "output_padding": 1},
    ),
    "other axes, grouped": (
        (4, 2, 3, 2),
        (5, 6),
        {"stride": (1, 2), "dilation": (3, 1), "padding": (2, 0), "groups": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_strided_and_dilated_transposed_convolution_has_no_conv_transpose_and_builds(case):
    kernel, size, options = CASES[case]
    transposed = (F.conv_transpose1d, F.conv_transpose2d)[len(size) - 1]
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(kernel, generator=random)
    tensors = {
        "up.weight": weight,
        "up.bias": torch.randn(kernel[1] * options.get("groups", 1), generator=random),
    }

    def fn(ports, t):
        return {"out": transposed(ports["x"], t["up.weight"], t["up.bias"], **options)}, {}

    def ports(generator, batch):
        return {"x": torch.randn(batch, kernel[0], *size, generator=generator)}

    graph = compile_inference(case, fn, ports, tensors)  # compares with torch
    kinds = {node.op_type for node in onnx.load_from_string(graph.model).graph.node}
    assert "Conv" in kinds and "ConvTranspose" not in kinds
    assert graph.parity.worst_error < 1e-5
    if engine.is_installed():
        build(case, graph.model, {name: value.numpy() for name, value in tensors.items()})


@pytest.mark.parametrize(
    ("strides", "dilations", "is_refused"),
    [([1, 2], [2, 1], True), ([2, 2], [1, 1], False), ([1, 1], [2, 2], False)],
)
def test_lint_refuses_what_the_compiler_refuses(strides, dilations, is_refused):
    weight = onnx.numpy_helper.from_array(torch.ones(2, 2, 3, 3).numpy(), "w")
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["out"], strides=strides, dilations=dilations
    )
    ports = [helper.make_tensor_value_info(name, 1, [1, 2, None, None]) for name in ("x", "out")]
    ports[0].type.tensor_type.shape.dim[2].dim_value = ports[0].type.tensor_type.shape.dim[
        3
    ].dim_value = 5
    model = helper.make_model(
        helper.make_graph([node], "g", ports[:1], ports[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    model.ir_version = 10
    if is_refused:
        with pytest.raises(CompileError, match="ConvTranspose with both a stride and a dilation"):
            lint("g", model)
    else:
        lint("g", model)
    if engine.is_installed():
        if is_refused:
            with pytest.raises(CompileError, match="Strided & Dilated Deconv"):
                build("g", model.SerializeToString(), {})
        else:
            assert build("g", model.SerializeToString(), {}).layers > 0
