"""The public face: predict now, observe a stream, answer questions, learn, forget, go back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.bundle.schema import Manifest, Precision
from edgeadapt.device.adaptation.domain_manager import DomainManager
from edgeadapt.device.adaptors.trainer import AdaptorTrainer
from edgeadapt.device.commits.class_changes import add_classes, remove_class
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.head_choice import HeadChoices
from edgeadapt.device.commits.label_update import LabelUpdate
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.inference.placement import placement_report
from edgeadapt.device.inference.state import SOURCE
from edgeadapt.device.pipeline.deferred_training import DeferredTraining
from edgeadapt.device.pipeline.evidence_builder import EvidenceBuilder, Origin
from edgeadapt.device.pipeline.label_intake import LabelIntake
from edgeadapt.device.pipeline.label_states import held_states, newest_states
from edgeadapt.device.pipeline.label_worker import LabelWorker
from edgeadapt.device.pipeline.maintenance import Maintenance
from edgeadapt.device.pipeline.observer import Observer
from edgeadapt.device.pipeline.restored_samples import Correction, LabelledSample, asked_of, rows_of
from edgeadapt.device.pipeline.sample_erasure import SampleErasure
from edgeadapt.device.pipeline.window_queue import WindowQueue
from edgeadapt.device.quality.field_quality import ANSWERS, FieldQuality
from edgeadapt.device.querying.likeness import chained
from edgeadapt.device.querying.pending import Pending
from edgeadapt.device.querying.questions import Questions
from edgeadapt.device.querying.quiet_questions import QuietQuestions
from edgeadapt.device.recovery.digest import content_digest
from edgeadapt.device.recovery.label_removal import LabelRemoval
from edgeadapt.device.recovery.label_selection import Selection
from edgeadapt.device.recovery.retention import Retention
from edgeadapt.device.recovery.rollback import rollback
from edgeadapt.device.recovery.startup import StartupState, open_state
from edgeadapt.device.recovery.trust import Remembered, Trust, check_offer
from edgeadapt.device.resources.budget import Budget, Meter, WriteRoom
from edgeadapt.device.resources.sensors import Sensors
from edgeadapt.device.resources.worker import Worker
from edgeadapt.device.storage.features import as_stored, check_storable
from edgeadapt.device.storage.log_erasure import LogErasure
from edgeadapt.errors import InputError, StateError
from edgeadapt.inputs import check_count, check_name, check_number, check_text, check_texts
from edgeadapt.paths import check_path
from edgeadapt.results import (
    AccuracyEstimate,
    Commit,
    LabelState,
    Observation,
    Prediction,
    Quality,
    Question,
    Receipt,
)
from edgeadapt.runtime import Runtime, open_runtime

DEFAULT_STREAM = "default"
PRECISIONS: tuple[str, ...] = get_args(Precision)
# how long a caller waits for a reader of another connection that keeps the log from being emptied
_READER_S = 0.2


def open(
    bundle: str | os.PathLike[str] | Bundle,
    state: str | os.PathLike[str] | None = None,
    runtime: str | Runtime = "auto",
    policy: Policy | None = None,
    budget: Budget | None = None,
    keep: Keep | None = None,
    trust: Trust = (),
    freeze: bool = False,
    allow_older: bool = False,
    precision: Precision = "float32",
) -> Learner:
    """Open a bundle and start learning where the state folder left off.

    Args:
        bundle: path of a ``.edge`` file, or a bundle already read.
        state: folder of ``learner.db``; created if missing. None keeps everything in memory.
        runtime: ``"auto"`` (each graph where its round trip is least, docs/placement.md), a name
            from ``edgeadapt runtimes``, or a runtime object (two learners may share one).
        policy, budget, keep: what may happen, what it may cost, how long things stay.
        trust: public keys (text or paths). If given, the bundle must be signed by one of them, and
            the state folder is bound to that signer: it accepts no other from then on, unless it is
            trusted here.
        precision: of the encoder: ``float16`` and ``int8`` where the bundle has them
            (``docs/precision.md``). A state folder may be opened with another one each time;
            learning and adapting compute in float32.
        freeze: open as after ``learner.freeze()``: labels that wait are not learned yet.

    Raises:
        InputError: an argument of another kind.
        BundleError: the bundle is damaged, newer, not trusted, or an older version than the state
            folder has seen, or has no encoder of this precision.
        StateError: the folder is in use, foreign, not writable, or belongs to another feature
            space.
        BudgetError: the bundle declares more memory than the budget has.
        RuntimeUnavailable: the runtime cannot run here, or computes something else in this
            precision than the host did.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r:.80}")
    _check_settings(state, runtime, policy, budget, keep, trust)
    opened = bundle if isinstance(bundle, Bundle) else read_bundle(bundle, trust=trust)  # type: ignore[arg-type]
    engine = open_runtime(runtime) if isinstance(runtime, str) else runtime
    startup: StartupState | None = None
    try:
        startup = open_state(
            state, opened, engine, budget or Budget(), keep or Keep(), trust, allow_older, precision
        )
        return Learner(
            startup,
            policy or Policy(),
            budget or Budget(),
            keep or Keep(),
            trust=trust,
            is_frozen=freeze,
            owned_runtime=None if engine is runtime else engine,
        )
    except BaseException:
        if startup is not None:
            startup.journal.close()
        if engine is not runtime:
            engine.close()
        raise


