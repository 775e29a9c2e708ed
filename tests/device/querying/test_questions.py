"""Questions are few, about distinct samples, and about those whose answer is likely to teach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learner_steps import BATCH, Opener, watch
from numpy.typing import NDArray
from sample_images import KNOWN, NEW, images

from edgeadapt.bundle.schema import AskPolicy, LearnPolicy, NoveltyPolicy, PolicySpec
from edgeadapt.device.adaptation.question_planner import _drawn
from edgeadapt.device.querying.strategy import (
    FLOOR,
    NOVEL,
    Asking,
    Candidates,
    HeadView,
    choose_questions,
    doubts,
    newness_of,
)

POLICY = PolicySpec(
    learn=LearnPolicy(temperature=0.2),
    novelty=NoveltyPolicy(threshold=0.0, rate=0.05),
    ask=AskPolicy(per_condition=20, per_batch=10),
)
HOMES = 3.0 * np.eye(4, 6, dtype=np.float32)  # four classes, each on an axis of its own
Arrays = NDArray[Any]


@dataclass(frozen=True)
class Head:
    """Logits fall with the squared distance to the class means; features are the embedding."""

    embedding: Arrays
    logits: Arrays
    score: Arrays


def head(z: Arrays) -> Head:
    z = np.asarray(z, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = ((z[:, None, :] - HOMES[None]) ** 2).sum(axis=2)
    return Head(
        z, (-distance / 10).astype(np.float32), (distance.min(axis=1) - 3.0).astype(np.float32)
    )


def samples(
    count: int, seed: int, share: float = 1.0, spread: float = 0.3
) -> tuple[Arrays, Arrays]:
    """Features around the class means and their classes; ``share`` of the classes take part."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, max(1, round(4 * share)), count)
    return (HOMES[y] + rng.normal(0, spread, (count, 6))).astype(np.float32), y


def window(size: int = 32, seed: int = 0, **changes: Any) -> Candidates:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(4), size)
    plain = Candidates(
        embedding=rng.normal(size=(size, 6)).astype(np.float32),
        probability=probability,
        novelty=rng.normal(size=size).astype(np.float32),
        doubt=1.0 - probability.max(axis=1),
        newness=np.zeros(size),
        asked=np.zeros((0, 6), np.float32),
        spread=9.0,
        count=10,
    )
    return replace(plain, **changes)


def shuffled(seen: Candidates, order: Arrays) -> Candidates:
    return replace(
        seen,
        **{
            name: getattr(seen, name)[order]
            for name in ("embedding", "probability", "novelty", "doubt", "newness")
        },
    )


# -- the choice ------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 999),
    wanted=st.integers(0, 12),
    least=st.integers(0, 12),
    copies=st.booleans(),
)
def test_the_choice_is_the_same_in_whatever_order_the_window_comes(
    count: int, seed: int, wanted: int, least: int, copies: bool
) -> None:
    seen = window(count, seed, count=wanted, least=least)
    if copies:
        seen = shuffled(seen, np.random.default_rng(seed).integers(0, count, count))
    order = np.random.default_rng(seed + 1).permutation(count)
    plain, other = choose_questions(seen), choose_questions(shuffled(seen, order))
    assert len(plain) <= min(wanted, count) and len(set(plain)) == len(plain)
    np.testing.assert_array_equal(seen.embedding[plain], seen.embedding[order][other])


@settings(max_examples=25, deadline=None)
@given(distinct=st.integers(1, 12), seed=st.integers(0, 999), wanted=st.integers(1, 12))
def test_the_same_sample_is_asked_about_once(distinct: int, seed: int, wanted: int) -> None:
    seen = shuffled(
        window(distinct, seed, count=wanted, least=wanted),
        np.random.default_rng(seed).integers(0, distinct, 32),
    )
    chosen = choose_questions(seen)
    different = np.unique(seen.embedding, axis=0)
    assert (
        len(np.unique(seen.embedding[chosen], axis=0)) == len(chosen) <= min(wanted, len(different))
    )


