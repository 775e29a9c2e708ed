"""Odds against labels: honest ones stay below what their mean of 1 allows, false ones do not,
whatever the mix of classes.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.device.commits.label_noise_odds import (
    Belief,
    agrees_with_its_class,
    copies,
    learned_from,
    odds,
)

K = 6


def drawn(
    count: int, seed: int, sharp: float = 4.0, classes: int = K
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) of a head that is right about its chances, and honest labels drawn from
    them.
    """
    rng = np.random.default_rng(seed)
    logits = (sharp * rng.standard_normal((count, classes))).astype(np.float32)
    p = Belief(1.0, 0.0).honest(logits)
    return logits, np.array([rng.choice(classes, p=row) for row in p])


def test_chances_add_up_and_slack_keeps_every_label_possible() -> None:
    p = Belief(0.1, 0.06, 0.5, np.full((K, K), 1 / K)).honest(drawn(20, 0)[0])
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert p.min() >= 0.01 and p.max() < 1.0


def test_mean_odds_of_honest_labels_are_at_most_one_and_a_hundred_to_one_is_rare_enough() -> None:
    found = []
    for seed in range(400):
        logits, y = drawn(24, seed)
        found.append(odds(Belief(1.0, 0.0).honest(logits), y).log10)
    assert np.mean(10.0 ** np.array(found)) < 1.5
    assert np.mean(np.array(found) >= 2.0) <= 0.01


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8, 1.0])
def test_a_share_of_random_labels_is_found_out(share: float) -> None:
    caught = 0
    for seed in range(50):
        logits, y = drawn(64, seed, sharp=6.0)
        rng = np.random.default_rng(seed)
        lies = np.where(rng.random(64) < share, (y + rng.integers(1, K, 64)) % K, y)
        caught += odds(Belief(1.0, 0.01).honest(logits), lies).log10 >= 2.0
    assert caught >= 45


def test_a_flipped_class_is_named_though_it_is_a_tenth_of_the_labels() -> None:
    named = 0
    for seed in range(50):
        logits, y = drawn(64, seed, sharp=6.0)
        found = odds(Belief(1.0, 0.01).honest(logits), np.where(y == 1, 4, y))
        named += found.log10 >= 2.0 and found.flip == (1, 4)
    assert named >= 40


def test_a_batch_of_one_honest_class_is_no_flip_though_the_head_mistakes_a_third_of_it() -> None:
    logits = np.full((30, K), -2.0, np.float32)
    logits[:, 0] = np.where(np.arange(30) < 10, 1.0, -2.0)
    logits[:, 1] = np.where(np.arange(30) < 10, 0.0, 1.0)
    assert odds(Belief(1.0, 0.01).honest(logits), np.full(30, 1)).log10 < 1.0


def test_no_labels_or_one_class_say_nothing() -> None:
    p = Belief(1.0, 0.01).honest(drawn(5, 0)[0])
    assert odds(p[:0], np.zeros(0, np.int64)).log10 == 0.0
    assert odds(np.ones((5, 1)), np.zeros(5, np.int64)).log10 == 0.0


def test_belief_is_learned_from_labels_and_is_never_surer_than_it_was() -> None:
    prior = Belief(0.5, 0.01)
    sharp, y = drawn(2000, 1)
    assert learned_from(sharp, y, prior).temperature == 1.0  # the labels were drawn at 1
    assert learned_from(sharp, sharp.argmax(axis=1), prior).temperature == 0.5
    loose = np.where(
        np.random.default_rng(0).random(2000) < 0.4,
        np.random.default_rng(1).integers(0, K, 2000),
        y,
    )
    assert learned_from(sharp, loose, prior).slack >= 0.1
    assert learned_from(sharp[:0], y[:0], prior) is prior


def test_a_class_that_the_head_hardly_knows_makes_it_doubt_that_class_only() -> None:
    logits, _ = drawn(400, 2, sharp=8.0)
    taken_for = logits.argmax(axis=1)
    # half of what is taken for 0 is of class 5
    y = np.where((taken_for == 0) & (np.arange(400) % 2 == 0), 5, taken_for)
    belief = learned_from(logits, y, Belief(1.0, 0.01))
    assert belief.temperature == 1.0 and belief.slack < 0.1
    p = belief.honest(logits)[taken_for == 0]
    assert np.median(p[:, 5]) > 10 * np.median(p[:, 1])


def test_labels_that_mean_something_lie_nearest_to_their_own_class_and_random_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 4
    embedding = (np.eye(4)[y] * 3 + rng.standard_normal((60, 4))).astype(np.float32)
    renamed = (y + 1) % 4  # consistent: nothing inside the batch speaks against it
    assert agrees_with_its_class(embedding, y).mean() > 0.85
    np.testing.assert_array_equal(
        agrees_with_its_class(embedding, renamed), agrees_with_its_class(embedding, y)
    )
    assert agrees_with_its_class(embedding, rng.permutation(y)).mean() < 0.4
    assert not agrees_with_its_class(embedding[:4], np.arange(4)).any()  # each alone


def test_copies_are_found_bit_for_bit() -> None:
    features = np.array([[1, 2], [1, 3], [1, 2], [0.0, 1], [-0.0, 1]], np.float16)
    first, group = copies(features)
    assert first.tolist() == [0, 1, 3, 4] and group.tolist() == [0, 1, 0, 2, 3]
