"""What the graphs of variants are and compute: on the encoder of
``tests/device/golden/precise.edge``, and on small ones made for a case.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from precise import images
from ramp_images import PRECISE
from torch.nn import functional

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.errors import CompileError
from edgeadapt.host.compile.lint import lint
from edgeadapt.host.precision.float16 import LARGEST, halved
from edgeadapt.host.precision.int8 import quantised
from edgeadapt.host.precision.layers import layers_of
from edgeadapt.host.precision.ranges import Histogram, histograms, open_session
from edgeadapt.host.precision.variants import extremes, relative_errors

X = images(128, 3, noise=60.0)[0]


@cache
def bundle() -> Bundle:
    return read_bundle(PRECISE)


@cache
def encoder() -> tuple[ModelProto, dict[str, np.ndarray]]:
    spec = bundle().manifest.encoder()
    return ModelProto.FromString(bundle().graph(spec.file)), {
        name: bundle().frozen[name] for name in spec.frozen
    }


@cache
def int8() -> ModelProto:
    return quantised("int8", *encoder(), [X])


@cache
def float16() -> ModelProto:
    return halved("float16", *encoder(), [X, extremes(bundle().manifest.input, 0)])


def run(
    model: ModelProto, frozen: dict[str, np.ndarray], x: np.ndarray = X, optimised: bool = False
) -> np.ndarray:
    return open_session(model, frozen, optimised=optimised).run(["z"], {"x": x})[0]


def inline(model: ModelProto, frozen: dict[str, np.ndarray]) -> ModelProto:
    """The model with its frozen values inside."""
    whole = ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(frozen[tensor.name], tensor.name))
    return whole


def in_half(model: ModelProto, frozen: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Node by node in numpy, where float16 is float16; ONNX Runtime on a CPU computes it in
    float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return ReferenceEvaluator(inline(model, frozen)).run(["z"], {"x": x})[0]


def makers(model: ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


# -- int8 ------------------------------------------------------------------------------------------
def test_every_convolution_and_product_reads_int8_data_and_int8_weights_per_channel() -> None:
    model, made = int8(), makers(int8())
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 5
    for node in layers:
        data, weight = (made[name] for name in node.input[:2])
        for dequantise in (data, weight):
            quantise = made[dequantise.input[0]]
            assert (dequantise.op_type, quantise.op_type) == ("DequantizeLinear", "QuantizeLinear")
            assert list(dequantise.input[1:]) == list(quantise.input[1:])
            assert (
                constants[quantise.input[2]].data_type == TensorProto.INT8
                and not numpy_helper.to_array(constants[quantise.input[2]]).any()
            )
        assert numpy_helper.to_array(constants[data.input[1]]).shape == ()
        channels = numpy_helper.to_array(constants[weight.input[2]]).shape
        assert channels == ((16,) if node.op_type == "Conv" and node is not layers[3] else (32,))
        # biases stay as they are
        assert len(node.input) == 3 and made.get(node.input[2], node).op_type not in (
            "DequantizeLinear",
            "QuantizeLinear",
        )


@pytest.mark.parametrize("variant", [int8, float16])
def test_no_weight_is_stored_twice(variant) -> None:
    model, frozen = encoder()
    stored = {
        tensor.name: int(np.prod(tensor.dims))
        for tensor in variant().graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL
    }
    # at most a number per channel
    assert max(stored.values()) <= 32 < max(value.size for value in frozen.values())
    external = {
        tensor.name
        for tensor in variant().graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }
    assert external == set(frozen)
    assert [value.SerializeToString() for value in variant().graph.output] == [
        value.SerializeToString() for value in model.graph.output
    ]


def test_int8_differs_from_float32_by_what_256_levels_cost() -> None:
    errors = relative_errors(run(int8(), encoder()[1]), run(*encoder()))
    assert 1e-3 < np.median(errors) < 0.03 and errors.max() < 0.2


def test_int8_is_torch_fake_quantisation() -> None:
    """conv, batch-norm with a gain below zero, relu, conv: with the scales of the graph, computed
    in torch.
    """
    rng = np.random.default_rng(0)
    frozen = {
        "e.w": rng.standard_normal((6, 2, 3, 3)).astype(np.float32),
        "e.g": np.array([1.5, -0.7, 0.2, 3.0, -1.0, 1.0], np.float32).reshape(6, 1, 1),
        "e.t": rng.standard_normal((6, 1, 1)).astype(np.float32),
        "e.v": rng.standard_normal((4, 6, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "e.w"], ["_c"]),
        helper.make_node("Mul", ["_c", "e.g"], ["_m"]),
        helper.make_node("Add", ["_m", "e.t"], ["_a"]),
        helper.make_node("Relu", ["_a"], ["_r"]),
        helper.make_node("Conv", ["_r", "e.v"], ["_d"]),
        helper.make_node("ReduceMean", ["_d", "_axes"], ["z"], keepdims=0),
    ]
    model = small(nodes, frozen, (2, 8, 8))
    x = rng.standard_normal((16, 2, 8, 8)).astype(np.float32)
    made = quantised("small", model, frozen, [x])
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in made.graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL
    }
    data = [
        constants[node.input[1]]
        for node in made.graph.node
        if node.op_type == "QuantizeLinear" and not node.attribute
    ]
    # x, before the activation, behind it
    assert [scale.shape for scale in data] == [(), (), ()] and data[1] == data[2]

    def per_tensor(value: torch.Tensor, scale: np.ndarray) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(value, float(scale), 0, -128, 127)

    def per_channel(value: torch.Tensor) -> torch.Tensor:
        scale = value.abs().amax(dim=(1, 2, 3)) / 127
        return torch.fake_quantize_per_channel_affine(
            value, scale, torch.zeros(len(scale), dtype=torch.int32), 0, -128, 127
        )

    w, g, t, v = (torch.from_numpy(frozen[name]) for name in ("e.w", "e.g", "e.t", "e.v"))
    first = functional.conv2d(
        per_tensor(torch.from_numpy(x), data[0]), per_channel(w * g[..., None]), t.flatten()
    )
    second = functional.conv2d(
        per_tensor(torch.relu(per_tensor(first, data[1])), data[2]), per_channel(v)
    )
    expected = second.mean(dim=(2, 3)).numpy()
    assert np.abs(run(made, frozen, x) - expected).max() < 0.01 * np.abs(expected).max()
    assert np.abs(run(model, frozen, x) - expected).max() > 0.002 * np.abs(expected).max()
    behind = torch.relu(first)
    # where Q stands makes no difference
    assert torch.allclose(torch.relu(per_tensor(first, data[1])), per_tensor(behind, data[1]))


def small(nodes: list, frozen: dict[str, np.ndarray], shape: tuple[int, ...]) -> ModelProto:
    tensors = [
        TensorProto(
            name=name,
            data_type=TensorProto.FLOAT,
            dims=value.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for name, value in frozen.items()
    ]
    for tensor in tensors:
        tensor.external_data.add(key="location", value="bundle:")
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "_axes")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *shape])]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [*tensors, axes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_onnx_runtime_computes_every_convolution_in_int8_but_one_whose_output_is_tapped_as_it_is(
    tmp_path: Path,
) -> None:
    model, frozen = int8(), encoder()[1]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    names = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    options.add_external_initializers(
        names, [onnxruntime.OrtValue.ortvalue_from_numpy(np.array(frozen[name])) for name in names]
    )
    onnxruntime.InferenceSession(
        model.SerializeToString(),
        options,
        ["CPUExecutionProvider"],
        disabled_optimizers=["CommonSubexpressionElimination"],
    )
    kinds = [
        node.op_type
        for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    ]
    assert kinds.count("QLinearConv") >= 3 and kinds.count("QLinearConv") + kinds.count("Conv") == 4


def test_scales_of_weights_follow_a_refolded_batch_norm() -> None:
    model, frozen = encoder()
    rng = np.random.default_rng(1)
    refolded = {
        name: (
            (value * rng.uniform(0.3, 3.0, value.shape)).astype(np.float32)
            if name.endswith((".scale", ".shift"))
            else value
        )
        for name, value in frozen.items()
    }
    assert sum(name.endswith(".scale") for name in frozen) == 4
    # scales of activations from the refolded encoder, those of weights from the same raw weights
    made = quantised("refolded", model, refolded, [X])
    assert np.median(relative_errors(run(made, refolded), run(model, refolded))) < 0.03
    weights = [
        [
            numpy_helper.to_array(t).tolist()
            for t in graph.graph.initializer
            if t.data_type == TensorProto.FLOAT
            and t.dims
            and t.data_location != TensorProto.EXTERNAL
        ]
        for graph in (int8(), made)
    ]
    assert weights[0] == weights[1] and len(weights[0]) >= 5


def test_a_channel_without_gain_and_one_without_weights_stay_finite() -> None:
    model, frozen = encoder()
    gain = next(name for name in frozen if name.endswith("stem.1.scale"))
    weight = next(name for name in frozen if name.endswith("stem.0.weight"))
    changed = {**frozen, gain: frozen[gain].copy(), weight: frozen[weight].copy()}
    changed[gain][0], changed[weight][1] = 0.0, 0.0
    for optimised in (False, True):
        assert np.isfinite(
            run(quantised("zero", model, changed, [X]), changed, optimised=optimised)
        ).all()


def test_the_clip_of_a_tensor_loses_less_than_its_largest_value_would() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[0] = 60.0
    histogram = Histogram()
    for part in np.array_split(values, 7):
        histogram.add(part)

    def loss(clip: float) -> float:
        step = clip / 127
        return float(np.mean((np.clip(np.round(values / step), -128, 127) * step - values) ** 2))

    best = min(np.linspace(3, 60, 200), key=loss)
    assert histogram.largest == 60.0 and histogram.counts.sum() == 100_000
    assert histogram.clip() < 45 and loss(histogram.clip()) < 1.1 * loss(best) < 0.8 * loss(60.0)
    assert Histogram().clip() == 1.0


def test_zeros_around_an_image_are_padded_by_the_convolution() -> None:
    """A Pad between DequantizeLinear and Conv would keep an engine from its int8 kernel."""
    rng = np.random.default_rng(0)
    frozen = {"e.w": rng.standard_normal((4, 2, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Relu", ["x"], ["_r"]),
        helper.make_node("Pad", ["_r", "_pads"], ["_p"]),
        helper.make_node("Conv", ["_p", "e.w"], ["_c"], pads=[0, 1, 0, 0], strides=[2, 2]),
        helper.make_node("ReduceMean", ["_c", "_axes"], ["z"], keepdims=0),
    ]
    x = rng.standard_normal((8, 2, 7, 7)).astype(np.float32)
    for pads, is_taken in (([0, 0, 1, 0, 0, 0, 2, 1], True), ([0, 1, 0, 0, 0, 0, 0, 0], False)):
        model = small(
            nodes,
            frozen if is_taken else {"e.w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)},
            (2, 7, 7),
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array(pads, np.int64), "_pads"))
        held = frozen if is_taken else {"e.w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}
        made = quantised("padded", model, held, [x])
        assert ("Pad" not in [node.op_type for node in made.graph.node]) == is_taken
        assert relative_errors(run(made, held, x), run(model, held, x)).max() < 0.05
        if is_taken:
            assert [
                list(a.ints)
                for node in made.graph.node
                if node.op_type == "Conv"
                for a in node.attribute
                if a.name == "pads"
            ] == [[1, 1, 2, 1]]


@pytest.mark.parametrize("make", [quantised, halved])
def test_an_encoder_without_weights_has_no_variant(make) -> None:
    model = small(
        [helper.make_node("ReduceMean", ["x", "_axes"], ["z"], keepdims=0)], {}, (2, 4, 4)
    )
    with pytest.raises(CompileError, match=r"leave (int8|float16) out of precisions"):
        make("bare", model, {}, [np.zeros((2, 2, 4, 4), np.float32)])


# -- float16 ---------------------------------------------------------------------------------------
def torch_reference(frozen: dict[str, np.ndarray], x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The encoder of the golden bundle, written in torch; sums and means in float32."""
    t = {
        name.removeprefix("encoder."): torch.from_numpy(np.array(value)).to(dtype)
        for name, value in frozen.items()
    }

    def block(x: torch.Tensor, conv: str, norm: str, **how: int) -> torch.Tensor:
        return (
            functional.conv2d(x, t[f"{conv}.weight"], t.get(f"{conv}.bias"), **how)
            * t[f"{norm}.scale"]
            + t[f"{norm}.shift"]
        )

    x = ((torch.from_numpy(x)[:, None].float() - 90.0) / 50.0).to(dtype)
    x = torch.relu(block(x, "stem.0", "stem.1", stride=2, padding=1))
    inner = functional.relu6(block(x, "body.0", "body.1", padding=1, groups=16))
    x = torch.relu(x + block(inner, "body.3", "body.4"))
    x = (
        torch.relu(block(x, "down.0", "down.1", stride=2, padding=1))
        .float()
        .mean(dim=(2, 3))
        .to(dtype)
    )
    return torch.relu(functional.linear(x, t["hidden.weight"], t["hidden.bias"])).float().numpy()