def test_no_sample_is_left_out_while_questions_are_due_and_distinct_samples_exist() -> None:
    apart = (10.0 * np.eye(6, dtype=np.float32)).repeat(5, axis=0)
    seen = window(30, embedding=apart, count=6, least=6)
    assert sorted(apart[choose_questions(seen)].argmax(axis=1)) == [0, 1, 2, 3, 4, 5]


def test_identical_frames_give_one_question() -> None:
    alike = window(
        32, embedding=np.ones((32, 6), np.float32), doubt=np.full(32, 0.9), count=10, least=5
    )
    assert len(choose_questions(alike)) == 1
    nearly = replace(
        alike, embedding=np.random.default_rng(0).normal(1.0, 1e-3, (32, 6)).astype(np.float32)
    )
    assert len(choose_questions(nearly)) == 1


def test_what_was_asked_before_is_not_asked_again() -> None:
    seen = window(8, doubt=np.full(8, 0.9), count=4)
    first = choose_questions(seen)
    again = choose_questions(replace(seen, asked=seen.embedding[first]))
    assert len(first) == 4 and not set(first) & set(again)
    assert choose_questions(replace(seen, asked=seen.embedding, least=4)) == []


def test_samples_that_promise_little_wait_and_the_due_ones_do_not() -> None:
    sure = window(32, doubt=np.full(32, FLOOR - 0.01), count=10)
    assert choose_questions(sure) == []
    assert len(choose_questions(replace(sure, least=5))) == 5
    doubtful = replace(sure, doubt=np.where(np.arange(32) < 3, FLOOR, 0.1))
    assert sorted(choose_questions(doubtful)) == [0, 1, 2]


def test_the_most_doubtful_of_samples_equally_far_apart_comes_first() -> None:
    doubt = np.array([0.6, 0.9, 0.7, 0.8, 0.2, 0.1])
    seen = window(6, embedding=5.0 * np.eye(6, dtype=np.float32), doubt=doubt, count=10)
    assert choose_questions(seen) == [1, 3, 2, 0]
    assert choose_questions(replace(seen, newness=np.array([0, 0, 0, 0, 0, 0.99])))[0] == 5


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_never_asked_about(broken: float) -> None:
    seen = window(8, count=8, least=8)
    embedding, novelty = seen.embedding.copy(), seen.novelty.copy()
    embedding[2], novelty[5] = broken, broken
    assert sorted(choose_questions(replace(seen, embedding=embedding, novelty=novelty))) == [
        0,
        1,
        3,
        4,
        6,
        7,
    ]
    assert choose_questions(replace(seen, embedding=np.full_like(embedding, broken))) == []
    assert len(choose_questions(replace(seen, doubt=np.full(8, np.nan)))) == 8


def test_one_sample_and_no_question_left() -> None:
    assert choose_questions(window(1, least=1)) == [0]
    assert (
        choose_questions(window(4, count=0, least=0)) == [] == choose_questions(window(4, count=-3))
    )


# -- doubt -----------------------------------------------------------------------------------------
def test_doubt_is_a_chance_and_follows_the_margin() -> None:
    z = np.concatenate([HOMES, (HOMES[:1] + HOMES[1:2]) / 2])
    _, doubt = doubts(head, z, head(z), HOMES, np.ones(4, bool), 0.2)
    assert doubt.min() >= 0.0 and doubt.max() <= 1.0 and doubt.argmax() == 4


def test_a_window_that_moved_together_is_doubted_where_it_crossed_the_border() -> None:
    z, y = samples(64, 1)
    # towards the first class, and confidently so
    moved = z + np.array([3.3, 0, 0, 0, 0, 0], np.float32)
    probability, doubt = doubts(head, moved, head(moved), HOMES, np.ones(4, bool), 0.2)
    wrong = probability.argmax(axis=1) != y
    alone = 1.0 - probability.max(axis=1)
    assert 0.05 < wrong.mean() < 0.8
    assert doubt[wrong].mean() > doubt[~wrong].mean() + 0.2
    assert doubt[wrong].mean() > alone[wrong].mean() + 0.1


