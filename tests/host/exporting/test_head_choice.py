"""How a head follows from its sums on the device: the factory's weight, its own samples as judges,
a condition's own head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeadapt
from edgeadapt import host
from edgeadapt.bundle import read_bundle
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.head_search import climbed
from edgeadapt.device.commits.logistic_head import LogisticHead
from edgeadapt.device.detection.policy import UNCERTAIN, Policy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import AS_SHIPPED, HeadChoice
from edgeadapt.runtime import open_runtime
from edgeadapt.testing import inspect_state

NAMES = ["a", "b", "c", "d"]
DIM = 24
TURN = np.linalg.qr(np.random.default_rng(7).standard_normal((DIM, DIM)))[0]


def vectors(count: int, seed: int, *, is_field: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Four classes; in the field everything is turned, so that the factory's head knows nothing
    there.
    """
    rng = np.random.default_rng(seed)
    centres = 1.2 * np.random.default_rng(3).standard_normal((4, DIM))
    y = rng.integers(0, 4, count)
    x = centres[y] + rng.standard_normal((count, DIM))
    return (x @ TURN if is_field else x).astype(np.float32), y


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "vectors.edge"
    x, y = vectors(160, 0)
    host.export(path, host.Identity(DIM), (x, y), NAMES, stress=False)
    return path


@pytest.fixture
def learner(bundle_path: Path, tmp_path: Path) -> Iterator[edgeadapt.Learner]:
    with edgeadapt.open(bundle_path, state=tmp_path / "state") as found:
        yield found


def right(learner: edgeadapt.Learner, x: np.ndarray, y: np.ndarray) -> float:
    labels = learner.predict(features={"z": x}).labels
    return float(np.mean([label == NAMES[k] for label, k in zip(labels, y, strict=True)]))


def teach(learner: edgeadapt.Learner, x: np.ndarray, y: np.ndarray) -> None:
    learner.learn(None, [NAMES[k] for k in y], features={"z": x}, trusted=True)
    learner.settle()


def test_a_weight_of_one_is_the_sum_and_others_scale_the_factory_alone(bundle_path: Path) -> None:
    program = Program(read_bundle(bundle_path), open_runtime())
    x, y = vectors(50, 1, is_field=True)
    ones, none = np.ones(50, np.float32), np.zeros((50, 0), np.float32)
    learned, _ = program.learn(program.factory(), x, none, y, ones, 0 * ones)
    # the field twice: the factory at half
    doubled, _ = program.learn(learned, x, none, y, ones, 0 * ones)
    half = program.derive(learned, HeadChoice(factory_weight=0.5))
    read = [
        program.forward_head(x, none, tensors).logits[:, :4].argmax(axis=1)
        for tensors in (half, program.derive(doubled))
    ]
    # few labels of a class are helped by their count, which differs
    assert (read[0] == read[1]).mean() > 0.95
    plain = program.forward_head(x, none, program.derive(learned)).logits
    assert np.array_equal(
        plain,
        program.forward_head(
            x, none, program.derive(learned, AS_SHIPPED, (*NAMES, *[None] * 28))
        ).logits,
    )


def test_a_class_that_left_its_slot_has_no_factory_share(bundle_path: Path) -> None:
    with edgeadapt.open(bundle_path) as learner:
        learner.remove_class("b")
        live = inspect_state(learner).state
        values = inspect_state(learner).program.derive(
            live.tensors, HeadChoice(factory_weight=4.0), live.classes
        )
        active = inspect_state(learner).program.runtime.download(values, ["head.active"])[
            "head.active"
        ]
    assert active[:4].tolist() == [1.0, 0.0, 1.0, 1.0]