def test_float16_is_the_encoder_in_torch_with_half_numbers() -> None:
    model, frozen = encoder()
    x = X[:48]
    whole, half = run(model, frozen, x), in_half(float16(), frozen, x)
    assert np.median(relative_errors(torch_reference(frozen, x, torch.float32), whole)) < 1e-5
    expected = torch_reference(frozen, x, torch.float16)
    assert relative_errors(half, expected).max() < 2e-3
    assert 5e-5 < np.median(relative_errors(half, whole)) < 2e-3  # it is no float32 graph
    assert relative_errors(run(float16(), frozen, x, optimised=True), whole).max() < 3e-3


def test_every_convolution_and_product_reads_float16_and_means_read_float32() -> None:
    typed = onnx.shape_inference.infer_shapes(inline(float16(), encoder()[1]))
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)
    }
    for node in typed.graph.node:
        if node.op_type in ("Conv", "Gemm", "Relu", "Clip"):
            assert kinds[node.input[0]] == TensorProto.FLOAT16
        if node.op_type == "ReduceMean":
            assert kinds[node.input[0]] == TensorProto.FLOAT
    assert {value.type.tensor_type.elem_type for value in typed.graph.output} == {TensorProto.FLOAT}


def test_features_of_inputs_at_the_ends_of_their_range_are_finite() -> None:
    x = extremes(bundle().manifest.input, 5)
    assert (
        x.dtype == np.uint8
        and (x[0] == 0).all()
        and (x[1] == 255).all()
        and len(np.unique(x[-1])) > 50
    )
    frozen = encoder()[1]
    for z in (
        in_half(float16(), frozen, x),
        run(int8(), frozen, x, optimised=True),
        run(float16(), frozen, x, optimised=True),
    ):
        assert np.isfinite(z).all()