def _check_settings(
    state: Any, runtime: Any, policy: Any, budget: Any, keep: Any, trust: Any
) -> None:
    """Refuse arguments of ``open`` of another kind, before anything is made or read."""
    if state is not None:
        check_path(state, "state")
    given = (("policy", policy, Policy), ("budget", budget, Budget), ("keep", keep, Keep))
    for name, value, kind in given:
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{name} is an edgeadapt.{kind.__name__} or None, got {value!r:.80}")
    if not isinstance(runtime, str) and not hasattr(runtime, "load"):
        raise InputError(
            f"runtime is a name from 'edgeadapt runtimes' or a runtime, got {runtime!r:.80}"
        )
    if not isinstance(trust, (str, Path)):
        check_texts(
            (
                [str(key) if isinstance(key, Path) else key for key in trust]
                if isinstance(trust, Sequence)
                else trust
            ),
            "trust",
        )


class Learner:
    """A model that keeps learning. Use ``edgeadapt.open`` to make one.

    ``predict`` is pure; ``predict``, ``observe`` and ``label`` may be called from any thread. One
    worker thread makes all changes, one at a time. A learner belongs to the process that opened it.
    """

    def __init__(
        self,
        opened: StartupState,
        policy: Policy,
        budget: Budget,
        keep: Keep,
        *,
        trust: Trust = (),
        is_frozen: bool = False,
        owned_runtime: Runtime | None = None,
    ) -> None:
        """``owned_runtime``: closed with the learner."""
        self._pid = os.getpid()
        self._policy, self._budget, self._trust = policy, budget, trust
        self._program, self._journal, self._held_out = (
            opened.program,
            opened.journal,
            opened.held_out,
        )
        self._manifest = self._program.manifest  # with the thresholds of this precision
        self._live = LiveState(
            opened.memory, partial(policy.adapt_mode, self._manifest.policy), is_frozen=is_frozen
        )
        self._closed = False
        self._owned_runtime = owned_runtime
        readings = Sensors().read if budget.needs_vitals else None
        self._meter = Meter(budget, readings=readings, spent=self._program.runtime.spent)
        self._room = WriteRoom(budget, self._journal.writes)
        self._worker = Worker()
        try:
            self._assemble(opened, policy, keep)
        except BaseException:  # a part of the bundle that is read late may be refused
            self._worker.close()
            raise

    def _assemble(self, opened: StartupState, policy: Policy, keep: Keep) -> None:
        """The parts behind the face, each handed what it needs."""
        program, journal, meter = self._program, self._journal, self._meter
        ask = self._manifest.policy.ask
        per_day = policy.questions_per_day
        self._pending = Pending(keep.pending_s)
        self._questions = Questions(ask.per_day if per_day is None else per_day)
        self._log = CommitLog(
            program, journal, self._held_out, self._live, self._room, opened.replay_s
        )
        self._removal, self._retention = LabelRemoval(self._log), Retention(self._log)
        self._log_erasure = LogErasure(journal, self._worker)
        self._conditions = DomainManager(
            self._log,
            self._questions,
            self._pending,
            meter,
            QuietQuestions(policy.quiet_questions_per_day),
            policy.routing,
            journal.field_answers(ANSWERS),
        )
        self._streams = WindowQueue(self._manifest.policy, self._conditions, self._worker, meter)
        factory = FactorySamples(program)
        self._training = DeferredTraining(
            self._log,
            AdaptorTrainer(self._log, meter, self._worker, keep.selection),
            HeadChoices(self._log, factory, meter),
            self._worker,
        )
        self._maintenance = Maintenance(
            self._log, self._retention, self._conditions, keep, opened.raw_per_class
        )
        self._label_worker = LabelWorker(
            self._log,
            LabelUpdate(self._log, factory),
            self._conditions,
            self._streams.found,
            self._training,
            self._maintenance,
            meter,
            self._worker,
        )
        self._builder = EvidenceBuilder(
            program,
            policy,
            self._held_out,
            self._live,
            lambda names: self._worker.call(lambda: add_classes(self._log, names)),
        )
        self._intake = LabelIntake(
            journal,
            self._pending,
            self._questions,
            self._builder,
            self._room,
            opened.raw_per_class,
            self._conditions.field_accuracy.open_among,
        )
        self._quality = FieldQuality(
            program, journal, self._conditions, self._streams.found, self._live
        )
        self._erasure = SampleErasure(
            self._log,
            self._removal,
            self._pending,
            self._questions,
            self._streams.found,
            self._log_erasure,
            self._intake.writing,
        )
        self._keeps_raw = opened.raw_per_class > 0
        self._observer = Observer(
            program, self._live, self._streams, self._pending, keeps_raw=self._keeps_raw
        )
        self._answered = 0
        # labels that were durable but not yet learned when the process stopped
        if journal.count_evidence().get("received"):
            self._label_worker.request()
        else:
            self._training.offer()
        self._log_erasure.request()

    def offer(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        trust: Trust | None = None,
        allow_older: bool = False,
        precision: Precision | None = None,
    ) -> Bundle:
        """Check a bundle that is to replace this one, without disturbing anything; see
        ``edgeadapt.device.recovery.trust.check_offer``.

        Args:
            bundle: path of a ``.edge`` file, or a bundle already read.
            trust: public keys; by default those this learner was opened with.
            allow_older: go back to an older version on purpose.
            precision: that it is to serve in; by default the one that serves now.

        Returns:
            The bundle, to be opened after this learner was closed.

        Raises:
            BundleError: damaged, not trusted, older, without an encoder in that precision, or a
                graph does not load or run here.
            BudgetError: too large for the budget.
            RuntimeUnavailable: its encoder computes something else in that precision here than on
                the host.
            StateError: what was learned has to be carried over first: ``edgeadapt migrate``.
        """
        self._here()
        keys = self._trust if trust is None else trust
        return check_offer(
            bundle,
            self._program,
            Remembered.read(self._journal.meta),
            trust=keys,
            allow_older=allow_older,
            budget=self._budget,
            precision=precision,
        )

    def _here(self) -> None:
        if self._closed:
            raise StateError("the learner is closed")
        if os.getpid() != self._pid:
            raise StateError(
                f"this learner was opened by the process with pid {self._pid}; after a fork, open"
                f" it again in the child (pid {os.getpid()})"
            )

    # -- predicting --------------------------------------------------------------------------------
    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the known classes, in slot order."""
        return tuple(name for name in self._live.current.classes if name is not None)

    @property
    def bundle(self) -> Bundle:
        return self._program.bundle

    @property
    def precision(self) -> Precision:
        """What the encoder computes in."""
        return self._program.precision

    @property
    def manifest(self) -> Manifest:
        """That of the bundle, with the thresholds of this precision."""
        return self._manifest

    def predict(
        self,
        x: Any = None,
        *,
        features: Mapping[str, Any] | None = None,
        stream: str = DEFAULT_STREAM,
    ) -> Prediction:
        """Answer a batch and change nothing.

        Args:
            x: (N, *input) batch, or one input.
            features: ``{"z": (N, D)[, "taps": (N, T)]}`` instead, from your own encoder.
            stream: whose condition applies.

        Raises:
            InputError: the batch does not fit the bundle's input contract.
        """
        self._here()
        return self._observer.predict(x, features, stream)

    # -- observing ---------------------------------------------------------------------------------
    def observe(
        self,
        x: Any = None,
        *,
        features: Mapping[str, Any] | None = None,
        stream: str = DEFAULT_STREAM,
    ) -> Observation:
        """Predict a batch of a stream, update its window, and queue what should be done about it.

        Returns after the prediction; adapting and learning happen on the worker.

        Raises:
            InputError: the batch does not fit; the window is unchanged.
        """
        self._here()
        return self._observer.observe(x, features, stream)

    def is_pending(self, sample: str) -> bool:
        """True while an observed sample can still be labelled by its id."""
        return check_text(sample, "an id") in self._pending

    def questions(self, limit: int = 5) -> list[Question]:
        """What the learner wants to know, oldest first. Answer: ``label(question.id, name)``."""
        self._here()
        return self._questions.next(check_count(limit, "a limit"), self.is_pending)

    def alike(self, ids: str | Sequence[str]) -> dict[str, int]:
        """Pending samples in an order in which like stands beside like, each with the number of its
        group; others are left out.
        """
        self._here()
        found = {sample: self._pending.find(sample) for sample in check_texts(ids, "an id")}
        there = {
            sample: given[0].features[given[1]]
            for sample, given in found.items()
            if given is not None
        }
        if not there:
            return {}
        samples, width = list(there), self._manifest.feature_dim
        order, groups = chained(np.stack([row[:width] for row in there.values()]))
        return {samples[row]: group for row, group in zip(order, groups, strict=True)}

    # -- learning ----------------------------------------------------------------------------------
    def label(
        self,
        ids: str | Sequence[str],
        labels: str | int | Sequence[str | int],
        *,
        source: str = "",
        trusted: bool = False,
    ) -> None:
        """Label observed samples. Durable when it returns; learned by the worker soon after.

        A sample that has a label gets another: the old one is unlearned, and the new one counts as
        if it had been right on time. ``withdraw`` takes a label back without giving another.

        Args:
            ids: from ``Observation.ids`` or ``Question.id``.
            labels: one class name (or class id) each.
            source: who says so; ``forget(source=...)`` can take it all back.
            trusted: a person vouches for them: they are not held for contradicting the head, nor
                taken back with others of the source. The paired tests that protect accuracy still
                judge them. A held label is overridden by giving it again, trusted.

        Raises:
            InputError: an id that is neither pending nor labelled.
            UnknownClassError: an unknown name, if the policy refuses them.
            BudgetError: the day's writes are used up.
            StorageError: the disk is full or fails. Nothing was changed.
        """
        self._here()
        samples = [check_name(sample, "an id") for sample in check_texts(ids, "an id")]
        accepted = self._intake.label(
            samples, labels, check_name(source, "a source"), is_trusted=bool(trusted)
        )
        self._answered += accepted.answered
        self._label_worker.accept(accepted)

    def learn(
        self,
        x: Any,
        y: str | int | Sequence[str | int],
        *,
        source: str = "",
        stream: str = DEFAULT_STREAM,
        features: Mapping[str, Any] | None = None,
        trusted: bool = False,
    ) -> tuple[str, ...]:
        """Learn labelled data, met under the stream's present condition. Durable on return.

        Args:
            x: (N, *input), or None with ``features``. y: one label each. trusted: as for ``label``.

        Returns:
            The ids of the new evidence rows. They are received, not learned yet:
            ``label_states(ids)`` says what became of them, and ``held()`` what is put aside and
            why.

        Raises:
            InputError: the batch does not fit.
            UnknownClassError: an unknown name, if the policy refuses them.
            BudgetError: the day's writes are used up.
            StorageError: the disk is full or fails. Nothing was changed.
        """
        self._here()
        domain = self._streams.domain_of(stream)
        inputs, z, taps = self._observer.predictor.features(
            x, features, self._live.current, domain if self._program.preserves_space else SOURCE
        )
        origin = Origin(check_name(source, "a source"), stream, domain, bool(trusted))
        ids = self._intake.learn(inputs if features is None else None, z, taps, y, origin)
        self._label_worker.request()
        return ids

    def restore(
        self, samples: Sequence[LabelledSample], corrections: Sequence[Correction] = ()
    ) -> dict[str, str]:
        """Take in samples that another state or tool had, with their ids, sources and times, and
        correct the labels of others.

        One transaction: durable when it returns, all of them or none. Classes that the policy adds
        for them are added before.

        Returns:
            sample -> why its label cannot be corrected. The others are.

        Raises:
            InputError: an id that is there already, or features that are not this bundle's.
            UnknownClassError, CapacityError, BudgetError, StorageError: as for ``learn``.
        """
        self._here()
        if not samples and not corrections:
            return {}
        rows = rows_of(samples, self._builder, corrections)
        raw, asked = [sample.raw for sample in samples], asked_of(samples)
        accepted, refused = self._intake.restore(rows, raw, asked, corrections)
        self._label_worker.accept(accepted)
        return refused

    def stored_features(self, x: Any) -> NDArray[np.float16]:
        """(N, D + T) features of (N, *input), of the factory encoder, as the journal keeps them.

        Raises:
            InputError: the batch does not fit, or a feature does not fit into float16.
        """
        self._here()
        _, z, taps = self._observer.predictor.features(x, None, self._live.current, SOURCE)
        kept = as_stored(z, taps)
        check_storable(kept)
        return kept

    def newest_labels(self, ids: Sequence[str]) -> dict[str, LabelState]:
        """What became of the last label of each of these samples that has one."""
        self._here()
        found = newest_states(self._journal, check_texts(ids, "an id"))
        return {state.id: state for state in found}

    @property
    def keeps_inputs(self) -> bool:
        """Whether the inputs of labelled samples are kept, see ``Keep.raw_per_class``."""
        return self._keeps_raw

    @property
    def policy(self) -> Policy:
        """What may happen, as it was opened."""
        return self._policy

    def label_states(self, ids: str | Sequence[str]) -> list[LabelState]:
        """What became of the last label of each sample, in the order of the ids.

        Raises:
            InputError: an id that has no label.
        """
        self._here()
        samples = check_texts(ids, "an id")
        states = newest_states(self._journal, samples)
        labelled = {state.id for state in states}
        for sample in samples:
            if sample not in labelled:
                raise InputError(f"sample {sample!r} has no label")
        return states

    def held(self, limit: int = 50) -> list[LabelState]:
        """Labels that are put aside, newest first, each with the reason. ``label(id, name,
        trusted=True)`` overrides it.
        """
        self._here()
        return held_states(self._journal, check_count(limit, "a limit"))

    def add_class(self, name: str) -> None:
        """Make room for a class. Known names change nothing.

        Raises:
            InputError: not a non-empty string.
            CapacityError: every class slot is in use.
        """
        self._here()
        self._builder.add_classes([name])

    def remove_class(self, name: str) -> None:
        """Take a class out of the answer set and its field labels out of the evidence.

        What the factory knew of it stays in shared sums (a Gram matrix cannot tell whose it was);
        it no longer answers.

        Raises:
            UnknownClassError: no such class.
        """
        self._here()
        check_text(name, "a class name")

        def run() -> None:
            remove_class(self._log, name)
            self._training.offer()

        self._worker.call(run)

    # -- undoing -----------------------------------------------------------------------------------
    def forget(
        self,
        ids: Sequence[str] | None = None,
        *,
        source: str | None = None,
        classes: Sequence[str] | None = None,
        before: float | None = None,
        after: float | None = None,
    ) -> Receipt:
        """Remove labelled samples, as if they had never been, from live tensors, journal, snapshots
        and kept raw inputs.

        The history loses the name of a source or class with its last label; of a class once
        ``remove_class`` has freed its slot, in either order, and never of one that the bundle
        brought.

        Args:
            ids, source, classes: what to forget; conditions are joined by *and*.
            before, after: when the sample was met, seconds since the epoch.

        Returns:
            A receipt: rows removed and subtracted, snapshots rewritten, and what could not be
            reached. A reader of another connection keeps the write-ahead log as it is: the receipt
            says so, and it is tried again until it is empty.

        Raises:
            InputError: no condition was given.
            StorageError: the disk is full or fails; nothing was changed.
        """
        self._here()
        selection = Selection(ids, source, classes, before, after)

        def run() -> Receipt:
            receipt = self._erasure.forget(selection)
            self._training.offer()
            return receipt

        return self._worker.call(run)

    def withdraw(self, ids: str | Sequence[str], *, source: str | None = None) -> Receipt:
        """Take labels back, as if they had never been given. Unlike ``forget`` it keeps the
        samples: ``label`` can name them again.

        Args:
            source: take back only what it said; None for whoever said it.

        Raises:
            InputError: an id without a label, or with one of another source.
            StorageError: the disk is full or fails; nothing was changed.
        """
        self._here()
        samples = Selection(ids=[ids] if isinstance(ids, str) else ids).ids or ()

        def run() -> Receipt:
            receipt = self._removal.withdraw_labels(samples, source)
            self._training.offer()
            return receipt

        return self._worker.call(run)

    def rollback(self, to: int | None = None) -> int:
        """Back to the state after commit ``to``; by default to before the last change. Labels
        learned later are withdrawn; those that wait still wait.

        Returns:
            The commit it went back to.

        Raises:
            StateError: no such commit.
        """
        self._here()
        if to is not None and (isinstance(to, bool) or not isinstance(to, int)):
            raise InputError(f"a commit is a number from history(), got {to!r:.80}")

        def run() -> int:
            target = rollback(self._log, to)
            self._training.on_rollback()
            return target

        return self._worker.call(run)

    def checkpoint(self) -> int:
        """Finish queued work (not while paused), then make session state durable. Returns the
        number of the last commit.
        """
        self._here()
        self._worker.settle_unless_paused()

        def run() -> int:
            self._maintenance.run()
            self._log_erasure.finish(_READER_S)
            self._training.offer()
            return self._live.current.commit

        return self._worker.call(run)

    def history(self, limit: int = 50) -> list[Commit]:
        """Changes, newest first: published, vetoed, held and undone ones."""
        self._here()
        return self._journal.history(check_count(limit, "a limit"))

    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        """What was decided about windows, newest first: (time, stream, kind, domain, why). Reading
        writes nothing: the next checkpoint does.
        """
        self._here()
        most = check_count(limit, "a limit")

        # on the worker, so that none moves from memory to disk meanwhile
        def run() -> list[tuple[float, str, str, str, str]]:
            waiting = list(self._conditions.decisions)[::-1]
            return [*waiting, *self._journal.decisions(most)][:most]

        return self._worker.call(run)

    def freeze(self, frozen: bool = True) -> None:
        """Serve and measure, change nothing from the batch on that is being learned now. Labels are
        still received, and learned after ``freeze(False)``.
        """
        self._here()
        self._live.is_frozen = frozen
        if not frozen:
            self._label_worker.request()

    def pause(self, paused: bool = True) -> None:
        """Let predictions have the machine to themselves: no queued work starts, and what runs
        stops at its next commit, until ``pause(False)``.

        Unlike ``freeze`` it only puts off: windows and labels wait in their queues, and nothing of
        them is lost. What somebody waits for (``rollback``, ``forget``, ``checkpoint``, ``close``)
        is done all the same. Labels that still wait at ``close`` are learned after the next
        opening; windows that wait are dropped.
        """
        self._here()
        self._worker.pause(paused, rest=self._label_worker.learn_received)
        if not paused:
            self._label_worker.request()

    @property
    def is_paused(self) -> bool:
        return self._worker.is_paused

    # -- looking inside ----------------------------------------------------------------------------
    @property
    def is_working(self) -> bool:
        """Whether the worker is at something right now."""
        return self._worker.is_busy

    def placement(self) -> dict[str, str]:
        """Which runtime serves which role now; names joined by ``+`` where batches of different
        sizes run in different ones.
        """
        return self._program.placement()

    def placement_report(self) -> dict[str, Any]:
        """Where every graph runs, and why, as plain values.

        Returns:
            ``roles`` (as ``placement``), ``runtimes`` (state and why not), ``graphs`` (rows by
            graph and range of batches: where, why, calls, and of every runtime that was tried both
            round trips in ms, the largest relative difference and how many calls agreed),
            ``copies`` of tensors between runtimes, ``notes``, ``doing`` (what is built or tried
            now), and ``lost`` (why tensors cannot be read any more, and what to do; empty while all
            is well). With a runtime that places nothing, ``graphs``, ``copies`` and ``notes`` are
            empty.
        """
        return placement_report(self._program.placement(), self._program.runtime)

    def load_all(self) -> None:
        """Load the graphs that learn and adapt now, not at their first call: that takes the engine
        time in which answers come late.

        Raises:
            BundleError, RuntimeUnavailable: the runtime refuses a graph.
        """
        self._program.load_all()

    def settle(self, timeout_s: float | None = None) -> bool:
        """Wait until queued work is done; False on time-out. While paused, work that is queued
        waits for ``pause(False)``.

        What ``forget`` could not take out of the write-ahead log, because another connection reads
        the database, is taken out now; False if that still reads.

        Raises:
            the error of background work that failed since the last call.
        """
        self._here()
        done = self._worker.settle(
            None if timeout_s is None else check_number(timeout_s, "a time-out")
        )
        failure, self._worker.failure = self._worker.failure, None
        if failure is not None:
            raise failure
        if done and self._journal.holds_deleted:
            return self._worker.call(lambda: self._log_erasure.finish(_READER_S))
        return done

    def digest(self) -> str:
        """SHA-256 of evidence, tables and checkpointed tensors. Equal digests, equal learners."""
        self._here()

        return self._worker.call(
            lambda: content_digest(self._journal, self._program, self._live.current)
        )

    def labelled(self) -> dict[str, int]:
        """Accepted labels of each known class: learned ones, and the fifth that is held out."""
        return {name: self._held_out.count(name) for name in self.classes}

    def domains(self) -> dict[str, str]:
        """Known conditions and what they are: provisional, condition or novelty."""
        return {name: domain.kind for name, domain in self._live.current.domains.items()}

    def domain(self, stream: str = DEFAULT_STREAM) -> str:
        """The condition a stream is in."""
        return self._streams.domain_of(stream)

    def accuracy(self) -> dict[str, AccuracyEstimate]:
        """Accuracy in the field, per condition: the share of right predictions among the last
        answers to questions that were drawn at random.

        Unlike the estimate in a reading it needs answers, and unlike other answers these are no
        harder than the stream. Conditions in which no such question was answered are left out.
        """
        return self._conditions.field_accuracy.measured()

    def quality(self) -> Quality:
        """How good the predictions in the field are, by what was answered, and what the next ten
        labels are expected to bring.

        From the last 1,000 answers in the state folder, so that it outlives a restart. On demand: a
        few milliseconds, and up to a few hundred where labels came since the last call, on the
        caller's thread. See docs/quality.md.
        """
        self._here()
        return self._quality.now()

    def timings(self) -> dict[str, float]:
        """Seconds spent so far: encode and sense (caller's threads), learn and record (worker)."""
        self._here()
        return {
            "encode": self._observer.encode_s,
            "sense": self._observer.sense_s,
            "learn": max(0.0, self._worker.busy_s - self._log.write_s),
            "record": self._log.write_s,
        }

    def counters(self) -> dict[str, Any]:
        """Numbers for a status line: labels by status, refreshes, deferred work, bytes, questions
        that were answered.
        """
        self._here()
        return {
            "evidence": self._journal.count_evidence(),
            "refreshes": self._conditions.corrections.refreshes,
            "deferred": self._meter.deferred + self._streams.deferred,
            "overruns": self._meter.overruns,
            "pending": len(self._pending),
            "state_bytes": self._journal.nbytes,
            "written_bytes_last_day": self._room.used,
            "writes_deferred": self._room.deferred,
            "tensor_bytes": (
                self._live.current.tensors.nbytes
                + sum(d.tensors.nbytes for d in self._live.current.domains.values())
            ),
            "backlog": self._worker.backlog,
            "too_hot": self._meter.too_hot,
            "encoded": self._program.encoded,
            "observed": self._observer.samples,
            "answered": self._answered,
        }

    def close(self) -> None:
        """Finish queued work (not while paused), checkpoint, release the state folder. Closing
        twice is harmless.
        """
        if self._closed or os.getpid() != self._pid:
            return
        try:
            self.checkpoint()
        finally:
            self._closed = True
            self._worker.close()
            self._journal.close()
            if self._owned_runtime is not None:
                self._owned_runtime.close()

    def __enter__(self) -> Learner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


__all__ = ["DEFAULT_STREAM", "Learner", "open"]
