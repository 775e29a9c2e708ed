"""Samples that somebody waits for: answered on the caller's thread, or in turn with what the
sources bring.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.daemon.engine.loop import answer_of
from edgeadapt.daemon.messages import Answer, Arrival, refused
from edgeadapt.device.learner import DEFAULT_STREAM
from edgeadapt.errors import InputError
from edgeadapt.inputs import check_batch, check_features


def predict(
    running: ServiceContext,
    x: Any = None,
    *,
    features: Mapping[str, Any] | None = None,
    stream: str = DEFAULT_STREAM,
) -> list[Answer]:
    """Answer a batch on the caller's thread and change nothing; see ``Learner.predict``."""
    at = time.time()
    with running.lending.lend() as learner:
        started = time.perf_counter()
        prediction = learner.predict(x, features=features, stream=stream)
        took_ms = 1e3 * (time.perf_counter() - started)
    asked = Arrival(stream, "", at=at)
    return [answer_of(asked, prediction, row, took_ms=took_ms) for row in range(len(prediction))]


def observe(
    running: ServiceContext,
    x: Any = None,
    *,
    features: Mapping[str, Any] | None = None,
    stream: str = DEFAULT_STREAM,
    names: Sequence[str] = (),
    source: str = "http",
) -> list[Answer]:
    """Answer a batch through the inbox, in turn with what the sources bring; waits for as long as
    ``control.timeout_s``.

    Args:
        names: one for each sample, by which it can be labelled; ``""`` for none.

    Raises:
        InputError: the batch does not fit the bundle, or has more samples than the queue has
            places.
    """
    rows = _rows(running.manifest, x, features)
    if names and len(names) != len(rows):
        raise InputError(f"{len(rows)} samples need {len(rows)} names, got {len(names)}")
    if len(rows) > running.inbox.size:
        raise InputError(
            f"{len(rows)} samples at once are more than the {running.inbox.size} places of the"
            " queue"
        )
    answers: dict[int, Answer] = {}
    left = threading.Semaphore(0)

    def reply_to(row: int) -> Callable[[Answer], None]:
        def reply(answer: Answer) -> None:
            answers[row] = answer
            left.release()

        return reply

    timeout_s = running.settings.control.timeout_s
    until = time.monotonic() + timeout_s
    arrivals = [
        Arrival(
            stream,
            source,
            x=x,
            features=features,
            name=names[row] if names else "",
            reply=reply_to(row),
        )
        for row, (x, features) in enumerate(rows)
    ]
    for row, arrival in enumerate(arrivals):
        if not running.inbox.put(arrival, max(0.0, until - time.monotonic())):
            reply_to(row)(
                refused(
                    arrival,
                    "the daemon stops" if running.is_stopping else "dropped: the inbox was full",
                )
            )
    for _ in rows:
        if not left.acquire(timeout=max(0.0, until - time.monotonic())):
            break
    late = f"no answer within {timeout_s:g} s"
    return [answers.get(row) or refused(arrival, late) for row, arrival in enumerate(arrivals)]


def _rows(
    manifest: Manifest, x: Any, features: Mapping[str, Any] | None
) -> list[tuple[NDArray[Any] | None, dict[str, NDArray[Any]] | None]]:
    """A batch that passed the door, as samples."""
    if (x is None) == (features is None):
        raise InputError("pass either a batch x or features={'z': ...}")
    if x is not None and manifest.input.layout != "features":
        return [(row, None) for row in check_batch(x, manifest.input)]
    z, taps = check_features(
        features if features is not None else {"z": x}, manifest.feature_dim, manifest.tap_dim
    )
    return [
        (None, {"z": z[row], "taps": taps[row]} if manifest.tap_dim else {"z": z[row]})
        for row in range(len(z))
    ]


__all__ = ["observe", "predict"]
