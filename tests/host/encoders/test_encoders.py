"""Whatever computes features becomes one checked graph, and its batch-norms can be re-folded.
Numbers are compared with torch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from edgeadapt_onnxruntime import OnnxRuntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.errors import CompileError, InputError
from edgeadapt.host.compile import CompiledGraph, compile_graph
from edgeadapt.host.encoders.base import Encoder, example_input
from edgeadapt.host.encoders.dispatch import Identity, as_encoder
from edgeadapt.host.encoders.networks import Normalised, SmallResidual, build_network
from edgeadapt.host.encoders.onnx_file import OnnxEncoder
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.norm_statistics import NormStatistics
from edgeadapt.runtime import GraphFile, Tensors

GRAY = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
BATCH = torch.export.Dim("batch")
FLOAT = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def quiet_exporter() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norms as after training: nothing in them is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for name, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.3, 0.3),
                ("running_mean", -0.3, 0.3),
                ("running_var", 0.5, 2.0),
            ):
                getattr(norm, name).data.uniform_(low, high, generator=generator)
    return module.eval()


def small(widths: tuple[int, int, int] = (8, 12, 16)) -> Normalised:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = trained(Normalised(SmallResidual(10, widths=widths), [70.0], [90.0]))
    assert isinstance(module, Normalised)
    return module


def torchvision(name: str) -> nn.Module:
    return trained(Normalised(build_network(f"torchvision:{name}", 10, 3), [120.0] * 3, [60.0] * 3))


def compiled(encoder: Encoder) -> CompiledGraph:
    return compile_graph(
        "encode",
        lambda ports, t: (encoder.encode(ports, t), {}),
        lambda g, b: {"x": example_input(encoder.input, b, g)},
        encoder.frozen,
        frozen=tuple(encoder.frozen),
        batch=2,
    )


def run(
    graph: CompiledGraph,
    frozen: Mapping[str, Tensor],
    x: NDArray[Any],
    constants: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """As a device does it: through the runtime, frozen tensors and re-folded constants injected."""
    file = GraphFile("encode", graph.model, {name: frozen[name].numpy() for name in graph.frozen})
    loaded = OnnxRuntime().load(
        file, {name: value.numpy() for name, value in (constants or {}).items()}
    )
    return loaded({"x": x}, Tensors())[0]


def close(got: Any, want: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == tuple(want.shape)
    error = float(
        np.abs(np.asarray(got) - want.detach().numpy()).max() / np.abs(want.detach().numpy()).max()
    )
    assert error < tolerance, error


def pixels(x: NDArray[Any]) -> Tensor:
    t = torch.from_numpy(x).float()
    return t[:, None] if t.dim() == 3 else t.permute(0, 3, 1, 2)


# -- torch modules ---------------------------------------------------------------------------------


def test_small_residual_gives_the_features_before_its_head_and_a_tap_per_early_resolution() -> None:
    module = small()
    encoder = as_encoder(module, GRAY)
    assert isinstance(encoder, ModuleEncoder)
    assert encoder._taps == ("network.stem", "network.block1", "network.block2")
    assert (encoder.dim, encoder.tap_dim, encoder.signature) == (16, 8 + 8 + 12, (0, 16))
    assert encoder.input.layout == "NHW" and len(encoder.norms) == 10
    graph = compiled(encoder)
    out = run(graph, encoder.frozen, GRAY)
    close(out["z"], module.features(pixels(GRAY)))
    stem = module.network.stem(module.normalise(pixels(GRAY)))
    close(out["taps"][:, :8], stem.mean((2, 3)))
    assert set(encoder.frozen) - set(graph.frozen) == {
        "encoder.network.head.weight",
        "encoder.network.head.bias",
    }


def adapted(
    module: nn.Module, x: NDArray[Any]
) -> tuple[ModuleEncoder, NormStatistics, dict[str, Tensor], dict[str, Tensor]]:
    encoder = as_encoder(module, x)
    assert isinstance(encoder, ModuleEncoder)
    norms = NormStatistics(encoder)
    factory = {name: torch.from_numpy(value) for name, value in norms.factory(None).items()}  # type: ignore[arg-type]
    values = {**encoder.frozen, **norms.frozen, **factory}
    return (
        encoder,
        norms,
        values,
        norms.adapt({"x": torch.from_numpy(x), "sample_weight": torch.ones(len(x))}, values)[1],
    )


def test_refolding_the_factory_statistics_gives_the_constants_of_the_graph() -> None:
    encoder, norms, values, _ = adapted(small(), GRAY)
    _, constants = norms.refold({}, values)
    assert len(constants) == 2 * len(encoder.norms)
    for name, value in constants.items():
        assert torch.equal(value, encoder.frozen[name]), name


@pytest.mark.parametrize(
    ("module", "x"), [(small(), GRAY), (torchvision("resnet18"), COLOUR)], ids=["small", "resnet18"]
)
def test_adapted_statistics_are_those_of_the_batch_and_refolding_gives_torch_in_training_mode(
    module: nn.Module, x: NDArray[Any]
) -> None:
    encoder, norms, values, statistics = adapted(module, x)
    training = copy.deepcopy(module).train()
    layers = {
        path: layer for path, layer in training.named_modules() if isinstance(layer, nn.BatchNorm2d)
    }
    inputs: dict[str, Tensor] = {}
    taken: list[Tensor] = []
    for path, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda _m, given, path=path: inputs.__setitem__(path, given[0].detach().clone())
        )
    next(m for m in training.modules() if isinstance(m, nn.Linear)).register_forward_pre_hook(
        lambda _m, given: taken.append(given[0])
    )
    training(pixels(x))
    assert list(layers) == [norm.path for norm in encoder.norms]
    close(
        statistics["norm.mean"].numpy(),
        torch.cat([inputs[path].mean((0, 2, 3)) for path in layers]),
        1e-4,
    )
    close(
        statistics["norm.variance"].numpy(),
        torch.cat([inputs[path].var((0, 2, 3), unbiased=False) for path in layers]),
        1e-4,
    )
    _, constants = norms.refold({}, {**values, **statistics})
    graph = compile_graph(
        "encode",
        lambda p, t: (encoder.encode(p, t), {}),
        lambda g, b: {"x": example_input(encoder.input, b, g)},
        encoder.frozen,
        frozen=tuple(encoder.frozen),
        batch=2,
        check=False,
    )
    close(run(graph, encoder.frozen, x, constants)["z"], taken[0].flatten(1), 1e-4)
    factory = run(graph, encoder.frozen, x)["z"]
    assert np.abs(factory - taken[0].detach().numpy()).max() > 0.1 * np.abs(factory).max()


@pytest.mark.parametrize(
    ("name", "dim", "tap_dim"), [("mobilenet_v2", 1280, 128), ("resnet18", 512, 128)]
)
def test_a_torchvision_network_keeps_its_features_and_projects_wide_taps(
    name: str, dim: int, tap_dim: int
) -> None:
    module = torchvision(name)
    encoder = as_encoder(module, COLOUR)
    assert (encoder.dim, encoder.tap_dim, encoder.signature) == (dim, tap_dim, (0, tap_dim))
    graph = compiled(encoder)
    out = run(graph, encoder.frozen, COLOUR)
    network = module.network
    last = network.features(module.normalise(pixels(COLOUR))) if name == "mobilenet_v2" else None
    if last is None:
        taken: list[Tensor] = []
        network.fc.register_forward_pre_hook(lambda _m, given: taken.append(given[0]))  # type: ignore[union-attr]
        module(pixels(COLOUR))
    close(out["z"], taken[0] if last is None else last.mean((2, 3)))
    assert out["taps"].shape == (4, tap_dim) and np.isfinite(out["taps"]).all()
    assert len({tuple(row) for row in out["taps"].round(4)}) == 4
    projection = encoder.frozen["taps.projection"]
    close((projection.T @ projection).numpy(), torch.eye(128))
    assert graph.parity.worst_error < 1e-4


class Wrapped(nn.Module):
    """Batch-norms at two depths; the tensors of one are read by a function, so it never runs as a
    module.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict(
            {"conv": nn.Conv2d(1, 6, 3, 2, 1, bias=False), "norm": nn.BatchNorm2d(6)}
        )
        self.plain = nn.Sequential(
            nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.out = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.inner["norm"]
        x = F.batch_norm(
            self.inner["conv"](x),
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            False,
            0.0,
            norm.eps,
        )  # type: ignore[arg-type]
        return self.out(self.plain(torch.relu(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_functional_batch_norm_stays_and_a_last_layer_that_is_not_linear_gives_the_feature() -> (
    None
):
    module = trained(Wrapped())
    encoder = as_encoder(module, GRAY)
    assert [norm.path for norm in encoder.norms] == ["plain.1"] and encoder.dim == 8
    assert (
        "encoder.inner.norm.running_mean" in encoder.frozen
        and "encoder.plain.1.scale" in encoder.frozen
    )
    close(run(compiled(encoder), encoder.frozen, GRAY)["z"], module(pixels(GRAY)))


def test_feature_and_taps_can_be_named_and_an_in_place_layer_behind_a_tap_does_not_change_it() -> (
    None
):
    module = trained(Wrapped())
    encoder = as_encoder(module, GRAY, feature="plain.0", taps=["plain.1"])
    out = run(compiled(encoder), encoder.frozen, GRAY)
    seen: dict[str, Tensor] = {}
    for path in ("plain.0", "plain.1"):
        module.get_submodule(path).register_forward_hook(
            lambda _m, _i, value, path=path: seen.__setitem__(path, value.mean((2, 3)))
        )
    module(pixels(GRAY))
    close(out["z"], seen["plain.0"])
    close(out["taps"], seen["plain.1"])
    assert out["taps"].min() < 0


class SharedRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, 1, 1)
        self.second = nn.Conv2d(4, 5, 3, 2, 1)
        self.third = nn.Conv2d(5, 6, 3, 2, 1)
        self.relu, self.head = nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            x = self.relu(layer(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_module_that_runs_at_several_resolutions_does_not_hide_the_earlier_ones() -> None:
    encoder = as_encoder(SharedRelu(), GRAY)
    assert isinstance(encoder, ModuleEncoder) and encoder._taps == ("first", "second")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"feature": "nope"}, "no module 'nope'"),
        ({"feature": "idle"}, "does not run"),
        ({"taps": ["head"]}, "'head' gives a feature map"),
    ],
)
def test_a_name_that_gives_nothing_is_refused(options: dict[str, Any], reason: str) -> None:
    module = SharedRelu()
    module.idle = nn.Identity()
    with pytest.raises(InputError, match=reason):
        as_encoder(module, GRAY, **options)


def test_inputs_the_module_does_not_take_are_refused_with_their_shape() -> None:
    with pytest.raises(InputError, match=r"\(2, 3, 64, 64\)"):
        as_encoder(small(), COLOUR)
    with pytest.raises(InputError, match="got list"):
        as_encoder([], GRAY)


def test_an_exported_program_is_an_encoder_and_one_with_a_fixed_batch_is_refused() -> None:
    module = small()
    features = Features(module)
    encoder = as_encoder(
        torch.export.export(features, (pixels(GRAY),), dynamic_shapes=({0: BATCH},)), GRAY
    )
    assert (encoder.dim, encoder.tap_dim, encoder.norms) == (16, 0, ())
    close(run(compiled(encoder), encoder.frozen, GRAY)["z"], module.features(pixels(GRAY)))
    with pytest.raises(InputError, match="does not take"):
        as_encoder(torch.export.export(features, (pixels(GRAY[:1]),)), GRAY)


class Features(nn.Module):
    def __init__(self, module: Normalised) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.features(x)


def test_identity_passes_vectors_through() -> None:
    encoder = as_encoder(Identity(5), np.zeros((3, 5), np.float32))
    x = torch.randn(3, 5)
    out = encoder.encode({"x": x}, {})
    assert (
        torch.equal(out["z"], x)
        and out["taps"].shape == (3, 0)
        and (encoder.dim, encoder.tap_dim) == (5, 0)
    )
    with pytest.raises(InputError, match="dim=0"):
        Identity(0)


# -- ONNX files ------------------------------------------------------------------------------------


def exported(module: nn.Module, x: Tensor, path: Path, **options: Any) -> Path:
    options = {"dynamic_shapes": ({0: BATCH},), **options}
    torch.onnx.export(module, (x,), str(path), dynamo=True, verbose=False, **options)
    return path


def written(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    inputs: Mapping[str, list[Any]],
    opset: int = 18,
) -> Path:
    """A model with one output ``out``, as some other tool may write it."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("out", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8),
        str(path),
    )
    return path


def original(path: Path, x: NDArray[Any], name: str) -> NDArray[Any]:
    model = onnx.load(str(path))
    if all(o.name != name for o in model.graph.output):
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run([name], {session.get_inputs()[0].name: x})[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"external_data": True, "opset_version": 18},
        {"opset_version": 23},
        {"dynamic_shapes": None},
    ],
)
def test_an_exported_file_gives_the_features_and_taps_of_the_module(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    module = small()
    count = 1 if "dynamic_shapes" in options else 8
    file = exported(module, pixels(GRAY[:count]), tmp_path / "net.onnx", **options)
    assert not options.get("external_data") or (tmp_path / "net.onnx.data").stat().st_size > 10_000
    encoder = as_encoder(str(file), GRAY)
    assert isinstance(encoder, OnnxEncoder) and as_encoder(encoder, GRAY) is encoder
    assert (encoder.name, encoder.dim, encoder.tap_dim, encoder.signature, encoder.norms) == (
        "net",
        16,
        28,
        (0, 16),
        (),
    )
    graph = encoder.graph()
    assert (graph.ports[0].shape, [(o.name, o.shape) for o in graph.outputs]) == (
        (None, 28, 28),
        [("z", (None, 16)), ("taps", (None, 28))],
    )
    assert (
        graph.frozen == tuple(encoder.frozen)
        and graph.reads == graph.writes == ()
        and 0 < graph.parity.worst_error < 1e-5
    )
    # the manifest takes the names, and the file has no weights of its own
    for name, value in encoder.frozen.items():
        TensorSpec(name=name, dtype="float32", shape=tuple(value.shape), kind="frozen")
    assert len(graph.model) < 6000 and all(
        t.data_location == 1 or len(t.dims) == 0 or t.data_type != FLOAT
        for t in onnx.load_from_string(graph.model).graph.initializer
    )
    out = run(graph, encoder.frozen, GRAY)
    close(out["z"], module.features(pixels(GRAY)))
    want = as_encoder(module, GRAY)
    close(out["taps"], want.encode({"x": torch.from_numpy(GRAY)}, want.frozen)["taps"])


def test_a_file_with_wide_taps_projects_them_as_the_module_does(tmp_path: Path) -> None:
    module = small((48, 48, 16))
    file = exported(module, pixels(GRAY), tmp_path / "wide.onnx")
    encoder, want = as_encoder(file, GRAY), as_encoder(module, GRAY)
    assert isinstance(encoder, OnnxEncoder)
    assert (
        (encoder.dim, encoder.tap_dim, encoder.signature)
        == (want.dim, 128, (0, 128))
        == (16, want.tap_dim, want.signature)
    )
    out = run(encoder.graph(), encoder.frozen, GRAY)
    expected = want.encode({"x": torch.from_numpy(GRAY)}, want.frozen)
    close(out["z"], expected["z"])
    close(out["taps"], expected["taps"])


def test_a_named_feature_map_is_averaged(tmp_path: Path) -> None:
    file = exported(small(), pixels(GRAY), tmp_path / "net.onnx")
    name = next(n.output[0] for n in onnx.load(str(file)).graph.node if n.op_type == "Relu")
    encoder = as_encoder(file, GRAY, feature=name)
    assert (encoder.dim, encoder.tap_dim) == (8, 8)
    assert isinstance(encoder, OnnxEncoder)
    want = original(file, pixels(GRAY).numpy(), name).mean((2, 3))
    close(run(encoder.graph(), encoder.frozen, GRAY)["z"], torch.from_numpy(want))
    with pytest.raises(InputError, match="no tensor 'reluu'"):
        as_encoder(file, GRAY, feature="reluu")
    with pytest.raises(InputError, match="taps"):
        as_encoder(file, GRAY, taps=["x"])


RNG = np.random.default_rng(2)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
HEAD = RNG.normal(size=(4 * 16, 5)).astype(np.float32)
CONV = helper.make_node("Conv", ["x", "a.next"], ["c"], strides=[4, 4], pads=[1, 1, 1, 1])
TINY = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def test_a_fixed_batch_is_freed_where_a_reshape_repeats_it_and_odd_names_become_tensor_names(
    tmp_path: Path,
) -> None:
    nodes = [
        CONV,
        helper.make_node("Reshape", ["c", "shape"], ["z"]),
        helper.make_node("MatMul", ["z", "/head/W"], ["out"]),
    ]
    constants = {"a.next": KERNEL, "shape": np.array([1, 64]), "/head/W": HEAD}
    file = written(tmp_path / "fixed.onnx", nodes, constants, {"x": [1, 3, 16, 16]})
    encoder = OnnxEncoder(file, as_encoder(nn.Identity(), TINY).input)
    assert list(encoder.frozen) == ["encoder.a.next_"] and (encoder.dim, encoder.tap_dim) == (64, 4)
    want = F.conv2d(pixels(TINY), torch.from_numpy(KERNEL), stride=4, padding=1)
    out = run(encoder.graph(), encoder.frozen, TINY)
    close(out["z"], want.flatten(1))
    close(out["taps"], want.mean((2, 3)))


def test_a_model_with_channels_last_takes_the_pixels_as_they_are(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["i"], ["x"], perm=[0, 3, 1, 2]),
        CONV,
        helper.make_node("Relu", ["c"], ["out"]),
    ]
    file = written(tmp_path / "last.onnx", nodes, {"a.next": KERNEL}, {"i": ["n", 16, 16, 3]}, 11)
    encoder = as_encoder(file, TINY)
    assert isinstance(encoder, OnnxEncoder)
    want = F.relu(F.conv2d(pixels(TINY), torch.from_numpy(KERNEL), stride=4, padding=1)).mean(
        (2, 3)
    )
    close(run(encoder.graph(), encoder.frozen, TINY)["z"], want)


def test_feature_vectors_through_one_matmul_come_back_unchanged(tmp_path: Path) -> None:
    file = written(
        tmp_path / "linear.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["out"])],
        {"w": HEAD},
        {"x": ["n", 64]},
    )
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    encoder = as_encoder(file, x)
    assert isinstance(encoder, OnnxEncoder) and encoder.frozen == {} and encoder.tap_dim == 0
    out = run(encoder.graph(), {}, x)
    assert np.array_equal(out["z"], x) and out["taps"].shape == (3, 0)


IMAGE = {"x": ["n", 3, 16, 16]}
MASK = {"ratio": np.float32(0.5), "train": np.array(True), "idle": np.array(False), "k": KERNEL}
ONES = np.ones(16, np.float32)


def one(op: str, *inputs: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(op, inputs, ["out"], **attributes)]


REFUSED: dict[str, Callable[[Path], Any]] = {
    "one input, this model takes 2 .x, y.": lambda p: written(
        p, one("Add", "x", "y"), {}, {**IMAGE, "y": ["n", 3, 16, 16]}
    ),
    "'x' is FLOAT .'.', 3, 16., of rank 3": lambda p: written(
        p, one("Relu", "x"), {}, {"x": ["n", 3, 16]}
    ),
    "3, 32, 32.; calibration inputs are": lambda p: written(
        p, one("Relu", "x"), {}, {"x": ["n", 3, 32, 32]}
    ),
    "Dropout 'out' is in training mode": lambda p: written(
        p, one("Dropout", "x", "ratio", "train"), MASK, IMAGE
    ),
    "the feature 'out' is int64": lambda p: written(p, one("ArgMax", "x", axis=1), {}, IMAGE),
    "not a readable ONNX model": lambda p: p.write_bytes(b"\xff\xff not a model") and p,
    "opset 23 cannot be converted to 20": lambda p: written(
        p, one("RMSNormalization", "x", "one"), {"one": ONES}, IMAGE, 23
    ),
    "fixed to 2; export it with a free batch": lambda p: written(
        p,
        one("Mul", "x", "two"),
        {"two": np.float32([[[[2.0]]], [[[3.0]]]])},
        {"x": [2, 3, 16, 16]},
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_file_that_cannot_be_an_encoder_is_refused_with_its_reason(
    tmp_path: Path, reason: str
) -> None:
    file = REFUSED[reason](tmp_path / "model.onnx")
    with pytest.raises(InputError, match=reason):
        as_encoder(file, TINY)
    with pytest.raises(InputError, match="not a readable"):
        as_encoder(tmp_path / "absent.onnx", TINY)


def test_a_dropout_of_inference_is_taken_out_and_an_operator_that_engines_refuse_is_named(
    tmp_path: Path,
) -> None:
    conv = helper.make_node("Conv", ["x", "k"], ["c"], strides=[4, 4], pads=[1, 1, 1, 1])
    encoder = as_encoder(
        written(tmp_path / "drop.onnx", [conv, *one("Dropout", "c", "ratio", "idle")], MASK, IMAGE),
        TINY,
    )
    assert isinstance(encoder, OnnxEncoder)
    want = F.conv2d(pixels(TINY), torch.from_numpy(KERNEL), stride=4, padding=1).mean((2, 3))
    close(run(encoder.graph(), encoder.frozen, TINY)["z"], want)
    noise = [
        helper.make_node("RandomNormalLike", ["x"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["out"]),
    ]
    with pytest.raises(CompileError, match="RandomNormalLike draws random numbers"):
        as_encoder(written(tmp_path / "noise.onnx", noise, {}, IMAGE), TINY)