def test_a_window_of_one_class_is_not_doubted_for_it() -> None:
    z, _ = samples(32, 2, share=0.25)
    _, doubt = doubts(head, z, head(z), HOMES, np.ones(4, bool), 0.2)
    assert doubt.max() < FLOOR


def test_one_known_class_leaves_nothing_to_doubt() -> None:
    z, _ = samples(8, 3)
    probability, doubt = doubts(head, z, head(z), HOMES, np.array([True, False, False, False]), 0.2)
    assert probability.shape == (8, 1) and not doubt.any()


def test_broken_rows_have_no_doubt_and_do_not_change_that_of_others() -> None:
    z, _ = samples(16, 4, spread=1.0)
    broken = np.concatenate([z, np.full((2, 6), np.nan, np.float32)])
    _, alone = doubts(head, z, head(z), HOMES, np.ones(4, bool), 0.2)
    _, doubt = doubts(head, broken, head(broken), HOMES, np.ones(4, bool), 0.2)
    np.testing.assert_allclose(doubt[:16], alone, atol=1e-6)
    assert not doubt[16:].any()


# -- newness ---------------------------------------------------------------------------------------
def test_newness_needs_more_scores_above_the_threshold_than_known_samples_have() -> None:
    policy = NoveltyPolicy(threshold=1.0, rate=0.05)
    few = np.where(np.arange(32) < 2, 3.0, 0.0).astype(np.float32)
    many = np.where(np.arange(32) < 10, 3.0, 0.0).astype(np.float32)
    assert not newness_of(few, policy, is_shifted=True).any()
    chance = newness_of(many, policy, is_shifted=True)
    assert chance[:10].min() > 0.5 and chance[10:].max() < 0.5


def test_scores_that_all_moved_say_nothing_under_a_shift_and_much_without_one() -> None:
    policy = NoveltyPolicy(threshold=0.0, rate=0.05)
    high = np.linspace(0.5, 1.5, 32, dtype=np.float32)
    assert not newness_of(high, policy, is_shifted=True).any()
    assert newness_of(high, policy, is_shifted=False).min() > 0.5


def test_scores_that_are_not_finite_are_not_new() -> None:
    policy = NoveltyPolicy(threshold=0.0, rate=0.05)
    scores = np.array([np.nan, np.inf, *[2.0] * 8], np.float32)
    assert newness_of(scores, policy, is_shifted=False)[:2].tolist() == [0.0, 0.0]
    assert not newness_of(np.full(4, np.nan, np.float32), policy, is_shifted=False).any()


# -- over windows ----------------------------------------------------------------------------------
def ask(
    asking: Asking,
    z: Arrays,
    topic: str = "condition-1",
    topics: tuple[str, ...] = ("condition-1",),
    is_settled: bool = False,
) -> list[int]:
    return asking.choose(
        topic,
        HeadView(z, np.zeros((len(z), 0), np.float32), head(z), head, HOMES, np.ones(4, bool)),
        POLICY,
        is_settled=is_settled,
        topics=topics,
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 48), spread=st.floats(0.01, 5.0))
def test_no_more_than_a_batch_at_once_and_no_more_than_a_condition_takes(
    seed: int, size: int, spread: float
) -> None:
    asking, asked = Asking(), 0
    for number in range(30):
        rows = ask(asking, samples(size, 100 * seed + number, spread=spread)[0])
        asked += len(rows)
        assert len(rows) <= POLICY.ask.per_batch and len(set(rows)) == len(rows)
    assert asked <= POLICY.ask.per_condition


