"""Adaptors ranked without training, against what training makes of them, and against doing without.

On every stream the source's ridge head stays as it is; each candidate is trained on 50, 100 and 150
labelled rows of the condition and judged on others. A score is chosen for a stream by its regret on
the other streams, so is the one candidate that could always be taken. Beside them: no adaptor, the
head after it has learned the same labels, a head of these labels alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptors.scores import SCORES, Candidate
from edgeadapt.device.adaptors.search import choose
from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.adaptors.search_rows import draw, means, summary
from edgeadapt_bench.adaptors.search_summary import (
    BOTH,
    DRAWS,
    NONE,
    REFITTED,
    SHARED,
    UPDATED,
    Trial,
)
from edgeadapt_bench.harness.measure import Row, Say, absent

if TYPE_CHECKING:
    from torch import Tensor

    from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor
    from edgeadapt_bench.adaptors.search_streams import Stream

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def run_search(
    data: str | None, say: Say, quick: bool = False, plots: str | None = None
) -> list[Row]:
    """Rows on correlation, regret, accuracy and time; a family of streams whose data are not here
    is named as absent.
    """
    missing: list[Row] = []
    trials: list[Trial] = []
    for streams in _families(data, say, quick, missing):
        drawn = [
            (labels, seed, _shared_head(streams, labels, seed))
            for labels, seed in (DRAWS[:1] if quick else DRAWS)
        ]
        for stream in streams:
            trials += [
                trial(stream, labels, seed, shared, quick=quick) for labels, seed, shared in drawn
            ]
            say(
                f"search: {stream.name}: "
                + ", ".join(
                    f"{name} {value:.1%}" for name, value in means(trials, stream.name).items()
                )
            )
    if plots is not None:
        draw(trials, Path(plots))
    return [*summary(trials), *missing]


def _families(
    data: str | None, say: Say, quick: bool, missing: list[Row]
) -> Iterator[list[Stream]]:
    """Streams of one source."""
    from edgeadapt_bench.adaptors import search_streams

    if quick:
        yield list(search_streams.quick())
        return
    for name, family in search_streams.FAMILIES.items():
        try:
            yield list(family(data, say))
        except (InputError, RuntimeUnavailable) as error:
            missing.append(absent(f"accuracy/{name}", str(error)))


def labelled(stream: Stream, labels: int, seed: int) -> tuple[F32, I64]:
    """The rows of one draw."""
    rows = np.random.default_rng([seed, labels]).permutation(len(stream.y))[:labels]
    return stream.z[rows], stream.y[rows]


def _shared_head(streams: Sequence[Stream], labels: int, seed: int) -> dict[str, Tensor]:
    """The source's head after the labels of all its conditions."""
    drawn = [labelled(stream, labels, seed) for stream in streams]
    return streams[0].source.taught(
        np.concatenate([z for z, _ in drawn]), np.concatenate([y for _, y in drawn])
    )


def trial(
    stream: Stream, labels: int, seed: int, shared: dict[str, Tensor], *, quick: bool = False
) -> Trial:
    """Score every candidate, then train every candidate."""
    import torch

    from edgeadapt.host.methods.adaptors.family import Training, family, training
    from edgeadapt_bench.adaptors.candidate_fit import adapted_logits, factory, train

    source = stream.source
    z, y = labelled(stream, labels, seed)
    candidates = {
        candidate.name: candidate for candidate in family(source.dims, scale=source.scale)
    }

    def how(candidate: TrainedAdaptor) -> Training:
        wanted = training(candidate)
        return Training(wanted.learning_rate, 10, wanted.batch, wanted.decay) if quick else wanted

    def right(logits: F32) -> float:
        return float((logits.argmax(axis=1) == stream.test_y).mean())

    weights = source.t["head.weight"].numpy()[:-1] if not source.head.random_features else None
    probes = [
        Candidate(
            name,
            candidate.probe(factory(candidate, source), torch.from_numpy(z)).numpy(),
            4 * candidate.parameter_count(source.dims),
            read_out=weights if candidate.kind == "scale_shift" else None,
        )
        for name, candidate in candidates.items()
    ]
    logits, taught = source.logits(z), source.taught(z, y)
    seconds: dict[str, float] = {}
    picked: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    for score in SCORES:
        started = time.process_time()
        ranking = choose(probes, logits, y, score=score, scale=source.scale)
        seconds[score] = time.process_time() - started
        picked[score] = ranking[0].name
        scores[score] = {r.name: r.score for r in ranking if r.name}
        gains = {r.name: r.gain for r in ranking}
    started = time.process_time()
    trained = {
        name: right(
            adapted_logits(
                candidate,
                source,
                source.t,
                train(candidate, source, source.t, z, y, how(candidate), seed=seed),
                stream.test_z,
            )
        )
        for name, candidate in candidates.items()
    }
    seconds["training"] = time.process_time() - started
    best = candidates[max(scores["ridge"], key=lambda name: scores["ridge"][name])]
    tensors = train(best, source, taught, z, y, how(best), seed=seed)
    alone = _of_labels_alone(stream, z, y)
    others = {
        NONE: right(source.logits(stream.test_z)),
        UPDATED: right(source.logits(stream.test_z, taught)),
        REFITTED: right(source.logits(stream.test_z, alone)),
        BOTH: right(adapted_logits(best, source, taught, tensors, stream.test_z)),
        SHARED: right(source.logits(stream.test_z, shared)),
    }
    heads = {NONE: source.t, UPDATED: taught, SHARED: shared}
    at_source = {
        name: float((source.logits(source.test_z, head).argmax(axis=1) == source.test_y).mean())
        for name, head in heads.items()
    }
    contaminated = choose(probes, source.logits(z, taught), y, scale=source.scale)[0].name
    return Trial(
        stream.name,
        len(y),
        trained,
        scores,
        others,
        at_source,
        {**picked, "ridge, labels in the head": contaminated},
        gains[best.name],
        seconds,
    )


def _of_labels_alone(stream: Stream, z: F32, y: I64) -> dict[str, Tensor]:
    from edgeadapt_bench.adaptors.search_streams import fitted

    return fitted(stream.source.head, z, y, np.ones(len(y), np.float32), stream.source.slots)
