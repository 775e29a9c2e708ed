"""Conditions from their opening to their end: opened, entered, followed and corrected, named by
answers, merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.adaptation.corrections import Corrections
from edgeadapt.device.adaptation.replay_buffer import ReplayBuffer
from edgeadapt.device.adaptation.stream import Stream
from edgeadapt.device.adaptation.window_analysis import WindowAnalysis
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.domain_changes import confirm_domain, save_domains
from edgeadapt.device.commits.serialization import domain_arrays
from edgeadapt.device.detection.domain_router import RoutingProjection, open_domain
from edgeadapt.device.detection.hypervector_bundles import merge_candidates, merged_prototypes
from edgeadapt.device.detection.policy import judge_answers
from edgeadapt.device.inference.state import Domain
from edgeadapt.results import Action

# mean cosine from which two conditions are one; at equal lengths it is the distance at which a
# window is routed
_ONE = 0.95
_FOLLOWED = 0.5  # what a window of a drift leaves of where its condition was


class DomainLifecycle:
    """Changes conditions; runs on the worker. ``note`` takes what was done and why.

    Attributes:
        clock: windows, for least-recently-used retirement.
    """

    def __init__(
        self,
        log: CommitLog,
        projection: RoutingProjection,
        corrections: Corrections,
        note: Callable[[Action], None],
    ) -> None:
        self._log, self._program, self._live = log, log.program, log.live
        self._policy = log.program.manifest.policy
        self._projection, self._corrections, self._note = projection, corrections, note
        self.clock = 0

    def open(self, stream: Stream) -> str:
        """A provisional condition for a stream; returns its name."""
        before = self._live.current
        state, domain = open_domain(before, self._program, self._projection.width)
        self._live.publish(state)
        stream.keep_only(state.domains)
        stream.enter(domain.name)
        self._note(Action("adapt", stream.name, domain.name, why="a provisional domain"))
        return domain.name

    def record_retired(self, before: Mapping[str, Domain]) -> None:
        """Make durable that conditions which were saved made room."""
        retired = [
            name
            for name, old in before.items()
            if old.saved is not None and name not in self._live.current.domains
        ]
        if retired:
            save_domains(self._log, "domain", {"retired": retired}, force=True)

    def move(self, stream: Stream, domain: str) -> None:
        stream.enter(domain)
        found = self._live.current.domains.get(domain)
        if found is not None:
            self._live.publish(self._live.current.with_domain(replace(found, used_at=self.clock)))
        self.forget_window(stream)

    def forget_window(self, stream: Stream) -> None:
        if self._program.adapts_encoder:
            with stream.lock:
                stream.window.clear()

    # -- what a window leaves behind ---------------------------------------------------------------
    def follow(self, stream: Stream, seen: WindowAnalysis, *, correction_fits: bool) -> None:
        """Prototypes and recent inputs of the active condition, then a label-free refresh if it is
        due. ``correction_fits``: the correction suits the window, wherever that lies.
        """
        state = self._live.current
        domain = state.domains[stream.domain]
        slots = seen.slots_in(domain)
        kept = stream.memories.setdefault(
            domain.name, ReplayBuffer(self._policy.adapt.memory, seed=domain.used_at)
        )
        kept.add(seen.view.inputs, slots, seen.uncorrected_distances)
        corrected = domain
        domain = self._corrections.unless_it_harms(domain, seen.view, seen.uncorrected_distances)
        if domain is not corrected:
            slots = seen.slots
        refreshed = domain
        if self._corrections.is_due(kept, domain):
            refreshed = self._corrections.refresh(kept, domain, state, seen.view)
        if refreshed.refreshes and not domain.refreshes:
            slots = self._predicted(refreshed, seen)
        prototypes, near = refreshed.prototypes, self._policy.shift.route_distance
        # it drifts, and takes its condition along
        if not correction_fits and prototypes.distance(seen.projected, slots) > near:
            prototypes = prototypes.faded(_FOLLOWED)
            # a new value: the next checkpoint keeps where it is now
            refreshed = replace(refreshed, tensors=refreshed.tensors.only(refreshed.tensors))
        prototypes = prototypes.extended(seen.projected, slots)
        self._live.publish(
            self._live.current.with_domain(
                replace(refreshed, prototypes=prototypes, used_at=self.clock)
            )
        )

    def _predicted(self, domain: Domain, seen: WindowAnalysis) -> NDArray[np.int64]:
        """(W,) class slots under a condition as it is now."""
        z, taps = seen.view.features(self._program, domain.encode)
        tensors = self._live.current.with_domain(domain).tensors_in(domain.name)
        slots: NDArray[np.int64] = self._program.forward_head(z, taps, tensors).logits.argmax(
            axis=1
        )
        return slots

    # -- conditions that are one -------------------------------------------------------------------
    def merge(self) -> dict[str, str]:
        """Conditions that turned out to be one become one: the earlier keeps name, correction and
        adaptor, and stands where both were met.

        The labels of the later stay in the shared head, and are the later's own in the journal.

        Returns:
            Conditions that are gone, and the one that each turned out to be.
        """
        live = self._live.current
        # a cosine does not see that one is the other at half the strength
        found = [
            pair
            for pair in merge_candidates(
                {d.name: d.prototypes for d in live.domains.values() if d.kind == "condition"},
                threshold=_ONE,
            )
            if live.domains[pair.first].prototypes.apart(live.domains[pair.second].prototypes)
            <= self._policy.shift.route_distance
        ]
        if not found:
            return {}
        order, blob, merged = list(live.domains), dict[str, NDArray[Any]](), dict[str, str]()
        for pair in found:
            kept, gone = sorted(
                (live.domains[pair.first], live.domains[pair.second]),
                key=lambda d: (not self._program.adaptors.held_in(d.tensors), order.index(d.name)),
            )
            kept = replace(
                kept,
                prototypes=merged_prototypes(kept.prototypes, gone.prototypes),
                saved=kept.tensors,
            )
            live = live.without_domain(gone.name).with_domain(kept)
            blob |= domain_arrays(self._program, kept)
            merged[gone.name] = kept.name
            why = (
                f"{gone.name} is the same condition: {pair.shared} shared classes point the same"
                f" way ({pair.similarity:.2f})"
            )
            self._note(Action("merge", "", kept.name, why=why))
        detail = {"merged": [f"{p.first} and {p.second}" for p in found]}
        self._log.record("domain", "merged", detail, live, tensors=blob)
        return merged

    # -- answers -----------------------------------------------------------------------------------
    def answered(
        self, answers: Sequence[tuple[str, bool]], streams: Callable[[], Iterable[Stream]]
    ) -> None:
        """Answers (condition that was asked about, whether the class is new) speak for a condition
        or for new classes. All that come together are counted before anything is judged.
        """
        counted: dict[str, Domain] = {}
        for name, is_new in answers:
            domain = counted.get(name) or self._live.current.domains.get(name)
            if domain is not None and domain.kind == "provisional":
                counted[name] = replace(
                    domain,
                    answers_known=domain.answers_known + (not is_new),
                    answers_new=domain.answers_new + is_new,
                )
        for domain in counted.values():
            kind = judge_answers(domain.answers_known, domain.answers_new)
            if kind == "provisional":
                self._live.publish(self._live.current.with_domain(domain))
                continue
            if kind == "novelty":  # the correction was fitted to new classes; prototypes stay
                domain = replace(domain, tensors=self._program.factory_domain(), encode=None)
            detail = {"answers_known": domain.answers_known, "answers_new": domain.answers_new}
            confirm_domain(self._log, replace(domain, kind=kind), detail)
            if kind == "novelty":
                for stream in streams():
                    stream.memories.pop(domain.name, None)
                    if stream.domain == domain.name:
                        self.forget_window(stream)


__all__ = ["DomainLifecycle"]
