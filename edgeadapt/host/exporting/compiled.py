"""Third stage of an export: the graphs of every role, around one label-free method, and the encoder
in other precisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from edgeadapt.bundle.schema import PrecisionSpec
from edgeadapt.errors import InputError
from edgeadapt.host.assembly.composition import Composition, RoleGraph, Weights
from edgeadapt.host.assembly.examples import Examples
from edgeadapt.host.exporting.calibrated import Calibrated
from edgeadapt.host.methods.label_free.adaptations import MethodContext, adaptation
from edgeadapt.host.methods.label_free.feature_space.lame import Lame

Graphs = dict[str, RoleGraph]


@dataclass(frozen=True, eq=False)
class Compiled:
    """One composition of methods with its tensors and graphs.

    Attributes:
        method: name of the label-free method.
        encoders: graphs of the encoder, in float32 and other precisions; ``precisions`` says what
            the manifest does of the others.
        unlabelled, labelled: graphs that run without labels, and with them.
        is_trial: ``labelled`` are those of another label-free method: enough for streams without
            labels.
    """

    calibrated: Calibrated
    method: str
    composition: Composition
    weights: Weights
    examples: Examples
    encoders: Graphs
    precisions: tuple[PrecisionSpec, ...]
    unlabelled: Graphs
    labelled: Graphs
    is_trial: bool = False

    @property
    def graphs(self) -> Graphs:
        return self.encoders | self.unlabelled | self.labelled

    def around(self, method: str) -> Compiled:
        """The same with another label-free method, for a trial without labels: graphs that labels
        run are taken over where the bundle declares their tensors.
        """
        other = _unlabelled(self.calibrated, method)
        if all(_declares(other.weights, graph) for graph in self.labelled.values()):
            other = replace(other, labelled=self.labelled, is_trial=True)
        else:
            other = other.complete()
        return replace(other, encoders=self.encoders, precisions=self.precisions)

    def complete(self) -> Compiled:
        """With graphs of its own for labels."""
        if self.labelled and not self.is_trial:
            return self
        labelled = self.composition.compile_labelled(self.examples, self.calibrated.encoded.say)
        return replace(self, labelled=labelled, is_trial=False)


def compile_graphs(calibrated: Calibrated) -> Compiled:
    """Every graph, around the first label-free method that the settings allow.

    Raises:
        InputError: adaptors beside a method that gives conditions a feature space of their own.
        CompileError: a graph could not be compiled or checked, or a precision loses too much.
    """
    encoded = calibrated.encoded
    methods = encoded.settings.adaptations(bool(encoded.encoder.norms))
    compiled = _unlabelled(calibrated, methods[0]).complete()
    return _with_precisions(compiled) if encoded.settings.precisions else compiled


def _unlabelled(calibrated: Calibrated, method: str) -> Compiled:
    """Methods, values and those graphs that run without labels."""
    encoded, fitted, data = calibrated.encoded, calibrated.fitted, calibrated.data
    s, samples, head = encoded.settings, encoded.samples, calibrated.head
    temperature = calibrated.cross_fitted.temperature
    adaptors = s.adaptor_family(data.dims, head, temperature)
    context = MethodContext(head, 1.0 / temperature, samples.x, samples.y, s.class_slots)
    composition = Composition(
        encoded.encoder,
        head,
        calibrated.score,
        fitted.sense,
        adaptation(method, encoded.encoder, context),
        tuple(adaptors),
        Lame(1.0 / temperature) if s.smooth == "lame" else None,
    )
    if adaptors and not composition.declared("preserves_space", True):
        raise InputError(
            f"adapt = {method!r} gives a condition a feature space of its own, and an"
            " adaptor is trained in the factory's; leave out adaptors"
        )
    weights = composition.weights(data, calibrated.signature_space)
    values = fitted.values | {
        name: torch.from_numpy(np.asarray(value, order="C"))
        for name, value in {**weights.factory, **weights.frozen}.items()
    }
    examples = Examples(
        {name: values[name] for name in weights.specs if name in values},
        tuple(name for name, spec in weights.specs.items() if spec.kind == "frozen"),
        data,
    )
    encode = encoded.graph.compiled
    return Compiled(
        calibrated,
        method,
        composition,
        weights,
        examples,
        encoders={} if encode is None else {"encode": encode},
        precisions=(),
        unlabelled=composition.compile_unlabelled(examples, encoded.say),
        labelled={},
    )


def _declares(weights: Weights, made: RoleGraph) -> bool:
    """Whether every tensor of a graph is one of the bundle's."""
    graph = made.graph
    return {*graph.reads, *graph.writes, *graph.frozen} <= weights.specs.keys()


def _with_precisions(compiled: Compiled) -> Compiled:
    """Beside the float32 encoder those in other precisions, each with thresholds of its own."""
    from edgeadapt.host.precision import VariantContext, make_variant

    calibrated, base = compiled.calibrated, compiled.encoders["encode"]
    encoded, part = calibrated.encoded, calibrated.part
    settings, say, x = encoded.settings, encoded.say, encoded.samples.x
    context = VariantContext(
        base=base,
        frozen={name: compiled.weights.frozen[name] for name in base.graph.frozen},
        input=encoded.encoder.input,
        runtime=encoded.graph.runtime,
        features=encoded.graph.features,
        part=part,
        score=calibrated.score,
        shift=calibrated.shift,
        novelty=calibrated.novelty,
        evidence_x=x[np.setdiff1d(np.arange(len(x)), part.rows)],
        judge_x=x[part.rows],
        unseen_x=calibrated.unseen_x,
        signature=encoded.encoder.signature,
        seed=settings.seed,
    )
    graphs, specs, margin = dict(compiled.encoders), [], settings.precision_margin
    for precision in settings.precisions:
        say(f"compile: encode in {precision}")
        graphs[f"encode_{precision}"], spec = make_variant(precision, context, margin)  # type: ignore[arg-type]
        specs.append(spec)
        report = spec.report
        say(
            f"  held-out accuracy {report.accuracy:.1%}, float32 {report.float32_accuracy:.1%},"
            f" equal answers {report.agreement:.1%}, feature error {report.median_error:.2g}"
        )
        if report.float32_accuracy - report.accuracy > margin:
            say(
                f"  that is more than precision_margin = {margin:g},"
                f" and {report.samples} held-out samples are too few to tell it from chance"
            )
    return replace(compiled, encoders=graphs, precisions=tuple(specs))
