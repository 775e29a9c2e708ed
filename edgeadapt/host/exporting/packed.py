"""Last stage of an export: manifest, graphs, weights and card become the signed file."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch

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
    TriggerSpec,
    encoder_tensors,
    space_of,
)
from edgeadapt.host.contracts import Arrays
from edgeadapt.host.exporting.compiled import Compiled


def pack(
    path: Path,
    compiled: Compiled,
    adapt: AdaptPolicy,
    card: Mapping[str, Any],
    private_key: bytes | None = None,
    weights: Mapping[str, Arrays] | None = None,
) -> Bundle:
    """Write a bundle.

    Args:
        adapt: what the label-free method may do. card: what was measured of it.
        private_key: ed25519 PEM that signs it.
        weights: frozen, factory and guard tensors, by default those of every calibration sample.
    """
    guard = compiled.calibrated.guard()
    weights = weights or {FROZEN: compiled.frozen, FACTORY: compiled.factory, GUARD: guard}
    unread = compiled.unread()
    kept = {name: value for name, value in weights[FROZEN].items() if name not in unread}
    graphs = {f"graphs/{name}.onnx": made.graph.model for name, made in compiled.graphs.items()}
    manifest = _manifest(compiled, adapt, unread, len(guard["y"]))
    return write_bundle(path, manifest, graphs, {**weights, FROZEN: kept}, dict(card), private_key)


def _manifest(
    compiled: Compiled, adapt: AdaptPolicy, unread: set[str], guard_samples: int
) -> Manifest:
    known = compiled.calibrated
    encoded, s = known.encoded, known.encoded.settings
    graphs = _graphs(compiled)
    space = _space(compiled, graphs, unread)
    kinds = ("evidence", "derived", "parameter")
    tensors = tuple(
        msgspec.structs.replace(spec, space=space if spec.kind in kinds else "")
        for name, spec in compiled.composition.specs.items()
        if name not in unread
    )
    return Manifest(
        name=s.name,
        version=s.version,
        classes=encoded.data.classes,
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
        policy=_policy(compiled, adapt, guard_samples),
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
            TriggerSpec(role="adapt", when="shift", min_gap_samples=known.shift.window),
            TriggerSpec(role="learn", when="label"),
        ),
    )


def _graphs(compiled: Compiled) -> tuple[GraphSpec, ...]:
    return tuple(
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


def _space(compiled: Compiled, graphs: tuple[GraphSpec, ...], unread: set[str]) -> str:
    """Digest of what makes features: the float32 encoder with its tensors."""
    encoders = [
        graph for graph in graphs if "encode" in graph.roles and graph.precision == "float32"
    ]
    models = [
        made.graph.model
        for made in compiled.graphs.values()
        if "encode" in made.roles and made.precision == "float32"
    ] or [compiled.calibrated.encoded.encoder.name.encode()]
    kept = [name for name in compiled.frozen if name not in unread]
    return space_of(
        *models, *(compiled.frozen[name].tobytes() for name in encoder_tensors(kept, encoders))
    )


def _policy(compiled: Compiled, adapt: AdaptPolicy, guard_samples: int) -> PolicySpec:
    known, smoother = compiled.calibrated, compiled.composition.smoother
    return PolicySpec(
        shift=known.shift,
        novelty=known.novelty,
        adapt=adapt,
        accuracy=known.accuracy,
        learn=LearnPolicy(
            method=known.head.name,
            factory_count=known.encoded.settings.factory_count,
            temperature=known.temperature,
            weighted=known.weighted(),
        ),
        growth=_growth(compiled),
        smooth=SmoothPolicy(method=smoother.name if smoother else ""),
        guard=GuardPolicy(
            factory_samples=guard_samples,
            source_error=float(np.clip(2 * known.error, 0.1, 0.5)),
        ),
    )


def _growth(compiled: Compiled) -> GrowthPolicy:
    """The family of adaptors, and how each member is trained."""
    from edgeadapt.host.methods.adaptors import training
    from edgeadapt.host.methods.scale_shift import ScaleShift

    candidates = []
    for adaptor in compiled.composition.adaptors:
        own = [
            spec
            for spec in adaptor.tensors(compiled.calibrated.evidence.dims)
            if spec.kind == "parameter" and spec.persist != "never"
        ]
        how = training(adaptor)
        candidates.append(
            AdaptorSpec(
                name=adaptor.name,
                tensors=tuple(spec.name for spec in own),
                learning_rate=how.learning_rate,
                steps=how.steps,
                batch=how.batch,
                per_column=isinstance(adaptor, ScaleShift),
            )
        )
    settings = compiled.calibrated.encoded.settings
    return GrowthPolicy(candidates=tuple(candidates), adaptor_kib=settings.adaptor_kib)


__all__ = ["pack"]
