"""What a learner is made of, for tests: the one place that knows its private attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeadapt.device.adaptation.domain_manager import DomainManager
    from edgeadapt.device.commits.commit_log import CommitLog
    from edgeadapt.device.commits.holdout import HeldOut
    from edgeadapt.device.inference.live_state import LiveState
    from edgeadapt.device.inference.program import Program
    from edgeadapt.device.inference.state import LearnerState
    from edgeadapt.device.learner import Learner
    from edgeadapt.device.pipeline.label_worker import LabelWorker
    from edgeadapt.device.pipeline.observer import Observer
    from edgeadapt.device.pipeline.window_queue import WindowQueue
    from edgeadapt.device.querying.pending import Pending
    from edgeadapt.device.recovery.retention import Retention
    from edgeadapt.device.resources.budget import Meter, WriteRoom
    from edgeadapt.device.resources.worker import Worker
    from edgeadapt.device.storage.journal import Journal


@dataclass(frozen=True)
class StateInspection:
    """The parts of one learner, as they are now. They are the learner's own: read them."""

    published: LiveState
    program: Program
    journal: Journal
    held_out: HeldOut
    pending: Pending
    streams: WindowQueue
    conditions: DomainManager
    observer: Observer
    worker: Worker
    label_worker: LabelWorker
    log: CommitLog
    retention: Retention
    meter: Meter
    room: WriteRoom

    @property
    def state(self) -> LearnerState:
        """What predictions go by now; immutable."""
        return self.published.current


def inspect_state(learner: Learner) -> StateInspection:
    """The parts of a learner that its public methods do not show; nothing is changed.

    Parts are not frozen, and may be renamed with any release: for tests, not for applications.

    Example:
        >>> import edgeadapt
        >>> from edgeadapt.demo.sample import bundle_path
        >>> with edgeadapt.open(bundle_path()) as learner:
        ...     inspect_state(learner).state.commit
        0
    """
    return StateInspection(
        published=learner._live,
        program=learner._program,
        journal=learner._journal,
        held_out=learner._held_out,
        pending=learner._pending,
        streams=learner._streams,
        conditions=learner._conditions,
        observer=learner._observer,
        worker=learner._worker,
        label_worker=learner._label_worker,
        log=learner._log,
        retention=learner._retention,
        meter=learner._meter,
        room=learner._room,
    )


__all__ = ["StateInspection", "inspect_state"]
