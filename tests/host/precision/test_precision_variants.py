"""A variant as it goes into a bundle: thresholds from its own features, a report that is true, and
a gate; then an export as a whole.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from precise import CLASSES, images
from ramp_images import PRECISE

import edgeadapt
from edgeadapt import host
from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.errors import CompileError, InputError
from edgeadapt.host.assembly import calibration as calibrate
from edgeadapt.host.assembly.composition import RoleGraph
from edgeadapt.host.assembly.novelty_choice import unseen_images
from edgeadapt.host.compile.graph import CompiledGraph
from edgeadapt.host.contracts import FactoryData
from edgeadapt.host.encoders.base import InputSpec
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.novelty.cosine import Cosine
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.host.precision import VariantContext, make_variant
from edgeadapt.host.precision.variants import extremes, relative_errors
from edgeadapt.runtime import Executable, GraphFile, Runtime, Tensors, open_runtime


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return open_runtime("onnxruntime")


def context_of(
    bundle: Bundle, frozen: dict[str, np.ndarray], runtime: Runtime, noise: float = 60.0
) -> VariantContext:
    """Ridge on the golden encoder's features, or on those of an encoder with other weights."""
    spec = bundle.manifest.encoder()
    encode = runtime.load(GraphFile("base", bundle.graph(spec.file), frozen))

    def features(x: np.ndarray, run: Executable) -> tuple[np.ndarray, np.ndarray]:
        out = run({"x": x}, Tensors())[0]
        return tuple(out[name].astype(np.float16).astype(np.float32) for name in ("z", "taps"))

    (evidence_x, y), (judge_x, judge_y) = images(300, 7, noise), images(600, 8, noise)
    evidence, judge = (
        FactoryData(*features(x, encode), labels, np.ones(len(labels), np.float32), 8)
        for x, labels in ((evidence_x, y), (judge_x, judge_y))
    )
    score = Cosine()
    fitted = calibrate.Fitted.of(Ridge(), ResidualShift(), evidence).with_score(score, evidence)
    part = calibrate.Part(fitted, evidence, judge, np.arange(len(judge_y)))
    shift = calibrate.shift_policy([part], (0, 16), 0)
    novelty = calibrate.novelty_policy(score, [part], {"cosine": 0.5})
    base = RoleGraph(
        CompiledGraph(
            "encode",
            bundle.graph(spec.file),
            spec.ports,
            spec.outputs,
            (),
            (),
            spec.frozen,
            spec.nodes,
            spec.parity,
        ),
        ("encode",),
        ("Precise",),
    )
    unseen = unseen_images(judge_x[:60], 0)
    return VariantContext(
        base,
        frozen,
        bundle.manifest.input,
        runtime,
        features,
        part,
        score,
        shift,
        novelty,
        evidence_x,
        judge_x,
        unseen,
        (0, 16),
        0,
    )


@pytest.fixture(scope="module")
def context(runtime: Runtime) -> VariantContext:
    bundle = read_bundle(PRECISE)
    return context_of(
        bundle, {name: bundle.frozen[name] for name in bundle.manifest.encoder().frozen}, runtime
    )


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_thresholds_and_report_are_of_the_features_that_the_variant_makes(
    context: VariantContext, runtime: Runtime, precision: str
) -> None:
    graph, spec = make_variant(precision, context, 0.01)
    z, taps = context.features(
        context.judge_x, runtime.load(GraphFile("v", graph.graph.model, dict(context.frozen)))
    )
    fitted, y = context.part.fitted, context.part.judge.y
    seen = calibrate.Part(
        fitted,
        context.part.evidence,
        replace(context.part.judge, z=z, taps=taps),
        np.arange(len(y)),
    )
    assert spec.shift == calibrate.shift_policy([seen], (0, 16), 0) != context.shift
    scores = fitted.novelty(context.score, z, taps)
    assert (
        spec.novelty.threshold == pytest.approx(float(np.quantile(scores, 0.95)))
        and spec.novelty.threshold != context.novelty.threshold
    )
    slots, slots32 = (
        fitted.logits(z).argmax(axis=1),
        fitted.logits(context.part.judge.z).argmax(axis=1),
    )
    report, errors = spec.report, relative_errors(z, context.part.judge.z)
    assert (report.samples, report.accuracy, report.float32_accuracy) == (
        600,
        (slots == y).mean(),
        (slots32 == y).mean(),
    )
    assert report.agreement == (slots == slots32).mean() and (
        report.median_error,
        report.worst_error,
    ) == (np.median(errors), errors.max())
    assert (
        report.false_alarms <= 0.01
        and graph.precision == precision
        and graph.graph.parity.cases == 600
    )
    windows = calibrate.class_mix_windows(y, spec.shift.window, 200, np.random.default_rng(77))
    noisy = images(600, 9, noise=90.0)[0]
    off, off_taps = context.features(
        noisy, runtime.load(GraphFile("v", graph.graph.model, dict(context.frozen)))
    )
    shifted = replace(seen, judge=replace(context.part.judge, z=off, taps=off_taps))
    # it sees what is no clean window
    assert calibrate.false_alarms([shifted], spec.shift, 0) > 0.9 and len(windows["one"]) == 200


