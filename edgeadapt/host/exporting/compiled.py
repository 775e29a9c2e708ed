"""Third stage of an export: the graphs of every role around one label-free method, and the encoder
in other precisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from edgeadapt.bundle.schema import PrecisionReport, PrecisionSpec
from edgeadapt.errors import InputError
from edgeadapt.host.assembly.composition import Composition, RoleGraph
from edgeadapt.host.contracts import Arrays
from edgeadapt.host.exporting.calibrated import Calibrated
from edgeadapt.host.exporting.encoded import Progress
from edgeadapt.host.methods.adaptations import MethodContext, adaptation
from edgeadapt.host.methods.lame import Lame


@dataclass(frozen=True, eq=False)
class Compiled:
    """Methods around one label-free one, their values and graphs.

    Attributes:
        name: of the label-free method, or ``none``.
        frozen, factory: values of the tensors.
        graphs: of every role.
        precisions: of the encoder's variants.
    """

    name: str
    calibrated: Calibrated
    composition: Composition
    frozen: Arrays
    factory: Arrays
    graphs: dict[str, RoleGraph]
    precisions: tuple[PrecisionSpec, ...] = ()

    @property
    def preserves_space(self) -> bool:
        """What the method says of itself: do features of an adapted encoder mean what the factory's
        do? ``preserves_space``, by default True.
        """
        return _preserves_space(self.composition)

    def unread(self) -> set[str]:
        """Tensors of the encoder that no graph takes, such as a classifier behind the feature: they
        do not travel.
        """
        taken = {
            name
            for made in self.graphs.values()
            for name in (*made.graph.frozen, *made.graph.writes)
        }
        return {name for name in self.frozen if name.startswith("encoder.")} - taken


@dataclass(eq=False)
class _Made:
    """``labelled`` graphs are empty until they are needed."""

    composition: Composition
    frozen: Arrays
    factory: Arrays
    values: dict[str, torch.Tensor]
    unlabelled: dict[str, RoleGraph]
    labelled: dict[str, RoleGraph] = field(default_factory=dict)


class Compiler:
    """Compiles the methods around any label-free one, each graph once."""

    def __init__(self, calibrated: Calibrated, say: Progress) -> None:
        self._calibrated, self._say = calibrated, say
        graph = calibrated.encoded.graph
        self._encoders: dict[str, RoleGraph] = {} if graph is None else {"encode": graph}
        self._made: dict[str, _Made] = {}
        self._precisions: tuple[PrecisionSpec, ...] | None = None
        settings = calibrated.encoded.settings
        self.names = settings.adaptations(bool(calibrated.encoded.encoder.norms))

    def compile(self, name: str, *, is_trial: bool = False) -> Compiled:
        """The methods with this label-free one among them.

        Args:
            is_trial: streams without labels are all that will run. The graphs that labels run are
                then those of the method before, where the bundle declares their tensors.

        Raises:
            CompileError: a graph could not be compiled or checked.
        """
        made = self._made.get(name) or self._new(name)
        if self._precisions is None:
            made.labelled = self._labelled(made)
            self._precisions = self._variants(made.frozen)
        labelled = made.labelled
        if not labelled:
            before = next((other.labelled for other in self._made.values() if other.labelled), {})
            if is_trial and all(_declares(made.composition, one) for one in before.values()):
                labelled = before
            labelled = labelled or self._labelled(made)
        return Compiled(
            name,
            self._calibrated,
            made.composition,
            made.frozen,
            made.factory,
            self._encoders | made.unlabelled | labelled,
            self._precisions,
        )

    def _labelled(self, made: _Made) -> dict[str, RoleGraph]:
        evidence = self._calibrated.evidence
        made.labelled = made.composition.compile_labelled(evidence, made.values, self._say)
        return made.labelled

    def _new(self, name: str) -> _Made:
        known = self._calibrated
        encoded, settings = known.encoded, known.encoded.settings
        sharpness = 1.0 / known.temperature
        data = encoded.data
        context = MethodContext(known.head, sharpness, data.x, data.y, settings.class_slots)
        adaptors = settings.adaptor_family(known.evidence.dims, known.head, known.temperature)
        composition = Composition.of(
            encoded.encoder,
            known.head,
            known.score,
            known.sense,
            adaptation(name, encoded.encoder, context),
            adaptors,
            Lame(sharpness) if settings.smooth == "lame" else None,
        )
        if adaptors and not _preserves_space(composition):
            raise InputError(
                f"adapt = {name!r} gives a condition a feature space of its own, and an adaptor is"
                " trained in the factory's; leave out adaptors"
            )
        frozen, factory = composition.values(known.evidence, known.route)
        values = known.fitted.values | {
            key: torch.from_numpy(np.asarray(value, order="C"))
            for key, value in (factory | frozen).items()
        }
        unlabelled = composition.compile_unlabelled(known.evidence, values, self._say)
        made = self._made[name] = _Made(composition, frozen, factory, values, unlabelled)
        return made

    def _variants(self, frozen: Arrays) -> tuple[PrecisionSpec, ...]:
        """Encoders in other precisions, each with thresholds of its own; their graphs join the
        others.
        """
        known, settings = self._calibrated, self._calibrated.encoded.settings
        if not settings.precisions:
            return ()
        from edgeadapt.host.precision import VariantContext, make_variant

        encoded, part = known.encoded, known.part
        base, x = self._encoders["encode"], encoded.data.x
        context = VariantContext(
            base=base,
            frozen={name: frozen[name] for name in base.graph.frozen},
            input=encoded.encoder.input,
            runtime=encoded.runtime,
            features=encoded.features,
            part=part,
            score=known.score,
            shift=known.shift,
            novelty=known.novelty,
            evidence_x=x[np.setdiff1d(np.arange(len(x)), part.rows)],
            judge_x=x[part.rows],
            unseen_x=known.unseen_x,
            signature=encoded.encoder.signature,
            seed=settings.seed,
        )
        found = []
        for precision in settings.precisions:
            self._say(f"compile: encode in {precision}")
            made, spec = make_variant(precision, context, settings.precision_margin)  # type: ignore[arg-type]
            self._encoders[f"encode_{precision}"] = made
            found.append(spec)
            self._say_precision(spec.report, settings.precision_margin)
        return tuple(found)

    def _say_precision(self, report: PrecisionReport, margin: float) -> None:
        self._say(
            f"  held-out accuracy {report.accuracy:.1%}, float32 {report.float32_accuracy:.1%},"
            f" equal answers {report.agreement:.1%}, feature error {report.median_error:.2g}"
        )
        if report.float32_accuracy - report.accuracy > margin:
            self._say(
                f"  that is more than precision_margin = {margin:g}, and {report.samples} held-out"
                " samples are too few to tell it from chance"
            )


def _preserves_space(composition: Composition) -> bool:
    return bool(getattr(composition.constants or composition.features, "preserves_space", True))


def _declares(composition: Composition, made: RoleGraph) -> bool:
    """Whether every tensor of a graph is one of the composition's."""
    graph = made.graph
    return {*graph.reads, *graph.writes, *graph.frozen} <= composition.specs.keys()


__all__ = ["Compiled", "Compiler"]
