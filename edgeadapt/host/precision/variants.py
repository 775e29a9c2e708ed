"""One variant of an encoder, finished: its graph, thresholds from its own features, what it costs,
and whether that is too much.

Scales come from samples that make evidence; thresholds and the report from those that only judge,
as for the float32 encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgeadapt.bundle.schema import (
    InputSpec,
    NoveltyPolicy,
    Parity,
    PrecisionReport,
    PrecisionSpec,
    ShiftPolicy,
    Variant,
)
from edgeadapt.device.inference.precision_check import (
    LEAST_TOLERANCE,
    compared,
    distance_between,
    probe_features,
    probe_inputs,
)
from edgeadapt.device.numerics.statistics import sign_test
from edgeadapt.errors import CompileError
from edgeadapt.host.assembly import calibration as calibrate
from edgeadapt.host.assembly.composition import RoleGraph
from edgeadapt.host.assembly.novelty_choice import choose_novelty
from edgeadapt.host.compile.lint import lint
from edgeadapt.host.compile.session import VERSION
from edgeadapt.host.contracts import FactoryData, Scores
from edgeadapt.host.precision.float16 import halved
from edgeadapt.host.precision.int8 import quantised
from edgeadapt.host.precision.ranges import open_session
from edgeadapt.runtime import Executable, GraphFile, Runtime

SAMPLES = 256  # of the evidence, from which the scales of activations are taken
# one-sided sign test on the samples that only one of both encoders names rightly
SIGNIFICANCE = 0.05
# median relative error of a feature; beyond it the graph is wrong, whatever the classifier still
# makes of it
_TOLERANCE = {"float16": 0.02, "int8": 0.5}
_MAKERS = {"float16": halved, "int8": quantised}
# times what fast kernels differ here from the nodes as they are written: so much may those of
# another machine
_OTHER_KERNELS = 4.0
_FAR = 30.0  # standard deviations of an input in units of its own

Features = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class VariantContext:
    """The float32 encoder and what it was calibrated with.

    Attributes:
        base: its graph. frozen: its external tensors. input: the contract.
        runtime, features: what runs graphs, and what turns inputs into stored features (z, taps)
            with one of them.
        part, score, shift, novelty: from float32 features.
        evidence_x, judge_x: the inputs behind them.
        unseen_x: inputs that no training showed, or None.
        signature: columns that tell conditions apart. seed: of splits and simulated windows.
    """

    base: RoleGraph
    frozen: Mapping[str, NDArray[Any]]
    input: InputSpec
    runtime: Runtime
    features: Callable[[NDArray[Any], Executable], Features]
    part: calibrate.Part
    score: Scores
    shift: ShiftPolicy
    novelty: NoveltyPolicy
    evidence_x: NDArray[Any]
    judge_x: NDArray[Any]
    unseen_x: NDArray[Any] | None
    signature: tuple[int, int]
    seed: int


def make_variant(
    precision: Variant, context: VariantContext, margin: float
) -> tuple[RoleGraph, PrecisionSpec]:
    """The graph of a variant, and what the manifest says about it.

    Args:
        margin: held-out accuracy that it may lose against float32.

    Raises:
        CompileError: it cannot be made, ONNX Runtime computes it wrongly here, or it loses more
            than ``margin``, and chance does not explain it.
    """
    name = f"encode_{precision}"
    rows = np.random.default_rng(context.seed).permutation(len(context.evidence_x))[:SAMPLES]
    calibration = [context.evidence_x[rows]] + (
        [extremes(context.input, context.seed)] if precision == "float16" else []
    )
    made = _MAKERS[precision](
        name, ModelProto.FromString(context.base.graph.model), context.frozen, calibration
    )
    lint(name, made, precision=precision)
    _check_kernels(name, made, context, context.evidence_x[rows[:32]])
    encode = context.runtime.load(GraphFile(name, made.SerializeToString(), dict(context.frozen)))
    z, taps = context.features(context.judge_x, encode)
    judge = replace(context.part.judge, z=z, taps=taps)
    if not np.isfinite(z).all() or not np.isfinite(taps).all():
        raise CompileError(
            f"{name}: features are not finite on held-out samples; leave {precision} out of"
            " precisions"
        )
    _gate(precision, context, judge, margin)
    part = _judged_by(context, judge)
    shift = calibrate.shift_policy([part], context.signature, context.seed)
    report = _report(context, judge, shift, encode)
    tolerance = _TOLERANCE[precision]
    if not report.median_error <= tolerance:
        raise CompileError(
            f"{name}: features differ from float32 by {report.median_error:.2g} of their size in"
            f" the median, more than {tolerance:g}; leave {precision} out of precisions"
        )
    external = {tensor.name for tensor in made.graph.initializer if tensor.external_data}
    graph = replace(
        context.base.graph,
        name=name,
        model=made.SerializeToString(),
        frozen=tuple(tensor for tensor in context.base.graph.frozen if tensor in external),
        nodes=len(made.graph.node),
        values={},
        parity=Parity(
            cases=len(judge.y),
            tolerance=tolerance,
            median_error=report.median_error,
            worst_error=report.worst_error,
            onnxruntime=VERSION,
        ),
    )
    probe = probe_features(encode, context.input)
    written = compared(
        open_session(made, context.frozen, optimised=False).run(
            ["z"], {"x": probe_inputs(context.input)}
        )[0]
    )
    spec = PrecisionSpec(
        precision=precision,
        report=report,
        probe=tuple(map(float, probe)),
        probe_tolerance=max(LEAST_TOLERANCE, _OTHER_KERNELS * distance_between(probe, written)),
        shift=shift,
        novelty=calibrate.novelty_policy(
            context.score,
            [part],
            {} if report.auroc is None else {context.score.name: report.auroc},
        ),
    )
    return RoleGraph(graph, ("encode",), context.base.methods, precision), spec


def extremes(spec: InputSpec, seed: int) -> NDArray[Any]:
    """Inputs at the ends of their range: all lowest, all highest, both in turn, and noise; of an
    input without a range, 30 standard deviations off.
    """
    rng = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        low, high = np.zeros(spec.shape), np.full(spec.shape, 255.0)
    elif spec.range is not None:
        low, high = (np.full(spec.shape, end) for end in spec.range)
    else:
        per_channel = [-1, *[1] * (len(spec.shape) - 1)]
        mean, std = (
            np.array(values or default, np.float64).reshape(per_channel)
            for values, default in ((spec.mean, (0.0,)), (spec.std, (1.0,)))
        )
        low, high = (np.broadcast_to(mean + side * _FAR * std, spec.shape) for side in (-1, 1))
    share = np.concatenate(
        [
            np.zeros((1, *spec.shape)),
            np.ones((1, *spec.shape)),
            rng.integers(0, 2, (3, *spec.shape)),
            rng.random((3, *spec.shape)),
        ]
    )
    x = low + share * (high - low)
    return x.round().astype(np.uint8) if spec.dtype == "uint8" else x.astype(np.float32)


def _check_kernels(name: str, made: ModelProto, context: VariantContext, x: NDArray[Any]) -> None:
    """ONNX Runtime's kernels for low precision against the nodes as they are written, one by one in
    float32.

    They may differ by as much as the rounding itself costs: in a network that amplifies it,
    rounding in another order does.
    """
    fast, plain = (
        open_session(made, context.frozen, optimised=optimised).run(["z"], {"x": x})[0]
        for optimised in (True, False)
    )
    if not np.isfinite(fast).all() or not np.isfinite(plain).all():
        raise CompileError(
            f"{name}: features are not finite on calibration inputs; leave this precision out"
        )
    whole = open_session(
        ModelProto.FromString(context.base.graph.model), context.frozen, optimised=True
    ).run(["z"], {"x": x})[0]
    distance, cost = (float(np.median(relative_errors(plain, other))) for other in (fast, whole))
    if distance > max(LEAST_TOLERANCE, cost):
        raise CompileError(
            f"{name}: ONNX Runtime {VERSION} computes it wrongly on this processor: its kernels"
            f" differ from the graph by {distance:.2g} of a feature; take a newer version, or leave"
            " this precision out"
        )


def relative_errors(z: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) |z - z_ref| / |z_ref| of each row."""
    difference = np.linalg.norm(z.astype(np.float64) - reference, axis=1)
    found: NDArray[np.float64] = difference / np.maximum(
        np.linalg.norm(reference.astype(np.float64), axis=1), 1e-12
    )
    return found