def fragile(frozen: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """The same function in float32, with one channel of an inner map so large that int8 has no
    levels left for the others.
    """
    changed = {name: value.copy() for name, value in frozen.items()}
    for part in ("scale", "shift"):
        changed[f"encoder.down.1.{part}"][0] *= factor
    changed["encoder.hidden.weight"][:, 0] /= factor
    return changed


def test_a_variant_that_costs_too_much_stops_the_export_with_figures_and_a_way_out(
    context: VariantContext, runtime: Runtime
) -> None:
    broken = context_of(read_bundle(PRECISE), fragile(dict(context.frozen), 3000.0), runtime)
    assert relative_errors(broken.part.judge.z, context.part.judge.z).max() < 0.01
    with pytest.raises(
        CompileError,
        match=(
            r"the int8 encoder names \d\d\.\d+% of 600 held-out samples rightly, float32 9\d\.\d+%:"
            r" .* more than precision_margin = 0\.01 .*leave int8 out"
        ),
    ):
        make_variant("int8", broken, 0.01)
    _, spec = make_variant("float16", broken, 0.01)  # which has an exponent
    assert spec.report.agreement > 0.99


def test_a_margin_lets_a_variant_through_that_loses_less(
    context: VariantContext, runtime: Runtime
) -> None:
    worse = context_of(
        read_bundle(PRECISE), fragile(dict(context.frozen), 120.0), runtime, noise=110.0
    )
    loss = make_variant("int8", worse, 1.0)[1].report
    lost = loss.float32_accuracy - loss.accuracy
    assert lost > 0.02
    with pytest.raises(CompileError, match=r"precision_margin = 0\.01"):
        make_variant("int8", worse, 0.01)
    make_variant("int8", worse, lost + 0.001)


def test_a_loss_that_chance_explains_is_no_reason(context: VariantContext) -> None:
    part = context.part
    few = replace(context, part=replace(part, judge=replace(part.judge, y=part.judge.y.copy())))
    # any loss is beyond this margin, but a few samples more or less are chance
    report = make_variant("int8", few, 0.0)[1].report
    assert report.agreement < 1.0


def test_extremes_of_inputs_with_units_of_their_own_are_far_from_the_mean() -> None:
    spec = InputSpec(layout="NC", dtype="float32", shape=(2, 5), mean=(1.0, -3.0), std=(0.5, 2.0))
    x = extremes(spec, 0)
    assert (
        x.dtype == np.float32
        and np.allclose(x[0, :, 0], [1 - 15, -3 - 60])
        and np.allclose(x[1, :, 0], [1 + 15, -3 + 60])
    )


# -- an export -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An ONNX encoder of a user, in every precision."""
    folder = tmp_path_factory.mktemp("precision")
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 1, 3, 3)) / 300,
        "b1": rng.standard_normal(16),
        "w2": rng.standard_normal((24, 16, 3, 3)) / 6,
        "w3": rng.standard_normal((24, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    path = folder / "mine.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
    return host.export(
        folder / "mine.edge",
        path,
        images(300, 1, noise=40.0),
        CLASSES,
        name="mine",
        novelty="cosine",
        adapt="none",
        stress=False,
        class_slots=8,
        random_features=0,
        precisions=("int8", "float16"),
    )


def test_an_onnx_encoder_is_exported_in_every_precision(exported: Bundle) -> None:
    manifest = exported.manifest
    assert [spec.precision for spec in manifest.precisions] == ["int8", "float16"]
    assert sorted(graph.file for graph in manifest.graphs if graph.precision != "float32") == [
        "graphs/encode_float16.onnx",
        "graphs/encode_int8.onnx",
    ]
    x, y = images(90, 2, noise=40.0)
    found: dict[str, Any] = {}
    for precision in ("float32", "float16", "int8"):
        with edgeadapt.open(exported, precision=precision) as learner:
            found[precision] = learner.predict(x)
    errors = {
        precision: float(
            np.median(relative_errors(found[precision].embedding, found["float32"].embedding))
        )
        for precision in ("float16", "int8")
    }
    assert 1e-6 < errors["float16"] < 2e-3 < errors["int8"] < 0.05
    assert (np.array(found["int8"].labels) == np.array(CLASSES)[y]).mean() > (
        np.array(found["float32"].labels) == np.array(CLASSES)[y]
    ).mean() - 0.03


def test_feature_vectors_have_no_encoder_to_compute_in_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 4)).astype(np.float32), np.arange(60) % 3
    with pytest.raises(
        InputError, match=r"precisions = .*'int8'.* are of an encoder, and Identity has none"
    ):
        host.export(
            tmp_path / "x.edge",
            host.Identity(4),
            (x, y),
            CLASSES,
            stress=False,
            adapt="none",
            novelty="cosine",
            random_features=0,
            precisions=("int8",),
        )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"precisions": ("int4",)}, "precisions are some of float16, int8, each once, got"),
        ({"precisions": "int8"}, "precisions are some of float16, int8"),
        ({"precisions": ("int8", "int8")}, "each once"),
        ({"precision_margin": -0.1}, "precision_margin is an accuracy from 0 to 1, got -0.1"),
        ({"precision_margin": True}, "precision_margin is an accuracy"),
    ],
)
def test_settings_are_refused_by_name(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        host.export(tmp_path / "x.edge", host.Identity(4), images(60, 0), CLASSES, **settings)