def test_what_comes_near_the_largest_half_number_stays_in_float32() -> None:
    rng = np.random.default_rng(0)
    frozen = {
        "e.w": (5000 * rng.standard_normal((8, 2, 3, 3))).astype(np.float32),
        "e.g": np.full((8, 1, 1), 2e-5, np.float32),
        "e.v": rng.standard_normal((4, 8, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "e.w"], ["_c"]),
        helper.make_node("Relu", ["_c"], ["_r"]),
        helper.make_node("Mul", ["_r", "e.g"], ["_m"]),
        helper.make_node("Conv", ["_m", "e.v"], ["_d"]),
        helper.make_node("ReduceMean", ["_d", "_axes"], ["z"], keepdims=0),
    ]
    model = small(nodes, frozen, (2, 6, 6))
    x = (10 * rng.standard_normal((8, 2, 6, 6))).astype(np.float32)
    sizes = {
        name: found.largest for name, found in histograms(model, frozen, ["_c", "_d"], [x]).items()
    }
    assert sizes["_c"] > LARGEST > 100 * sizes["_d"]
    made = halved("large", model, frozen, [x])
    casts = {tensor for node in made.graph.node if node.op_type == "Cast" for tensor in node.input}
    assert "e.w" not in casts and "e.v" in casts
    z = in_half(made, frozen, x)
    assert np.isfinite(z).all() and relative_errors(z, run(model, frozen, x)).max() < 5e-3


