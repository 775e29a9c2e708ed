"""What can be asked of a daemon that runs: by whoever embeds it, and over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.decoding.images import as_picture
from edgeadapt.daemon.engine.batches import answer_of
from edgeadapt.daemon.engine.checkpoints import Checkpoints
from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.daemon.engine.forget import forget
from edgeadapt.daemon.lifecycle import status
from edgeadapt.daemon.lifecycle.reload import Reload
from edgeadapt.daemon.messages import Answer, Arrival, LabelArrival, refused
from edgeadapt.daemon.monitoring.time_series import Past, Window
from edgeadapt.device.learner import DEFAULT_STREAM
from edgeadapt.device.recovery.label_selection import Selection
from edgeadapt.errors import InputError, StateError
from edgeadapt.inputs import check_batch, check_features
from edgeadapt.results import Commit, Quality, Question, Receipt

if TYPE_CHECKING:
    from edgeadapt.daemon.monitoring.metrics import Metrics


class Operations:
    """Each may be called from any thread, and from several at once.

    Args:
        context: the parts of the daemon. reread: gives its settings anew, for ``reload``.
        metrics: None where they are switched off.
    """

    def __init__(
        self,
        context: ServiceContext,
        reread: Callable[[], Any] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.context, self.metrics = context, metrics
        self._checkpoints = Checkpoints(context)
        self._reload = Reload(context, reread)

    @property
    def manifest(self) -> Manifest:
        """Of the bundle that answers."""
        return self.context.manifest

    # -- answers -----------------------------------------------------------------------------------
    def predict(
        self,
        x: Any = None,
        *,
        features: Mapping[str, Any] | None = None,
        stream: str = DEFAULT_STREAM,
    ) -> list[Answer]:
        """Answer a batch on the caller's thread and change nothing; see ``Learner.predict``."""
        asked = Arrival(stream, "")
        with self.context.lease.borrow() as learner:
            started = time.perf_counter()
            said = learner.predict(x, features=features, stream=stream)
            took_ms = 1e3 * (time.perf_counter() - started)
        return [answer_of(asked, said, row, took_ms=took_ms) for row in range(len(said))]

    def observe(
        self,
        x: Any = None,
        *,
        features: Mapping[str, Any] | None = None,
        stream: str = DEFAULT_STREAM,
        names: Sequence[str] = (),
        source: str = "http",
    ) -> list[Answer]:
        """Answer a batch through the inbox, in turn with what the sources bring; waits for as long
        as ``control.timeout_s``.

        Args:
            names: one for each sample, by which it can be labelled; ``""`` for none.

        Raises:
            InputError: the batch does not fit the bundle, or has more samples than the queue has
                places.
        """
        context = self.context
        rows = _rows(context.manifest, x, features)
        if names and len(names) != len(rows):
            raise InputError(f"{len(rows)} samples need {len(rows)} names, got {len(names)}")
        if len(rows) > context.inbox.size:
            raise InputError(
                f"{len(rows)} samples at once are more than the {context.inbox.size} places of the"
                " queue"
            )
        answers: dict[int, Answer] = {}
        left = threading.Semaphore(0)

        def reply_to(row: int) -> Callable[[Answer], None]:
            def reply(answer: Answer) -> None:
                answers[row] = answer
                left.release()

            return reply

        timeout_s = context.settings.control.timeout_s
        until = time.monotonic() + timeout_s
        arrivals = [
            Arrival(stream, source, one, z, names[row] if names else "", reply=reply_to(row))
            for row, (one, z) in enumerate(rows)
        ]
        for row, arrival in enumerate(arrivals):
            if not context.inbox.put(arrival, max(0.0, until - time.monotonic())):
                why = "the daemon stops" if context.is_stopping else "dropped: the inbox was full"
                reply_to(row)(refused(arrival, why))
        for _ in rows:
            if not left.acquire(timeout=max(0.0, until - time.monotonic())):
                break
        late = f"no answer within {timeout_s:g} s"
        return [answers.get(row) or refused(arrival, late) for row, arrival in enumerate(arrivals)]

    # -- labels and questions ----------------------------------------------------------------------
    def label(self, items: Sequence[tuple[str, str]], source: str = "") -> dict[str, Any]:
        """Label samples by id or name. What was received is durable.

        Returns:
            ``labels``: one ``{sample, outcome, why, id}`` for each item, ``outcome`` being
            received, waiting (for its sample) or refused; and how many there are of each.

        Raises:
            the error of the first, if every label was refused.
        """
        found = self.context.labels.give(
            [LabelArrival(sample, label, source) for sample, label in items],
            self.context.settings.control.timeout_s,
        )
        if found and all(one.outcome == "refused" for one in found):
            raise found[0].error or StateError(found[0].why)
        rows = [
            {"sample": one.sample, "outcome": one.outcome, "why": one.why, "id": one.id}
            for one in found
        ]
        return {"labels": rows} | {
            outcome: sum(one.outcome == outcome for one in found)
            for outcome in ("received", "waiting", "refused")
        }

    def forget(
        self,
        samples: Sequence[str] | None = None,
        *,
        source: str | None = None,
        classes: Sequence[str] | None = None,
        before: float | None = None,
        after: float | None = None,
    ) -> Receipt:
        """Remove labelled samples as if they had never been; see ``engine.forget``. Labels that
        still wait for their sample are no part of it.
        """
        return forget(self.context, Selection(samples, source, classes, before, after))

    def questions(self, limit: int = 5) -> list[Question]:
        with self.context.lease.borrow() as learner:
            return learner.questions(limit)

    def alike(self, samples: Sequence[str]) -> dict[str, int]:
        """Those that are pending, like beside like, each with its group."""
        with self.context.lease.borrow() as learner:
            return learner.alike(samples)

    def withdraw(self, samples: Sequence[str], source: str | None = None) -> int:
        """Take labels of these ids back, all of them ``source``'s if one is given; how many."""
        with self.context.lease.borrow() as learner:
            learner.withdraw(samples, source=source)
        return len(set(samples))

    def quality(self) -> Quality:
        """How good the answers are in the field."""
        with self.context.lease.borrow() as learner:
            return learner.quality()

    def frame_of(self, question: str) -> NDArray[np.uint8] | None:
        """(H, W) or (H, W, 3) uint8, RGB, of an open question; None if it is not open, or about no
        picture.
        """
        frames = (one.frame for one in self.questions(1 << 20) if one.id == question)
        frame = next(frames, None)
        return None if frame is None else as_picture(np.asarray(frame), self.manifest.input)

    def picture_of(self, stream: str, sample: str = "") -> NDArray[np.uint8] | None:
        """As ``frame_of``, of the answer that the status shows of a stream, or showed lately under
        this id.
        """
        x = self.context.series.input_of(stream, sample)
        return None if x is None else as_picture(x, self.manifest.input)

    # -- what is known, and what was done ----------------------------------------------------------
    def classes(self) -> tuple[str, ...]:
        with self.context.lease.borrow() as learner:
            return learner.classes

    def add_class(self, name: str) -> None:
        with self.context.lease.borrow() as learner:
            learner.add_class(name)

    def remove_class(self, name: str) -> None:
        with self.context.lease.borrow() as learner:
            learner.remove_class(name)

    def history(self, limit: int = 50) -> list[Commit]:
        with self.context.lease.borrow() as learner:
            return learner.history(limit)

    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        with self.context.lease.borrow() as learner:
            return learner.decisions(limit)

    def rollback(self, to: int | None = None) -> int:
        with self.context.lease.borrow() as learner:
            return learner.rollback(to)

    def freeze(self, frozen: bool = True) -> None:
        """Serve and measure, change nothing; holds over a swap, not over a restart."""
        with self.context.lease.borrow() as learner:
            learner.freeze(frozen)
            self.context.is_frozen = frozen

    def pause(self, paused: bool = True) -> None:
        """Put learning off; the daemon's own pauses for latency come on top."""
        self.context.pause_reasons.set("user", paused)

    def checkpoint(self) -> int:
        """Make what was learned durable; see ``Checkpoints.take``."""
        return self._checkpoints.take()

    # -- what runs ---------------------------------------------------------------------------------
    def swap(self, path: str | Path) -> dict[str, Any]:
        """Let another bundle take over; see ``Reload.swap``."""
        return self._reload.swap(path)

    def reload(self) -> dict[str, Any]:
        """Read the settings again; see ``Reload.reload``."""
        return self._reload.reload()

    def ready(self) -> tuple[bool, str]:
        return status.ready(self.context)

    def health(self) -> dict[str, Any]:
        return status.health(self.context)

    def status(self) -> dict[str, Any]:
        return status.status(self.context)

    def series(self, window: Window = "minutes") -> Past:
        """What the status page draws over time."""
        return self.context.series.past(window)


def _rows(
    manifest: Manifest, x: Any, features: Mapping[str, Any] | None
) -> list[tuple[NDArray[Any] | None, dict[str, NDArray[Any]] | None]]:
    """A batch that fits the bundle, as samples."""
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


__all__ = ["Operations"]
