"""Labels by id or by name, early, late and from anybody, reach the sample they mean, or are
counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.daemon.engine.label_queue import Labels
from edgeadapt.daemon.engine.sample_registry import SampleRegistry
from edgeadapt.daemon.messages import LabelArrival
from edgeadapt.demo.sample import CLASSES, Sample, bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import BudgetError, InputError, StateError, UnknownClassError
from edgeadapt.runtime import Runtime
from edgeadapt.testing import inspect_state


def label(sample: str, source: str = "camera", name: str = "Coat") -> LabelArrival:
    return LabelArrival(sample, name, source)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# -- names -----------------------------------------------------------------------------------------
def test_a_name_means_the_newest_sample_that_its_source_called_so() -> None:
    naming = SampleRegistry()
    naming.came("camera", "1.png", "id-1")
    assert naming.find(label("1.png")) == "id-1"
    naming.came("camera", "1.png", "id-2")
    assert naming.find(label("1.png")) == "id-2" and naming.find(label("2.png")) is None


def test_a_label_that_came_first_is_handed_over_with_its_sample_once() -> None:
    naming = SampleRegistry()
    early = label("1.png")
    assert naming.find(early, hold=True) is None and naming.counters()["held"] == 1
    assert naming.came("camera", "1.png", "id-1") == [early]
    assert naming.counters()["held"] == 0 and naming.came("camera", "1.png", "id-2") == []


def test_of_one_who_labels_twice_before_the_sample_the_last_counts_and_of_two_both() -> None:
    naming = SampleRegistry()
    for one in (
        label("1.png", name="Coat"),
        label("1.png", name="Dress"),
        label("1.png", "anna", "Sandal"),
    ):
        naming.find(one, hold=True)
    assert [(one.source, one.label) for one in naming.came("camera", "1.png", "id")] == [
        ("camera", "Dress"),
        ("anna", "Sandal"),
    ]


def test_a_source_that_names_samples_means_its_own_and_another_may_mean_anybodys() -> None:
    naming = SampleRegistry()
    naming.came("left", "1.png", "id-left")
    assert naming.find(label("1.png", "anna")) == "id-left"
    naming.came("right", "7.png", "id-right")
    assert naming.find(label("1.png", "right")) is None
    assert naming.find(label("left/1.png", "right")) == "id-left"  # unless it says so


def test_a_name_that_two_sources_use_is_refused_with_the_way_to_say_it() -> None:
    naming = SampleRegistry()
    naming.came("left", "1.png", "id-left")
    naming.came("right", "1.png", "id-right")
    with pytest.raises(InputError, match=r"say left/1\.png or right/1\.png"):
        naming.find(label("1.png", "anna"))
    assert (
        naming.find(label("right/1.png", "anna")) == "id-right"
        and naming.find(label("1.png", "left")) == "id-left"
    )


def test_an_early_label_waits_for_the_sample_of_the_source_that_it_names() -> None:
    naming = SampleRegistry()
    naming.find(label("right/1.png", "anna"), hold=True)
    assert naming.came("left", "1.png", "id-left") == []
    assert [one.source for one in naming.came("right", "1.png", "id-right")] == ["anna"]


def test_labels_wait_for_an_hour_and_what_expires_is_counted() -> None:
    clock = Clock()
    naming = SampleRegistry(clock=clock)
    naming.find(label("1.png"), hold=True)
    clock.now = 1800.0
    naming.find(label("2.png"), hold=True)
    clock.now = 3601.0
    naming.expire()
    assert naming.counters()["held"] == 1 and naming.expired == 1
    assert (
        naming.came("camera", "1.png", "id-1") == []
        and len(naming.came("camera", "2.png", "id-2")) == 1
    )


def test_names_and_waiting_labels_are_bounded_and_what_goes_is_counted() -> None:
    naming = SampleRegistry(names=100, held=50)
    for number in range(250):
        naming.came("camera", f"{number}.png", f"id-{number}")
        naming.find(label(f"later-{number}.png"), hold=True)
    assert naming.counters() == {
        "names": 100,
        "held": 50,
        "expired": 0,
        "displaced": 200,
        "names_forgotten": 150,
    }
    assert naming.find(label("149.png")) is None and naming.find(label("150.png")) == "id-150"
    assert (
        naming.came("camera", "later-199.png", "id") == []
        and len(naming.came("camera", "later-200.png", "id")) == 1
    )
    # nothing is kept beside what is counted
    assert len(naming._sources) == 100 and len(naming._waited_for) == 49


# -- labels ----------------------------------------------------------------------------------------
@pytest.fixture
def labels(learner: Learner) -> Iterator[Labels]:
    given = labels_of(learner)
    yield given
    given.close(5.0)


def labels_of(learner: Learner, most: int = 10_000) -> Labels:
    @contextmanager
    def lend() -> Iterator[Learner]:
        yield learner

    made = Labels(SampleRegistry(), lend, most)
    made.start()
    return made


def observed(learner: Learner, sample: Sample, count: int = 8) -> tuple[tuple[str, ...], list[str]]:
    """Ids of known samples, and what they are."""
    rows = np.flatnonzero(sample.y < 6)[:count]
    return learner.observe(sample.x[rows]).ids, [CLASSES[i] for i in sample.y[rows]]


def kept(learner: Learner) -> dict[str, tuple[str, str]]:
    """id -> (label, source) of everything the journal has."""
    return {row.id: (row.label, row.source) for row in inspect_state(learner).journal.evidence()}


def test_labels_by_id_and_by_name_from_several_sources_reach_the_learner_with_who_said_so(
    labels: Labels, learner: Learner, sample: Sample
) -> None:
    ids, names = observed(learner, sample)
    for row, sample_id in enumerate(ids[:4]):
        labels.came("camera", f"{row}.png", sample_id, None)
    assert all(labels.put(LabelArrival(f"{row}.png", names[row], "camera")) for row in range(4))
    assert all(labels.put(LabelArrival(ids[row], names[row], "mqtt")) for row in range(4, 8))
    assert labels.settle(10.0)
    assert kept(learner) == {
        ids[row]: (names[row], "camera" if row < 4 else "mqtt") for row in range(8)
    }
    assert labels.counts["received"] == 8 and labels.counts["refused"] == 0


def test_a_label_that_came_with_its_sample_and_one_that_waited_for_it_are_given(
    labels: Labels, learner: Learner, sample: Sample
) -> None:
    ids, names = observed(learner, sample, 2)
    told = labels.give([LabelArrival("a.png", names[0], "anna")], 10.0)
    assert told[0].outcome == "waiting"
    labels.came("camera", "a.png", ids[0], None)
    labels.came("camera", "", ids[1], names[1])
    assert labels.settle(10.0)
    assert kept(learner) == {ids[0]: (names[0], "anna"), ids[1]: (names[1], "camera")}


def test_the_order_of_two_labels_of_one_sample_is_kept(
    labels: Labels, learner: Learner, sample: Sample
) -> None:
    ids, names = observed(learner, sample, 1)
    wrong = next(name for name in learner.classes if name != names[0])
    told = labels.give(
        [LabelArrival(ids[0], wrong, "anna"), LabelArrival(ids[0], names[0], "anna")], 10.0
    )
    assert [one.outcome for one in told] == ["received", "received"]
    learner.settle()
    assert inspect_state(learner).journal.newest_of([ids[0]])[ids[0]].label == names[0]


def test_one_label_that_is_refused_does_not_take_the_others_with_it(
    labels: Labels, learner: Learner, sample: Sample
) -> None:
    ids, names = observed(learner, sample, 3)
    told = labels.give(
        [
            LabelArrival(ids[0], names[0], "anna"),
            LabelArrival(ids[1], "Hat", "anna"),
            LabelArrival(ids[2], names[2], "anna"),
        ],
        10.0,
    )
    assert [one.outcome for one in told] == ["received", "refused", "received"]
    assert isinstance(told[1].error, UnknownClassError) and "Hat" in told[1].why
    assert kept(learner).keys() == {ids[0], ids[2]}


def test_what_looks_like_an_id_and_is_none_waits_as_a_name(
    labels: Labels, learner: Learner, sample: Sample
) -> None:
    ids, names = observed(learner, sample, 1)
    told = labels.give([LabelArrival("0123456789abcdef", names[0], "anna")], 10.0)
    assert told[0].outcome == "waiting" and "0123456789abcdef" in told[0].why
    labels.came("camera", "0123456789abcdef", ids[0], None)
    assert labels.settle(10.0) and kept(learner) == {ids[0]: (names[0], "anna")}


def test_a_sample_that_was_answered_without_being_observed_cannot_be_labelled_and_says_so(
    labels: Labels,
) -> None:
    labels.came("camera", "late.png", "", None)
    told = labels.give([LabelArrival("late.png", "Coat", "camera")], 10.0)
    assert told[0].outcome == "refused" and "too late" in told[0].why


def test_without_room_on_the_disk_labels_wait_and_whoever_waits_for_them_is_told(
    runtime: Runtime, tmp_path: Path, sample: Sample
) -> None:
    with open_learner(
        bundle_path(), tmp_path / "small", runtime, budget=Budget(write_mib_per_day=0.0001)
    ) as learner:
        labels = labels_of(learner)
        ids, names = observed(learner, sample, 3)
        assert labels.put(LabelArrival(ids[0], names[0], "mqtt"))
        told = labels.give([LabelArrival(ids[1], names[1], "anna")], 10.0)
        assert told[0].outcome == "refused" and isinstance(told[0].error, BudgetError)
        again = labels.give([LabelArrival(ids[2], names[2], "anna")], 10.0)
        assert isinstance(again[0].error, BudgetError)
        assert labels.counters()["queued"] == 1 and kept(learner) == {}
        inspect_state(learner).room.per_day = 1 << 30  # a day has passed
        assert labels.settle(15.0) and kept(learner) == {ids[0]: (names[0], "mqtt")}
        assert labels.close(5.0) == 0


def test_labels_that_find_no_place_in_the_queue_are_refused_and_counted(
    runtime: Runtime, tmp_path: Path, sample: Sample
) -> None:
    with open_learner(
        bundle_path(), tmp_path / "small", runtime, budget=Budget(write_mib_per_day=0.0001)
    ) as learner:
        labels = labels_of(learner, most=5)
        ids, names = observed(learner, sample, 8)
        taken = [
            labels.put(LabelArrival(one, name, "mqtt"))
            for one, name in zip(ids, names, strict=True)
        ]
        assert taken.count(False) >= 2 and labels.counts["dropped"] == taken.count(False)
        assert labels.close(5.0) == taken.count(True)


def test_the_label_that_came_with_a_sample_and_found_no_place_is_told_of(
    learner: Learner, sample: Sample
) -> None:
    labels = labels_of(learner, most=0)
    ids, names = observed(learner, sample, 2)
    assert (
        labels.came("camera", "a.png", ids[0], names[0]) is False and labels.counts["dropped"] == 1
    )
    assert labels.came("camera", "b.png", ids[1], None) is True
    assert labels.close(5.0) == 0


class Hanging:
    """A disk that takes its time."""

    def __init__(self) -> None:
        self.goes_on, self.got = threading.Event(), list[str]()

    def label(self, ids: list[str], labels: list[str], source: str) -> None:
        assert self.goes_on.wait(30)
        self.got += ids


def test_closing_counts_labels_that_are_under_way(until: Callable[..., None]) -> None:
    disk: Any = Hanging()
    labels = labels_of(disk)
    for row in range(20):
        assert labels.came("camera", f"{row}.png", f"{row:016x}", "Coat")
    until(lambda: labels.counters()["queued"] < 20)
    assert labels.close(0.1) == 20 and disk.got == []
    disk.goes_on.set()
    assert labels.close(10.0) == 0 and len(disk.got) == 20


def test_what_waits_is_dropped_once_what_is_under_way_has_arrived(
    until: Callable[..., None],
) -> None:
    disk: Any = Hanging()
    labels = labels_of(disk)
    assert labels.put(LabelArrival(f"{0:016x}", "Coat", "anna"))
    until(lambda: labels.counters()["queued"] == 0)
    for row, source in ((1, "anna"), (2, "camera"), (3, "anna")):
        assert labels.put(LabelArrival(f"{row:016x}", "Coat", source))
    with pytest.raises(StateError, match="does not answer"):
        labels.drop(lambda label, sample: True, 0.1)
    threading.Timer(0.2, disk.goes_on.set).start()
    gone = labels.drop(lambda label, sample: label.source == "anna", 10.0)
    assert [sample for _, sample in gone] == [f"{1:016x}", f"{3:016x}"]
    assert labels.settle(10.0) and disk.got == [f"{0:016x}", f"{2:016x}"]
    assert labels.close(5.0) == 0


def test_hundreds_of_labels_from_threads_before_and_after_their_samples_all_arrive(
    labels: Labels, learner: Learner, sample: Sample, until: Callable[..., None]
) -> None:
    rows = np.flatnonzero(sample.y < 6)[:600]
    names = [CLASSES[i] for i in sample.y[rows]]

    def say(first: int) -> None:
        for row in range(first, len(rows), 3):
            labels.put(LabelArrival(f"{row}.png", names[row], "camera"))

    threads = [threading.Thread(target=say, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    ids: list[str] = []
    for start in range(0, len(rows), 32):
        observation = learner.observe(sample.x[rows[start : start + 32]])
        for sample_id in observation.ids:
            labels.came("camera", f"{len(ids)}.png", sample_id, None)
            ids.append(sample_id)
    for thread in threads:
        thread.join(30)
    until(lambda: labels.counts["received"] == len(rows), 60.0)
    found: dict[str, Any] = kept(learner)
    assert {one: found[one][0] for one in ids} == dict(zip(ids, names, strict=True))
    assert labels.counters()["held"] == 0 and labels.counts["refused"] == 0