def _judged_by(context: VariantContext, judge: FactoryData) -> calibrate.Part:
    """What was fitted on float32 features, judged by these; as independent samples."""
    part = context.part
    return calibrate.Part(part.fitted, part.evidence, judge, np.arange(len(judge.y)))


def _report(
    context: VariantContext, judge: FactoryData, shift: ShiftPolicy, encode: Executable
) -> PrecisionReport:
    fitted, before, seed = context.part.fitted, context.part.judge, context.seed
    answers = fitted.logits(judge.z).argmax(axis=1)
    answers32 = fitted.logits(before.z).argmax(axis=1)
    errors = relative_errors(judge.z, before.z)
    part, variant = _judged_by(context, before), _judged_by(context, judge)
    unseen = context.features(context.unseen_x, encode) if context.unseen_x is not None else None
    marks = choose_novelty([context.score], variant, unseen, seed)[1]
    return PrecisionReport(
        samples=len(judge.y),
        accuracy=float((answers == judge.y).mean()),
        float32_accuracy=float((answers32 == judge.y).mean()),
        agreement=float((answers == answers32).mean()),
        median_error=float(np.median(errors)),
        worst_error=float(errors.max()),
        auroc=marks.get(context.score.name, context.novelty.auroc),
        float32_auroc=context.novelty.auroc,
        false_alarms=calibrate.false_alarms([variant], shift, seed),
        float32_false_alarms=calibrate.false_alarms([part], context.shift, seed),
    )


def _gate(precision: Variant, context: VariantContext, judge: FactoryData, margin: float) -> None:
    right, right32 = (
        context.part.fitted.logits(data.z).argmax(axis=1) == data.y
        for data in (judge, context.part.judge)
    )
    loss = float(right32.mean() - right.mean())
    chance = sign_test(int((right & ~right32).sum()), int((right32 & ~right).sum()))
    if loss > margin and chance < SIGNIFICANCE:
        raise CompileError(
            f"the {precision} encoder names {right.mean():.2%} of {len(right)} held-out samples"
            f" rightly, float32 {right32.mean():.2%}: it loses {loss:.2%}, more than"
            f" precision_margin = {margin:g} (p = {chance:.2g}); leave {precision} out of"
            " precisions, or raise precision_margin"
        )