# -- what lint says --------------------------------------------------------------------------------
def test_a_mask_of_infinities_and_what_only_float32_can_hold_stay_in_float32() -> None:
    """Attention adds -inf; a number above 65504 that multiplies small values is infinite in
    float16, and nothing that it makes is large.
    """
    rng = np.random.default_rng(0)
    frozen = {
        "w": rng.standard_normal((4, 1, 3, 3)).astype(np.float32) / 3e5,
        "v": rng.standard_normal((144, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "gain"], ["b"]),
        helper.make_node("Reshape", ["b", "flat"], ["c"]),
        helper.make_node("Add", ["c", "mask"], ["d"]),
        helper.make_node("Softmax", ["d"], ["e"], axis=-1),
        helper.make_node("Add", ["e", "c"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["z"]),
    ]
    model = small(nodes, frozen, (1, 8, 8))
    constants = {
        "gain": np.float32(1e5),
        "flat": np.array([0, -1], np.int64),
        "mask": np.where(np.arange(144) % 2, 0, -np.inf).astype(np.float32),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    x = rng.standard_normal((16, 1, 8, 8)).astype(np.float32)
    z = run(model, frozen, x)
    for make, most in ((halved, 2e-3), (quantised, 0.05)):
        assert np.median(relative_errors(run(make("m", model, frozen, [x]), frozen, x), z)) < most
    sizes = histograms(model, frozen, ["c", "d"], [x])
    assert sizes["d"].largest == np.inf and sizes["d"].clip() < 2 * sizes["c"].largest


def test_lint_takes_float16_only_inside_a_float16_graph() -> None:
    lint("encode_float16", float16(), precision="float16")
    lint("encode_int8", int8(), precision="int8")
    with pytest.raises(CompileError, match="computes in FLOAT16"):
        lint("encode_float16", float16())


def test_lint_refuses_a_zero_point_that_engines_do_not_take() -> None:
    shifted = ModelProto()
    shifted.CopyFrom(int8())
    zero = next(
        node.input[2]
        for node in shifted.graph.node
        if node.op_type == "QuantizeLinear" and not node.attribute
    )
    next(tensor for tensor in shifted.graph.initializer if tensor.name == zero).CopyFrom(
        numpy_helper.from_array(np.array(3, np.int8), zero)
    )
    with pytest.raises(CompileError, match="zero point other than a constant 0"):
        lint("encode_int8", shifted, precision="int8")


def test_a_batch_norm_behind_a_convolution_is_part_of_its_layer() -> None:
    layers = layers_of(encoder()[0])
    assert [
        (layer.node.op_type, layer.channels, bool(layer.scale), bool(layer.shift))
        for layer in layers
    ] == [
        ("Conv", 16, True, True),
        ("Conv", 16, True, True),
        ("Conv", 16, True, True),
        ("Conv", 32, True, True),
        ("Gemm", 32, False, False),
    ]
