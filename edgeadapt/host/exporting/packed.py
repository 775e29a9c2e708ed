"""Last stage of an export: manifest, graphs and weights, as they are written into the file."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

import edgeadapt
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, write_bundle
from edgeadapt.bundle.schema import (
    AdaptorSpec,
    AdaptPolicy,
    GraphSpec,
    GrowthPolicy,
    GuardPolicy,
    LearnPolicy,
    Manifest,
    PolicySpec,
    Provenance,
    SmoothPolicy,
    TensorSpec,
    TriggerSpec,
    encoder_tensors,
    space_of,
)
from edgeadapt.host.contracts import Arrays
from edgeadapt.host.exporting.calibrated import Calibrated
from edgeadapt.host.exporting.compiled import Compiled
from edgeadapt.host.methods.adaptors.family import training
from edgeadapt.host.methods.adaptors.scale_shift import ScaleShift
from edgeadapt.host.methods.heads.projected_means import MOMENT
from edgeadapt.host.methods.heads.second_moments import SecondMoments

_WITH_SPACE = ("evidence", "derived", "parameter")


@dataclass(frozen=True, eq=False)
class Packed:
    """What a bundle file holds: manifest, models by file name, arrays by group, ``card.json``."""

    manifest: Manifest
    graphs: dict[str, bytes]
    weights: dict[str, Arrays]
    card: dict[str, Any]

    def write(self, path: Path, private_key: bytes | None = None) -> Bundle:
        """The bundle as it is read back."""
        return write_bundle(path, self.manifest, self.graphs, self.weights, self.card, private_key)


def pack(
    compiled: Compiled,
    adapt: AdaptPolicy,
    card: dict[str, Any],
    weights: dict[str, Arrays] | None = None,
) -> Packed:
    """Put a bundle together.

    Args:
        weights: frozen, factory and guard arrays instead of those of every sample.
    """
    frozen = compiled.weights.frozen
    weights = weights or {
        FROZEN: frozen,
        FACTORY: compiled.weights.factory,
        GUARD: _guard(compiled.calibrated),
    }
    # those of the encoder that no graph takes, such as a classifier behind the feature, stay
    taken = {
        name
        for made in compiled.graphs.values()
        for name in (*made.graph.frozen, *made.graph.writes)
    }
    unread = {name for name in frozen if name.startswith("encoder.")} - taken
    kept = {name: value for name, value in weights[FROZEN].items() if name not in unread}
    graphs = {f"graphs/{name}.onnx": made.graph.model for name, made in compiled.graphs.items()}
    return Packed(_manifest(compiled, adapt, unread), graphs, weights | {FROZEN: kept}, card)


def _manifest(compiled: Compiled, adapt: AdaptPolicy, unread: set[str]) -> Manifest:
    calibrated = compiled.calibrated
    encoded, s = calibrated.encoded, calibrated.encoded.settings
    graphs = tuple(
        GraphSpec(
            file=f"graphs/{name}.onnx",
            roles=made.roles,
            methods=made.methods,
            batch=None,
            ports=made.graph.ports,
            outputs=made.graph.outputs,
            reads=made.graph.reads,
            writes=made.graph.writes,
            frozen=made.graph.frozen,
            nodes=made.graph.nodes,
            parity=made.graph.parity,
            precision=made.precision,
        )
        for name, made in compiled.graphs.items()
    )
    space, tensors = _space_and_tensors(compiled, graphs, unread)
    return Manifest(
        name=s.name,
        version=s.version,
        classes=encoded.samples.classes,
        class_slots=s.class_slots,
        domain_slots=s.domain_slots,
        feature_dim=encoded.z.shape[1],
        tap_dim=encoded.taps.shape[1],
        space=space,
        batches=s.batches,
        input=encoded.encoder.input,
        tensors=tensors,
        graphs=graphs,
        numerics=compiled.composition.numerics,
        policy=_policy(compiled, adapt),
        precisions=compiled.precisions,
        provenance=Provenance(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            edgeadapt=edgeadapt.__version__,
            torch=str(torch.__version__),
            onnx=onnx.__version__,
            seed=s.seed,
            encoder=s.encoder_name or encoded.encoder.name,
            data=s.data_name,
            recipe=s.recipe_sha256,
        ),
        triggers=(
            TriggerSpec(role="adapt", when="shift", min_gap_samples=calibrated.shift.window),
            TriggerSpec(role="learn", when="label"),
        ),
    )


def _space_and_tensors(
    compiled: Compiled, graphs: tuple[GraphSpec, ...], unread: set[str]
) -> tuple[str, tuple[TensorSpec, ...]]:
    """The name of the feature space, and the declared tensors that travel, those in it marked."""
    is_encoder = [g.precision == "float32" and "encode" in g.roles for g in graphs]
    models = [
        made.graph.model
        for made, is_one in zip(compiled.graphs.values(), is_encoder, strict=True)
        if is_one
    ] or [compiled.composition.encoder.name.encode()]
    frozen = compiled.weights.frozen
    read = encoder_tensors(
        [name for name in frozen if name not in unread],
        [graph for graph, is_one in zip(graphs, is_encoder, strict=True) if is_one],
    )
    space = space_of(*models, *(frozen[name].tobytes() for name in read))
    return space, tuple(
        msgspec.structs.replace(spec, space=space if spec.kind in _WITH_SPACE else "")
        for name, spec in compiled.weights.specs.items()
        if name not in unread
    )


def _policy(compiled: Compiled, adapt: AdaptPolicy) -> PolicySpec:
    calibrated, smoother = compiled.calibrated, compiled.composition.smoother
    return PolicySpec(
        shift=calibrated.shift,
        novelty=calibrated.novelty,
        adapt=adapt,
        accuracy=calibrated.accuracy,
        learn=LearnPolicy(
            method=calibrated.head.name,
            factory_count=calibrated.encoded.settings.factory_count,
            temperature=calibrated.cross_fitted.temperature,
            weighted=_weighted(calibrated),
        ),
        growth=_growth(compiled),
        smooth=SmoothPolicy(method=smoother.name if smoother else ""),
        guard=GuardPolicy(
            factory_samples=len(_guard_rows(calibrated)),
            source_error=float(np.clip(2 * calibrated.cross_fitted.error, 0.1, 0.5)),
        ),
    )


def _weighted(calibrated: Calibrated) -> tuple[str, ...]:
    """Sums of the head of which the factory's share may count more or less: those of heads that are
    solved for, not counted.
    """
    if not isinstance(calibrated.head, SecondMoments):
        return ()
    return tuple(
        spec.name
        for spec in calibrated.head.tensors(calibrated.data.dims)
        if spec.kind == "evidence" and spec.name != MOMENT
    )


def _growth(compiled: Compiled) -> GrowthPolicy:
    """The family of adaptors, and how each member is trained."""
    candidates = []
    for adaptor in compiled.composition.adaptors:
        how = training(adaptor)
        candidates.append(
            AdaptorSpec(
                name=adaptor.name,
                tensors=tuple(
                    spec.name
                    for spec in adaptor.tensors(compiled.calibrated.data.dims)
                    if spec.kind == "parameter" and spec.persist != "never"
                ),
                learning_rate=how.learning_rate,
                steps=how.steps,
                batch=how.batch,
                per_column=isinstance(adaptor, ScaleShift),
            )
        )
    limit = compiled.calibrated.encoded.settings.adaptor_kib
    return GrowthPolicy(candidates=tuple(candidates), adaptor_kib=limit)


def _guard_rows(calibrated: Calibrated) -> NDArray[np.int64]:
    """The first samples of every class."""
    samples, limit = calibrated.encoded.samples, calibrated.encoded.settings.guard_per_class
    by_class = [np.flatnonzero(samples.y == k)[:limit] for k in range(len(samples.classes))]
    return np.concatenate(by_class)


def _guard(calibrated: Calibrated) -> Arrays:
    """Samples that judge changes, and what each of them, being learned too, adds to its own logits:
    it is taken off again when they judge.
    """
    rows, known = _guard_rows(calibrated), len(calibrated.encoded.samples.classes)
    judges = calibrated.data.rows(rows)
    own = calibrated.fitted.logits(judges.z) - calibrated.cross_fitted.logits[rows]
    guard: Arrays = {
        "z": judges.z.astype(np.float16),
        "y": judges.y,
        "own": own[:, :known].astype(np.float32),
        "weight": judges.sample_weight,
    }
    return guard | ({"taps": judges.taps.astype(np.float16)} if judges.dims.taps else {})
