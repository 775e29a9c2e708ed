"""Labelled samples that another state, or another tool, had: with their ids, sources and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.inference.state import SOURCE
from edgeadapt.device.pipeline.evidence_builder import EvidenceBuilder
from edgeadapt.device.storage.features import check_storable
from edgeadapt.device.storage.rows import AskedSample, EvidenceRow, Met
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_name, check_text

_LONGEST_ID = 200


@dataclass(frozen=True, eq=False)
class LabelledSample:
    """One sample with its label.

    Attributes:
        id, label, source, stream: as in the journal.
        time: when it was met, in seconds since the epoch.
        features: (D + T,) float16. met: ``factory``, ``shifted`` or ``adapted``.
        trusted: a person vouches for it.
        status: ``received``, to be learned; or ``held``, ``vetoed``, ``withdrawn``: only kept.
        raw: the input as the encoder takes it, if there is one.
        predicted: what was answered when a question about it was asked; None if none was.
        is_random: that question was drawn, not chosen.
    """

    id: str
    label: str
    source: str
    stream: str
    time: float
    features: NDArray[np.float16]
    met: str = "factory"
    trusted: bool = False
    status: str = "received"
    raw: NDArray[Any] | None = None
    predicted: str | None = None
    is_random: bool = False


@dataclass(frozen=True)
class Correction:
    """Another label of a sample that is there, and who says so."""

    sample: str
    label: str
    source: str


def rows_of(
    samples: Sequence[LabelledSample],
    builder: EvidenceBuilder,
    corrections: Sequence[Correction] = (),
) -> list[EvidenceRow]:
    """Evidence rows, once all classes are there, those of corrections too; the rows' conditions are
    not known here, so all count for the source condition.

    Raises:
        InputError: an id that is given twice, or features that are not this bundle's.
        UnknownClassError, CapacityError: as for labels.
    """
    if len({s.id for s in samples}) != len(samples):
        raise InputError("an id is given twice")
    manifest = builder.program.manifest
    width = manifest.feature_dim + manifest.tap_dim
    for s in samples:
        if not 0 < len(check_text(s.id, "an id")) <= _LONGEST_ID:
            raise InputError(f"an id has 1 to {_LONGEST_ID} characters, got {s.id[:40]!r}")
        check_text(s.source, "a source")
        check_text(s.stream, "a stream")
        check_name(s.predicted or "", "a prediction")
        if s.features.shape != (width,) or s.features.dtype != np.float16:
            raise InputError(f"sample {s.id!r} has features {s.features.shape}, not ({width},)")
        check_storable(s.features)
    teaching = [s.label for s in samples if s.status == "received"]
    teaching += [one.label for one in corrections]
    if teaching:
        builder.names(teaching, len(teaching))
    weight = manifest.policy.learn.field_weight
    return [
        EvidenceRow(
            s.id,
            s.source,
            s.stream,
            SOURCE,
            s.time,
            s.label,
            weight,
            manifest.space,
            builder.counts_for_factory(cast(Met, s.met), s.label),
            s.features,
            status=s.status,
            met=cast(Met, s.met),
            trusted=s.trusted,
        )
        for s in samples
    ]


def asked_of(samples: Sequence[LabelledSample]) -> list[AskedSample]:
    """The questions that they answered, for the journal."""
    return [
        AskedSample(s.id, s.stream, SOURCE, s.predicted, s.is_random)
        for s in samples
        if s.predicted is not None
    ]


__all__ = ["Correction", "LabelledSample", "asked_of", "rows_of"]