def test_samples_that_were_learned_judge_as_if_they_had_not_been(bundle_path: Path) -> None:
    """On labels that mean nothing a head of many columns is right on what it learned; its own
    samples must not say so.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 160)).astype(np.float32), np.arange(80) % 4
    path = bundle_path.with_name("noise.edge")
    host.export(path, host.Identity(160), (x, y), NAMES, stress=False)
    with edgeadapt.open(path) as learner:
        program, live = inspect_state(learner).program, inspect_state(learner).state
        (guard,) = FactorySamples(program).sets(live)
        learned = float(
            (
                program.forward_head(guard.z, guard.taps, live.tensors).logits.argmax(axis=1)
                == guard.y
            ).mean()
        )
        judged = [
            float(
                guard.correct(
                    program,
                    replace(live, head=choice, tensors=program.derive(live.tensors, choice)),
                ).mean()
            )
            for choice in (AS_SHIPPED, HeadChoice(shrinkage=0.1))
        ]
        more = rng.standard_normal((20, 160)).astype(np.float32)
        none = np.zeros((20, 0), np.float32)
        ones = np.ones(20, np.float32)
        sums, _ = program.learn(live.tensors, more, none, np.arange(20) % 4, ones, 0 * ones)
        light = HeadChoice(factory_weight=0.04, shrinkage=0.1)
        taught = replace(live, head=light, labels=20, tensors=program.derive(sums, light))
        (guard,) = FactorySamples(program).sets(taught)
        by_heart = float(
            (
                program.forward_head(guard.z, guard.taps, taught.tensors).logits.argmax(axis=1)
                == guard.y
            ).mean()
        )
        judged.append(float(guard.correct(program, taught).mean()))
    assert min(learned, by_heart) > 0.7 and max(judged) < 0.45


@pytest.mark.parametrize(("best", "found"), [(0.04, 0.04), (1.0, 1.0), (16.0, 16.0)])
def test_a_ladder_is_climbed_to_its_best_rung_and_no_further_than_it_gets_clearly_better(
    best: float, found: float
) -> None:
    asked: list[float] = []

    def loss_of(choice: HeadChoice) -> float:
        asked.append(choice.factory_weight)
        return 1.0 + abs(np.log(choice.factory_weight / best))

    start = (loss_of(AS_SHIPPED), AS_SHIPPED)
    assert climbed(start, "factory_weight", (0.04, 0.2, 1.0, 4.0, 16.0), loss_of)[1] == HeadChoice(
        factory_weight=found
    )
    assert len(asked) <= 5
    flat = climbed((1.0, AS_SHIPPED), "factory_weight", (0.04, 0.2, 1.0), lambda choice: 0.99)
    assert flat[1] == AS_SHIPPED  # a hundredth is not clear


def test_labels_of_a_field_that_the_factory_knows_nothing_of_take_over_and_a_choice_survives(
    bundle_path: Path, tmp_path: Path
) -> None:
    x, y = vectors(400, 1, is_field=True)
    test = vectors(800, 2, is_field=True)
    with edgeadapt.open(bundle_path, state=tmp_path / "state") as learner:
        before = right(learner, *test)
        teach(learner, x[:200], y[:200])
        after, chosen = right(learner, *test), HeadChoice(factory_weight=0.2)
        inspect_state(learner).worker.call(lambda: learner._training._choices._use(chosen, {}))
        weighed = right(learner, *test)
        labels = learner.predict(features={"z": test[0]}).labels
    assert before < 0.5 and after > before + 0.3
    assert weighed >= after - 0.02
    with edgeadapt.open(bundle_path, state=tmp_path / "state") as again:
        assert (
            inspect_state(again).state.head == chosen
            and again.predict(features={"z": test[0]}).labels == labels
        )


def test_labels_that_agree_with_the_factory_leave_its_weight(learner: edgeadapt.Learner) -> None:
    teach(learner, *vectors(24, 5))
    assert inspect_state(learner).state.head.factory_weight >= 1.0


def test_a_rollback_takes_back_labels_and_not_only_the_choice(learner: edgeadapt.Learner) -> None:
    test = vectors(400, 2, is_field=True)
    before = right(learner, *test)
    teach(learner, *vectors(64, 1, is_field=True))
    assert right(learner, *test) > before + 0.2
    learner.rollback()
    assert right(learner, *test) == before and inspect_state(learner).state.head == AS_SHIPPED


def test_forgetting_everything_leaves_the_factory(learner: edgeadapt.Learner) -> None:
    test = vectors(400, 2)
    before = learner.predict(features={"z": test[0]}).labels
    learner.learn(
        None,
        [NAMES[k] for k in vectors(64, 1, is_field=True)[1]],
        features={"z": vectors(64, 1, is_field=True)[0]},
        source="field",
    )
    learner.settle()
    learner.forget(source="field")
    learner.settle()
    assert inspect_state(learner).state.head == AS_SHIPPED
    assert (
        np.mean(
            [
                a == b
                for a, b in zip(
                    learner.predict(features={"z": test[0]}).labels, before, strict=True
                )
            ]
        )
        > 0.99
    )


def test_what_is_held_out_teaches_the_head_that_answers_and_not_the_one_that_is_judged(
    learner: edgeadapt.Learner,
) -> None:
    x, y = vectors(60, 1, is_field=True)
    teach(learner, x, y)
    live, program = inspect_state(learner).state, inspect_state(learner).program
    test, none = vectors(200, 2, is_field=True)[0], np.zeros((200, 0), np.float32)
    judged, answering = (
        program.forward_head(test, none, tensors).logits
        for tensors in (live.judged_in("source"), live.tensors_in("source"))
    )
    rows = inspect_state(learner).journal.evidence(where="status = 'held_out'")
    z = np.stack([row.features for row in rows]).astype(np.float32)
    slots = np.array([live.slots[row.label] for row in rows])
    ones = np.ones(len(rows), np.float32)
    every, _ = program.learn(live.tensors, z, none[: len(rows)], slots, ones, 0 * ones)
    head = program.derive(every, live.head, live.classes)
    both = inspect_state(learner).journal.evidence(where="status IN ('learned', 'held_out')")
    beside = LogisticHead(program).beside(
        head, live, FactorySamples(inspect_state(learner).program).sets(live), both
    )
    expected = program.forward_head(test, none, beside).logits
    assert (
        np.allclose(answering, expected, atol=1e-3)
        and len(rows) >= 8
        and np.abs(answering - judged).max() > 0.01
    )


def test_a_label_counts_at_once_though_the_head_that_answers_is_made_later(
    learner: edgeadapt.Learner,
) -> None:
    teach(learner, *vectors(60, 1, is_field=True))
    assert "source" in inspect_state(learner).state.heads
    inspect_state(learner).meter.may_start = lambda kind: False  # type: ignore[method-assign]
    x = np.full((1, DIM), 40.0, np.float32)
    before = learner.predict(features={"z": x}).labels[0]
    other = next(name for name in NAMES if name != before)
    learner.learn(
        None,
        [other] * 3,
        features={"z": np.repeat(x, 3, axis=0) + np.eye(DIM, dtype=np.float32)[:3]},
        trusted=True,
    )
    learner.settle()
    assert "source" not in inspect_state(learner).state.heads and learner.predict(
        features={"z": x}
    ).labels == (other,)


def test_a_new_class_of_few_labels_does_not_choose_how_the_head_is_made(bundle_path: Path) -> None:
    """No head without one of its two labels can answer it; that is no fault of the head's weight,
    shrinkage or temperature.
    """
    x, y = vectors(20, 5)
    with edgeadapt.open(bundle_path, policy=Policy(new_classes="add")) as learner:
        far = (30.0 * np.eye(DIM, dtype=np.float32))[:4]
        learner.learn(None, ["new", "new", "newer", "newest"], features={"z": far}, trusted=True)
        learner.settle()
        teach(learner, x, y)
        assert (
            inspect_state(learner).state.head.temperature < 3.0
            and inspect_state(learner).state.head.factory_weight >= 1.0
        )


def test_a_head_is_as_sure_as_it_is_right_after_labels(learner: edgeadapt.Learner) -> None:
    """Samples that lie three times further apart than the factory's make its head surer, and it is
    right less often.
    """

    def scattered(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = vectors(count, seed)
        return (x + 3.0 * np.random.default_rng(seed).standard_normal(x.shape)).astype(
            np.float32
        ), y

    test = scattered(600, 2)
    before = float(learner.predict(features={"z": test[0]}).probs.max(axis=1).mean()) - right(
        learner, *test
    )
    teach(learner, *scattered(120, 1))
    after = float(learner.predict(features={"z": test[0]}).probs.max(axis=1).mean()) - right(
        learner, *test
    )
    assert before > 0.15 and abs(after) < 0.07
    assert inspect_state(learner).state.head.temperature > 1.0


@pytest.mark.parametrize("was_doubted", [True, False])
def test_a_doubt_ends_when_answers_end_it_and_not_with_clear_readings(
    bundle_path: Path, was_doubted: bool
) -> None:
    with edgeadapt.open(bundle_path, policy=Policy(quiet_questions_per_day=0)) as learner:
        learner.observe(features={"z": vectors(64, 1)[0]}, stream="s")
        learner.settle()
        stream, known = (
            inspect_state(learner).streams.found["s"],
            inspect_state(learner).conditions.field_accuracy,
        )
        if was_doubted:
            stream.state = replace(stream.state, asked={UNCERTAIN: 5})
        for number, answer in enumerate("bbb"):
            known.asked(str(number), "s", "source", "a", is_random=True)
            known.answered(str(number), answer)
        seen = learner.observe(features={"z": vectors(32, 2)[0]}, stream="s")
        learner.settle()
        assert (len(learner.questions(50)) > 0) == was_doubted and seen.reading.axis == "clear"
        for number in range(20):
            known.asked(f"right {number}", "s", "source", "a", is_random=True)
            known.answered(f"right {number}", "a")
        before = len(learner.questions(50))
        learner.observe(features={"z": vectors(32, 3)[0]}, stream="s")
        learner.settle()
        assert len(learner.questions(50)) == before