def test_the_first_window_of_a_topic_gets_the_answers_that_settle_it() -> None:
    asking = Asking()
    assert len(ask(asking, samples(32, 5)[0])) == 5
    assert ask(asking, samples(32, 6)[0], is_settled=True) == []  # sure of all of them
    assert asking.spent("condition-1", 20) == 5


def test_the_same_frames_again_are_not_asked_about_again() -> None:
    asking, z = Asking(), samples(12, 7, spread=2.0)[0]
    first = ask(asking, z)
    later = [row for _ in range(6) for row in ask(asking, z)]
    assert first and not set(first) & set(later) and len(set(later)) == len(later)


def test_a_topic_is_over_when_enough_windows_were_searched_in_vain() -> None:
    asking = Asking()
    for number in range(20):
        assert asking.spent("condition-1", 20) < 20
        ask(asking, samples(32, number)[0], is_settled=True)
    assert asking.spent("condition-1", 20) == 20


def test_what_is_remembered_goes_with_its_condition() -> None:
    asking = Asking()
    z = samples(32, 8, spread=2.0)[0]
    ask(asking, z), ask(asking, z, NOVEL)
    ask(asking, z, "condition-2", ("condition-2",))
    assert asking.spent("condition-1", 20) == 0 < asking.spent(NOVEL, 20)


def test_another_rule_takes_the_place_of_ours() -> None:
    assert ask(Asking(lambda seen: [3, 1]), samples(8, 9)[0]) == [3, 1]


# -- on a device -----------------------------------------------------------------------------------
def test_under_a_condition_the_answers_teach_more_often_than_chance(opened: Opener) -> None:
    asked, taught, wrong = 0, 0, []
    for seed in (5, 6, 7):
        learner = opened()
        x, names = images(10 * BATCH, condition="gaussian_noise", seed=seed)
        before = asked
        for start in range(0, len(x), BATCH):
            (seen,) = watch(learner, x[start : start + BATCH])
            truth = dict(zip(seen.ids, names[start : start + BATCH], strict=True))
            wrong += [a != b for a, b in zip(seen.prediction.labels, truth.values(), strict=True)]
            for q in [q for q in learner.questions(100) if q.id in truth]:
                asked, taught = asked + 1, taught + (truth[q.id] != q.predicted)
                learner.label(q.id, truth[q.id])
            learner.settle()
        assert 5 <= asked - before <= 30
    assert taught / asked > 1.5 * np.mean(wrong)


def test_among_known_classes_it_asks_about_the_new_ones(opened: Opener) -> None:
    asked, shown = [], []
    for seed in (6, 7, 8):
        learner = opened()
        old = images(8 * BATCH, classes=KNOWN, seed=seed)[0]
        new = images(8 * BATCH, classes=NEW, seed=seed)[0]
        is_new = np.random.default_rng(seed).random(len(old)) < 0.45
        ids = [
            sample
            for seen in watch(learner, np.where(is_new[:, None, None], new, old))
            for sample in seen.ids
        ]
        asked += [is_new[ids.index(q.id)] for q in learner.questions(100)]
        shown += is_new.tolist()
    assert len(asked) >= 20 and np.mean(asked) > np.mean(shown) + 0.2


def test_copies_of_a_frame_are_asked_about_at_random_as_often_as_they_come() -> None:
    rng = np.random.default_rng(0)
    copy = rng.standard_normal(8).astype(np.float32)
    windows = [
        np.concatenate([np.tile(copy, (8, 1)), rng.standard_normal((24, 8)).astype(np.float32)])
        for _ in range(400)
    ]
    drawn = [_drawn(window, 1, ())[0] for window in windows]
    assert 0.17 < np.mean([row < 8 for row in drawn]) < 0.33
    assert drawn == [_drawn(window, 1, ())[0] for window in windows]
    assert all(len({*_drawn(window, 2, (5, 6, 7)), 5}) == 3 for window in windows)
