"""What is tried in one transfer with one seed: learner and baselines on the same rows and labels.

clean         the exported head on clean test rows; baselines know the factory's rows alone
none          after the unlabelled stream, in the field
own           every question of the stream answered; beside it as many random labels
N             5, 20, 100, 300 random labels of the stream (in all), given after it was shown
N_a_class     5 and 20 of every class
clean_N       what the same leaves of the clean part
new           half of the stream, then a third of the samples of new classes; 20 random labels
              of the second half; 2/3 of the accuracy on known and 1/3 of that on new classes
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeadapt.bundle import Bundle
from edgeadapt_bench.transfer.choice import Labelled
from edgeadapt_bench.transfer.learner import (
    BATCH,
    ELSEWHERE,
    accepted,
    answers,
    opened,
    show,
    teach,
)
from edgeadapt_bench.transfer.refit_baselines import contend
from edgeadapt_bench.transfer.stream_learners import streaming_answers
from edgeadapt_bench.transfer.transfers import Part, Rows, Transfer

COUNTS = (5, 20, 100, 300)
A_CLASS = (5, 20)
NEW_LABELS = 20
_NEW_SHARE = 3  # one of so many samples is of a new class


@dataclass(eq=False)
class Measured:
    """One transfer with one seed.

    Attributes:
        accuracy: task -> who -> share of right answers.
        accepted: task -> share of the labels given that were learned from, or kept to judge.
        asked: questions of the pass that answers them.
        noticed_after: samples of the field until something was asked or a reading was not clear.
        alarms, windows: clean windows that read as shifted, and all, of both orders.
        card: accuracy that the bundle promises.
        new_noticed: share of batches with a question or a reading that is not clear, before and
            after new classes came.
    """

    transfer: Transfer
    seed: int
    accuracy: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    accepted: dict[str, float] = field(default_factory=dict)
    asked: int = 0
    noticed_after: int | None = None
    alarms: int = 0
    windows: int = 0
    card: float = 0.0
    new_noticed: tuple[float, float] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """How much accuracy the exported head loses in the field."""
        return self.accuracy["clean"]["learner"] - self.accuracy["none"]["frozen"]


def measure(
    transfer: Transfer, bundle: Bundle, seed: int, streaming: Sequence[str] = ()
) -> Measured:
    """Everything above, for one transfer.

    Args:
        bundle: exported from ``transfer.factory``. seed: of the labels that are drawn.
        streaming: names of ``STREAMING`` that are installed.
    """
    found = Measured(transfer, seed, card=float(bundle.card.get("held_out_accuracy", 0.0)))
    order = np.random.default_rng([seed, 8]).permutation(len(transfer.stream))
    started = time.perf_counter()
    drawn = {count: order[:count] for count in COUNTS if count <= len(order)}
    of_class = {count: _of_each_class(transfer, order, count) for count in A_CLASS}
    _without_and_with_labels(found, bundle, drawn)
    _with_labels_of_each_class(found, bundle, of_class)
    _with_own_questions(found, bundle, order)
    _notice(found, bundle)
    _clean_streams(found, bundle)
    mixed, labelled = _with_new_classes(found, bundle)
    found.seconds["learner"] = time.perf_counter() - started
    started = time.perf_counter()
    _contend(
        found,
        {
            "none": order[:0],
            **{str(n): rows for n, rows in drawn.items()},
            **{f"{n}_a_class": rows for n, rows in of_class.items()},
        },
    )
    if mixed is not None:
        _contend_with_new_classes(found, mixed.rows(labelled))
    _stream(found, drawn, streaming)
    found.seconds["contenders"] = time.perf_counter() - started
    return found


def _of_each_class(transfer: Transfer, order: Rows, count: int) -> Rows:
    y = transfer.stream.y[order]
    return np.sort(np.concatenate([order[y == k][:count] for k in np.unique(y)]))


def _without_and_with_labels(found: Measured, bundle: Bundle, drawn: dict[int, Rows]) -> None:
    t, names = found.transfer, found.transfer.classes
    with opened(bundle) as learner:
        found.accuracy["clean"]["learner"] = float(
            answers(learner, t.clean, names, ELSEWHERE).mean()
        )
        found.accuracy["none"]["frozen"] = float(answers(learner, t.test, names).mean())
        show(learner, t.stream, names, is_answering=False)
        found.accuracy["none"]["learner"] = float(answers(learner, t.test, names).mean())
        given = 0
        for count, rows in drawn.items():
            fresh = t.stream.rows(rows[given:])
            teach(learner, fresh.z, fresh.y, names)
            given, task = count, str(count)
            found.accuracy[task]["learner"] = float(answers(learner, t.test, names).mean())
            found.accuracy[f"clean_{task}"]["learner"] = float(
                answers(learner, t.clean, names, ELSEWHERE).mean()
            )
            found.accepted[task] = accepted(learner)


def _with_labels_of_each_class(found: Measured, bundle: Bundle, of_class: dict[int, Rows]) -> None:
    t, names = found.transfer, found.transfer.classes
    with opened(bundle) as learner:
        show(learner, t.stream, names, is_answering=False)
        given = np.zeros(0, np.int64)
        for count, rows in of_class.items():
            fresh = t.stream.rows(np.setdiff1d(rows, given))
            fresh = fresh.rows(np.random.default_rng([found.seed, 10]).permutation(len(fresh)))
            teach(learner, fresh.z, fresh.y, names)
            given, task = rows, f"{count}_a_class"
            found.accuracy[task]["learner"] = float(answers(learner, t.test, names).mean())
            found.accepted[task] = accepted(learner)


def _with_own_questions(found: Measured, bundle: Bundle, order: Rows) -> None:
    t, names = found.transfer, found.transfer.classes
    with opened(bundle) as learner:
        found.asked = show(learner, t.stream, names, is_answering=True).labels
        found.accuracy["own"]["learner"] = float(answers(learner, t.test, names).mean())
        if found.asked:
            found.accepted["own"] = accepted(learner)
    with opened(bundle) as learner:
        show(learner, t.stream, names, is_answering=False)
        random = t.stream.rows(order[: found.asked])
        teach(learner, random.z, random.y, names)
        found.accuracy["own"]["random"] = float(answers(learner, t.test, names).mean())


def _notice(found: Measured, bundle: Bundle) -> None:
    """The whole field, no label given; what is judged elsewhere is only shown here."""
    t = found.transfer
    with opened(bundle) as learner:
        watched = show(learner, t.stream.then(t.test), t.classes, is_answering=False)
        found.noticed_after = watched.noticed_after()


def _clean_streams(found: Measured, bundle: Bundle) -> None:
    """Clean rows of units not calibrated on, in their natural order and sorted by label."""
    clean = found.transfer.clean
    for rows in (np.arange(len(clean)), np.argsort(clean.y, kind="stable")):
        with opened(bundle) as learner:
            watched = show(
                learner,
                clean.rows(rows[: len(rows) // BATCH * BATCH]),
                found.transfer.classes,
                is_answering=False,
            )
        axes = [axis for axis in watched.axis if axis != "warming"]
        found.alarms += axes.count("shifted")
        found.windows += len(axes)


def _with_new_classes(found: Measured, bundle: Bundle) -> tuple[Part | None, Rows]:
    """The second half of the stream, and the rows of it that were labelled."""
    t, names = found.transfer, found.transfer.classes
    if t.new is None or t.new_test is None:
        return None, np.zeros(0, np.int64)
    half = len(t.stream) // 2
    count = min(len(t.new), (len(t.stream) - half) // (_NEW_SHARE - 1))
    known = t.stream.rows(np.arange(half, half + (_NEW_SHARE - 1) * count))
    rng = np.random.default_rng([found.seed, 9])
    mixed = known.then(t.new.rows(np.arange(count)))
    mixed = mixed.rows(rng.permutation(len(mixed)))
    labelled = rng.permutation(len(mixed))[:NEW_LABELS]
    with opened(bundle) as learner:
        before = show(learner, t.stream.rows(np.arange(half)), names, is_answering=False)
        after = show(learner, mixed, names, is_answering=False)
        teach(learner, mixed.z[labelled], mixed.y[labelled], names)
        right, right_new = (
            float(answers(learner, part, names).mean()) for part in (t.test, t.new_test)
        )
        found.accepted["new"] = accepted(learner)
    found.new_noticed = before.noticed_share(), after.noticed_share()
    _both(found, "learner", right, right_new)
    return mixed, labelled


def _both(found: Measured, who: str, known: float, new: float) -> None:
    found.accuracy["new"][who] = known + (new - known) / _NEW_SHARE
    found.accuracy["new_known"][who], found.accuracy["new_new"][who] = known, new


def labelled_rows(factory: Part, field: Part) -> Labelled:
    both = factory.then(field)
    return Labelled(both.z, both.y, both.unit, np.arange(len(both)) >= len(factory))


def _contend(found: Measured, labels: dict[str, Rows]) -> None:
    t = found.transfer
    frozen = found.accuracy["none"]["frozen"]
    for task, rows in labels.items():
        fitted = contend(labelled_rows(t.factory, t.stream.rows(rows)), [t.test.z, t.clean.z])
        clean = "clean" if task == "none" else f"clean_{task}"
        for who in fitted.chosen:
            found.accuracy[task][who] = fitted.accuracy(who, 0, t.test.y)
            if not task.endswith("a_class"):
                found.accuracy[clean][who] = fitted.accuracy(who, 1, t.clean.y)
        found.accuracy[task]["frozen"] = frozen
    found.accuracy["own"]["frozen"] = frozen


def _contend_with_new_classes(found: Measured, labels: Part) -> None:
    t = found.transfer
    assert t.new_test is not None
    fitted = contend(labelled_rows(t.factory, labels), [t.test.z, t.new_test.z])
    for who in fitted.chosen:
        _both(found, who, fitted.accuracy(who, 0, t.test.y), fitted.accuracy(who, 1, t.new_test.y))
    _both(found, "frozen", found.accuracy["none"]["frozen"], 0.0)


def _stream(found: Measured, drawn: dict[int, Rows], streaming: Sequence[str]) -> None:
    t = found.transfer
    pieces, given = [(t.stream.z[:0], t.stream.y[:0])], 0
    for count, rows in drawn.items():
        pieces.append((t.stream.z[rows[given:]], t.stream.y[rows[given:]]))
        given = count
    for name in streaming:
        answered = streaming_answers(
            name, (t.factory.z, t.factory.y), pieces, t.test.z, len(t.classes)
        )
        for task, labels in zip(("none", *map(str, drawn)), answered, strict=True):
            found.accuracy[task][name] = float((labels == t.test.y).mean())
