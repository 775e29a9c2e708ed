"""Labels on their way to the learner: in order, by a thread of their own, tried again where the
disk or the day's writes do not allow it yet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from edgeadapt.daemon.engine.sample_registry import AN_ID, SampleRegistry
from edgeadapt.daemon.messages import LabelArrival
from edgeadapt.device.learner import Learner
from edgeadapt.errors import BudgetError, EdgeadaptError, InputError, StateError, StorageError

log = logging.getLogger("edgeadapt.daemon")
Borrow = Callable[[], AbstractContextManager[Learner]]
Outcome = Literal["received", "waiting", "refused"]
_AT_ONCE = 64  # labels of one source in one transaction
_LATELY_S = 600.0  # nothing is tried again for whoever waited: so long health says it
_QUIET_S = 10.0  # between two lines of the log about refused labels
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0


@dataclass(frozen=True)
class LabelOutcome:
    """What became of one label: the learner has it for good, it waits for its sample, or it was
    refused; ``id`` is the learner's, where known.
    """

    sample: str
    outcome: Outcome
    why: str = ""
    id: str = ""
    error: EdgeadaptError | None = None


@dataclass(frozen=True, eq=False)
class _Given:
    label: LabelArrival
    id: str | None = None  # None: still to be found
    report: Callable[[LabelOutcome], None] | None = None


@dataclass
class _Retry:
    """Why labels wait to be tried again, since when (monotonic seconds), and for how long; 0 while
    the last was taken.
    """

    failure: EdgeadaptError | None = None
    failed_at: float = 0.0
    wait_s: float = 0.0


class Labels:
    """Takes labels from any thread and gives them to the learner on one of its own, so that no
    answer waits for the disk.

    Labels that the disk or the day's budget has no room for are tried again, unless somebody waits
    for them: those are refused.

    Args:
        most: labels that may wait for their turn.
    """

    def __init__(self, registry: SampleRegistry, borrow: Borrow, most: int = 10_000) -> None:
        self.counts = dict.fromkeys(("received", "refused", "dropped"), 0)
        self.error = ""
        self._unsaid, self._quiet_until = 0, 0.0  # refused labels since a line of the log
        self.registry = registry
        self._borrow, self._most = borrow, most
        self._queue: deque[_Given] = deque()
        self._changed = threading.Condition()
        self._retry = _Retry()
        self._is_hurried = self._is_closing = False
        self._under_way = 0  # labels that left the queue and may not have reached the disk
        self._held_back = 0  # callers for whom no label leaves the queue
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, label: LabelArrival) -> bool:
        """A label from a source; False if too many wait already."""
        return self._add([_Given(label)])

    def came(self, source: str, name: str, sample: str, label: str | None) -> bool:
        """A sample was answered: the label that came with it and those that waited for it follow.
        ``sample`` is ``""`` if it was not observed.

        Returns:
            False if too many labels wait, and the one that came with it was dropped.
        """
        said = [LabelArrival(name or sample, label, source)] if label is not None else []
        if name:
            said = self.registry.came(source, name, sample) + said
        is_taken = not said or self._add([_Given(one, sample) for one in said])
        return is_taken or label is None

    def give(self, labels: Sequence[LabelArrival], timeout_s: float) -> list[LabelOutcome]:
        """Labels from somebody who waits for what becomes of them, in their order."""
        found: list[LabelOutcome | None] = [None] * len(labels)
        left = threading.Semaphore(0)

        def report_to(row: int) -> Callable[[LabelOutcome], None]:
            def report(what: LabelOutcome) -> None:
                found[row] = what
                left.release()

            return report

        if not self._add(
            [_Given(label, report=report_to(row)) for row, label in enumerate(labels)],
            is_hurried=True,
        ):
            return [
                LabelOutcome(
                    label.sample, "refused", "too many labels wait, or the daemon stops: try again"
                )
                for label in labels
            ]
        until = time.monotonic() + timeout_s
        for _ in labels:
            if not left.acquire(timeout=max(0.0, until - time.monotonic())):
                break
        late = f"not done within {timeout_s:g} s; it may still be"
        return [
            what if what is not None else LabelOutcome(label.sample, "refused", late)
            for label, what in zip(labels, found, strict=True)
        ]

    def settle(self, timeout_s: float) -> bool:
        """Wait until no label waits for its turn; False on time-out."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._queue and not self._under_way, timeout_s
            )

    def drop(
        self, is_meant: Callable[[LabelArrival, str], bool], timeout_s: float
    ) -> list[tuple[LabelArrival, str]]:
        """Drop labels that wait for their turn or for room; those that are under way have reached
        the learner when this returns, or wait again.

        Args:
            is_meant: takes the label and the id of its sample, or the name where no sample has it.

        Returns:
            What was dropped, as ``is_meant`` took it.

        Raises:
            StateError: what is under way has not arrived in time; nothing was dropped.
        """
        with self._changed:
            self._held_back += 1
            try:
                if not self._changed.wait_for(lambda: not self._under_way, timeout_s):
                    raise StateError(
                        "labels are on their way to a disk that does not answer: try again"
                    )
                gone = {
                    given: sample
                    for given in self._queue
                    if is_meant(given.label, sample := self._meant_by(given))
                }
                self._queue = deque(given for given in self._queue if given not in gone)
            finally:
                self._held_back -= 1
                self._changed.notify_all()
        for given in gone:
            self._report(given, "refused", "it was forgotten")
        return [(given.label, sample) for given, sample in gone.items()]

    def _meant_by(self, given: _Given) -> str:
        try:
            return given.id or self.registry.find(given.label) or given.label.sample
        except InputError:  # several have the name: it will be refused
            return given.label.sample

    def close(self, timeout_s: float) -> int:
        """Take no more, give what waits for its turn, and return how many may not have been given
        in time: those under way count.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._changed:
            return len(self._queue) + self._under_way

    @property
    def held_up_by(self) -> str:
        """Why labels wait to be tried again, or the last was refused lately; empty once one was
        taken.
        """
        is_held = self._queue or time.monotonic() - self._retry.failed_at < _LATELY_S
        return str(self._retry.failure) if self._retry.wait_s and is_held else ""

    def counters(self) -> dict[str, Any]:
        """For a status line."""
        return {
            **self.counts,
            "queued": len(self._queue),
            "error": self.error,
            **self.registry.counters(),
        }

    def _add(self, given: Sequence[_Given], *, is_hurried: bool = False) -> bool:
        with self._changed:
            if self._is_closing or len(self._queue) + len(given) > self._most:
                self.counts["dropped"] += len(given)
                return False
            self._queue.extend(given)
            self._is_hurried |= is_hurried
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._retry.wait_s:
                    self._changed.wait_for(
                        lambda: self._is_hurried or self._is_closing, self._retry.wait_s
                    )
                self._changed.wait_for(
                    lambda: (self._queue and not self._held_back) or self._is_closing, 1.0
                )
                if self._is_closing and (not self._queue or self._retry.wait_s):
                    return
                self._is_hurried = False
                batch = [
                    self._queue.popleft()
                    for _ in range(0 if self._held_back else min(_AT_ONCE, len(self._queue)))
                ]
                self._under_way = len(batch)
            self.registry.expire()
            try:
                self._turn(batch)
            except Exception as error:  # the thread outlives what it does not know
                log.exception("labels could not be given")
                for given in batch:
                    self._report(given, "refused", StateError(f"{type(error).__name__}: {error}"))
            with self._changed:
                self._under_way = 0
                self._changed.notify_all()

    def _turn(self, batch: Sequence[_Given]) -> None:
        """Give labels in their order, as many at once as are of one source and of different
        samples.
        """
        group: dict[str, _Given] = {}
        for row, given in enumerate(batch):
            sample = self._sample_of(given)
            if sample is None:
                continue
            if sample in group or (
                group and next(iter(group.values())).label.source != given.label.source
            ):
                if again := self._learn(group):
                    return self._put_back([*again, *batch[row:]])
                group = {}
            group[sample] = given
        if again := self._learn(group):
            self._put_back(again)

    def _sample_of(self, given: _Given) -> str | None:
        """The id to label, or None for a label that waits or was refused."""
        try:
            sample = given.id if given.id is not None else self.registry.find(given.label)
            if sample is None and AN_ID.fullmatch(given.label.sample):
                # an id of the learner's, or a name that looks like one: see _refuse
                return given.label.sample
            if sample is None:
                sample = self.registry.find(given.label, hold=True)
        except InputError as error:
            self._report(given, "refused", error)
            return None
        if sample is None:
            self._report(given, "waiting", "no sample of this name has come yet")
        elif not sample:
            self._report(
                given,
                "refused",
                InputError(
                    "the sample was answered too late to be observed: it cannot be labelled"
                ),
            )
        return sample or None

    def _learn(self, group: dict[str, _Given]) -> list[_Given]:
        """Labels of one source, one by one if they are refused together; returns those that are to
        be tried again.
        """
        if not group:
            return []
        try:
            with self._borrow() as learner:
                learner.label(
                    list(group),
                    [given.label.label for given in group.values()],
                    source=next(iter(group.values())).label.source,
                )
        except (StorageError, BudgetError) as error:
            self.error = str(error)
            self._retry.failure, self._retry.failed_at = error, time.monotonic()
            return list(group.values())
        except EdgeadaptError as error:
            if len(group) > 1:
                return [
                    again
                    for sample, given in group.items()
                    for again in self._learn({sample: given})
                ]
            self._refuse(*next(iter(group.items())), error)
            return []
        self._retry.wait_s, self.error = 0.0, ""
        for sample, given in group.items():
            self._report(given, "received", id=sample)
        return []

    def _refuse(self, sample: str, given: _Given, error: EdgeadaptError) -> None:
        is_unknown = (
            given.id is None and given.label.sample == sample and isinstance(error, InputError)
        )
        # it looked like an id and is none: then it may be the name of a sample that is still to
        # come
        if is_unknown:
            found = self.registry.find(given.label, hold=True)
            if found is None:
                return self._report(given, "waiting", str(error))
            self._put_back([_Given(given.label, found, given.report)], retry=False)
        else:
            self._report(given, "refused", error)

    def _put_back(self, batch: Sequence[_Given], *, retry: bool = True) -> None:
        """To the front of the queue. ``retry``: after a while; whoever waits is refused now."""
        with self._changed:
            self._queue.extendleft(reversed(batch))
            if not retry:
                return
            self._retry.wait_s = min(_LAST_RETRY_S, max(_FIRST_RETRY_S, 2 * self._retry.wait_s))
            waiting = [given for given in self._queue if given.report is not None]
            self._queue = deque(given for given in self._queue if given.report is None)
        for given in waiting:
            self._report(given, "refused", self._retry.failure or self.error)
        log.warning("labels wait, tried again in %.0f s: %s", self._retry.wait_s, self.error)

    def _report(
        self, given: _Given, outcome: Outcome, why: EdgeadaptError | str = "", id: str = ""
    ) -> None:
        self.counts["received"] += outcome == "received"
        self.counts["refused"] += outcome == "refused"
        if outcome == "refused" and given.report is None:
            self.error = f"{given.label.sample}: {why}"
            self._unsaid += 1
            if time.monotonic() >= self._quiet_until:
                text = "label of %s from %s refused, %d since the last line: %.300s"
                log.info(text, given.label.sample[:100], given.label.source, self._unsaid, why)
                self._unsaid, self._quiet_until = 0, time.monotonic() + _QUIET_S
        if given.report is not None:
            given.report(
                LabelOutcome(
                    given.label.sample,
                    outcome,
                    str(why),
                    id,
                    why if isinstance(why, EdgeadaptError) else None,
                )
            )


__all__ = ["Borrow", "LabelOutcome", "Labels"]
