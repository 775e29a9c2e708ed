"""Label-free corrections of a condition: when one is due, how it comes about, and whether it
stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.health import (
    CorrectionDiagnostics,
    distance_from,
    health_of,
    healthiest,
    increases_distance,
)
from edgeadapt.device.adaptation.replay_buffer import ReplayBuffer
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.guard import judge
from edgeadapt.device.commits.holdout import Split
from edgeadapt.device.detection.window import WindowView
from edgeadapt.device.inference.program import HeadOutput, Program
from edgeadapt.device.inference.state import Domain, LearnerState
from edgeadapt.device.resources.budget import Meter
from edgeadapt.results import Action

# after that many refusals in a row a correction is tried every eighth refresh only
_LONGEST_REST = 8


class Corrections:
    """Computes and judges them; publishes nothing. Runs on the worker only.

    Args:
        note: is told what was suspended, and why.
    """

    def __init__(
        self,
        program: Program,
        log: CommitLog,
        meter: Meter,
        note: Callable[[Action], None],
    ) -> None:
        self._program = program
        self._log = log
        self._meter = meter
        self._live = log.live
        self._note = note
        self._policy = program.manifest.policy
        self.refreshes = 0
        """Corrections that were computed, used or not."""

    def is_of(self, domain: Domain, view: WindowView) -> bool:
        """Whether a window's distances are those of the correction that the condition has now, and
        of nothing else.
        """
        if (
            not domain.refreshes
            or self._live.adapt_mode != "act"
            or self._program.adaptors.held_in(domain.tensors)
        ):
            return False
        return view.correction is domain.tensors and (
            self._program.takes(view.inputs) or not self._program.adapts_encoder
        )

    def is_due(self, kept: ReplayBuffer, domain: Domain) -> bool:
        if (
            self._live.adapt_mode != "act"
            or domain.kind == "novelty"
            or not self._program.can_adapt
        ):
            return False
        if self._program.adaptors and self._program.adaptors.held_in(domain.tensors):
            return False  # an adaptor was trained behind the correction as it is
        fewest = self._policy.adapt.min_memory if domain.refreshes == 0 else kept.capacity
        is_fresh = kept.fresh >= self._policy.adapt.refresh_samples * (
            kept.refusals + (domain.refreshes > 0)
        )
        if not is_fresh or len(kept) < min(fewest, kept.capacity):
            return False
        if self._program.adapts_encoder and not self._program.takes(kept.inputs()):
            return False  # features from elsewhere: there is no encoder to adapt
        return self._meter.may_start("adapt")

    def unless_it_harms(
        self, domain: Domain, view: WindowView, uncorrected: NDArray[np.float32]
    ) -> Domain:
        """The condition without its correction, if that took the newest inputs away from the
        classes: the memory may be of others, long gone.
        """
        if not self.is_of(domain, view):
            return domain
        why = increases_distance(view.distances, uncorrected, self._policy.adapt.home)
        if not why:
            return domain
        self._note(Action("suspend", "", domain.name, why=why))
        return self._uncorrected(domain)

    def _uncorrected(self, domain: Domain) -> Domain:
        return replace(domain, tensors=self._program.factory_domain(), encode=None, refreshes=0)

    def refresh(
        self, kept: ReplayBuffer, domain: Domain, memory: LearnerState, newest: WindowView
    ) -> Domain:
        self.refreshes += 1
        with self._meter.spending("adapt"):
            return self._refreshed(kept, domain, memory, newest)

    def _refreshed(
        self, kept: ReplayBuffer, domain: Domain, memory: LearnerState, newest: WindowView
    ) -> Domain:
        frames = kept.inputs()
        inputs: NDArray[Any] = (
            frames if self._program.adapts_encoder else self._program.encode(frames)[0]
        )
        outputs, written = self._program.adapt(
            domain.tensors.over(memory.tensors),
            inputs,
            np.ones(len(frames), np.float32),
            seed=self.refreshes - 1,
        )
        if float(outputs["wants_reset"]) > 0:
            self._refused("the method asks to start over", domain, kept)
            return self._uncorrected(domain)
        tensors = written.over(domain.tensors)
        refreshed = replace(domain, tensors=tensors)
        problem = self._problem(domain, refreshed, memory)
        if problem:
            self._refused(problem, domain, kept)
            return domain
        refreshed = replace(
            refreshed, encode=self._program.refold(tensors), refreshes=domain.refreshes + 1
        )
        kept.fresh = 0
        read = self._read(refreshed.encode, refreshed, frames, memory)
        chosen = self._healthiest(
            domain, refreshed, self._health(read, memory), kept, frames, memory, newest
        )
        if chosen is refreshed:
            kept.relabel(read.logits.argmax(axis=1))
        kept.refusals = 0 if chosen.refreshes else min(kept.refusals + 1, _LONGEST_REST)
        return chosen

    def _refused(self, why: str, domain: Domain, kept: ReplayBuffer) -> None:
        """It was computed and is not used: it counts, it cost its time, and the next try waits
        longer.
        """
        self._note(Action("suspend", "", domain.name, why=why))
        kept.fresh, kept.refusals = 0, min(kept.refusals + 1, _LONGEST_REST)

    def _healthiest(
        self,
        active: Domain,
        candidate: Domain,
        proposed: CorrectionDiagnostics,
        kept: ReplayBuffer,
        frames: NDArray[Any],
        memory: LearnerState,
        newest: WindowView,
    ) -> Domain:
        """The candidate, the correction in use, or none: whichever brings the memory closest to the
        known classes and does it no harm.

        A correction fitted to a run of one class scatters its features between all classes; a good
        one brings them nearer to theirs. Either must beat doing nothing by a margin, or nothing is
        done.
        """
        choices = [(proposed, candidate)]
        if active.refreshes:
            choices.append(
                (
                    self._health(self._read(active.encode, active, frames, memory), memory),
                    replace(active, refreshes=active.refreshes + 1),
                )
            )
        uncorrected, max_ratio = self._uncorrected(active), self._policy.adapt.home
        chosen, why = healthiest(
            choices,
            kept.mean_distance,
            lambda: self._health(self._read(None, uncorrected, frames, memory), memory),
            max_ratio,
        )
        if chosen is not None:
            now, without = (
                self._program.forward_head(
                    *newest.features(self._program, domain.encode),
                    domain.tensors.over(memory.tensors),
                ).embedding
                for domain in (chosen, uncorrected)
            )
            why = increases_distance(
                distance_from(now, memory.prototypes),
                distance_from(without, memory.prototypes),
                max_ratio,
            )
            chosen = None if why else chosen
        if chosen is None and (active.tensors is not active.saved or active.encode is not None):
            self._note(Action("suspend", "", active.name, why=why))
        return chosen or uncorrected

    def _health(self, read: HeadOutput, memory: LearnerState) -> CorrectionDiagnostics:
        return health_of(
            read.logits,
            read.embedding,
            read.score,
            memory.prototypes,
            self._policy.learn.temperature,
            self._policy.novelty.threshold,
        )

    def _read(
        self, encode: Any, domain: Domain, inputs: NDArray[Any], memory: LearnerState
    ) -> HeadOutput:
        z, taps = self._program.encode(inputs, encode)
        return self._program.forward_head(z, taps, domain.tensors.over(memory.tensors))

    def _problem(self, domain: Domain, refreshed: Domain, memory: LearnerState) -> str:
        """Tensors that are not finite or out of bounds; or labels held out in this condition that
        the new correction gets wrong.

        Labels were stored with the features of their day: a correction inside the encoder changes
        those, and they cannot judge it.
        """
        slots = memory.slots if not self._program.adapts_encoder else {}
        judges = self._log.held_out.sets(slots, (domain.name,), Split()) if slots else []
        return judge(
            self._program,
            memory.with_domain(domain),
            memory.with_domain(refreshed),
            judges,
            self._policy.guard,
        ).why
