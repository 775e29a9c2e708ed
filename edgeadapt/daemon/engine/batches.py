"""Samples of one stream as a batch, and what the learner says about it as an answer for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.daemon.messages import Answer, Arrival, refused
from edgeadapt.errors import InputError
from edgeadapt.results import Observation, Prediction

Said = Observation | Prediction | str
"""What the learner said about a batch, or why a sample has no answer."""


def stacked(
    arrivals: Sequence[Arrival],
) -> tuple[NDArray[Any] | None, dict[str, NDArray[Any]] | None]:
    """A batch of samples that all have inputs, or all features.

    Raises:
        InputError: they differ in shape, dtype or kinds of features: a stack of unlike samples
            would be converted silently.
    """
    first = arrivals[0]
    if first.x is not None:
        return _stack([one.x for one in arrivals], "inputs"), None
    if first.features is None:
        raise InputError("a sample has neither an input nor features")
    if any(
        one.features is None or one.features.keys() != first.features.keys() for one in arrivals
    ):
        raise InputError("samples of one batch have different features")
    return None, {
        name: _stack([(one.features or {})[name] for one in arrivals], f"features[{name!r}]")
        for name in first.features
    }


def _stack(values: Sequence[NDArray[Any] | None], what: str) -> NDArray[Any]:
    rows = [np.asarray(value) for value in values]
    if len(rows) == 1:
        return rows[0][None]
    if len({(row.shape, row.dtype) for row in rows}) > 1:
        raise InputError(f"{what} of one batch differ in shape or dtype")
    return np.stack(rows)


def answer_of(
    arrival: Arrival, said: Said, row: int, *, waited_ms: float = 0.0, took_ms: float = 0.0
) -> Answer:
    """The answer to one sample of a batch; without an id where it was only predicted or refused, as
    it cannot be labelled then.
    """
    if isinstance(said, str):
        return refused(arrival, said)
    prediction = said if isinstance(said, Prediction) else said.prediction
    label = prediction.labels[row]
    confidence = max(prediction.probs[row].tolist())
    novelty = prediction.novelty.item(row)
    if isinstance(said, Prediction):
        return Answer(
            arrival.stream,
            arrival.source,
            arrival.at,
            "",
            arrival.name,
            label,
            confidence,
            novelty,
            waited_ms=waited_ms,
            took_ms=took_ms,
        )
    reading = said.reading
    return Answer(
        arrival.stream,
        arrival.source,
        arrival.at,
        said.ids[row],
        arrival.name,
        label,
        confidence,
        novelty,
        said.abstained.item(row),
        reading.axis,
        reading.shift,
        reading.domain,
        waited_ms,
        took_ms,
    )


__all__ = ["Said", "answer_of", "stacked"]
