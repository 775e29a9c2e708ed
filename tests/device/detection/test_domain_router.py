"""Conditions as bundles: order-free, mergeable, routed to where they belong; and which two are
one.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.device.detection.hypervector_bundles import (
    ConditionBundle,
    MergeCandidate,
    merge_candidates,
    merged_prototypes,
    route,
    similarity_of,
)
from edgeadapt.device.inference.state import DomainPrototypes
from edgeadapt.errors import InputError

SLOTS, WIDTH = 4, 32


def samples(condition: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes in directions of their own, moved by the condition."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((SLOTS, WIDTH))
    moved = np.random.default_rng([2, condition]).standard_normal(WIDTH)
    slots = rng.integers(0, SLOTS, count)
    return (centres[slots] + 1.5 * moved + 0.3 * rng.standard_normal((count, WIDTH))).astype(
        np.float32
    ), slots


def met(condition: int, count: int = 64, seed: int = 0) -> ConditionBundle:
    return ConditionBundle.empty(SLOTS, WIDTH).extended(*samples(condition, count, seed))


def test_a_window_is_routed_to_the_condition_it_comes_from() -> None:
    bundles = {f"c{c}": met(c) for c in range(4)}
    for condition in range(4):
        name, score = route(bundles, samples(condition, 32, seed=9)[0])
        assert name == f"c{condition}" and score > -2


def test_a_window_of_one_class_goes_home_too() -> None:
    bundles = {f"c{c}": met(c) for c in range(4)}
    h, slots = samples(2, 200, seed=5)
    assert route(bundles, h[slots == 1][:20])[0] == "c2"


def test_nothing_known_routes_nowhere() -> None:
    h, _ = samples(0, 8, 0)
    assert route({}, h) == ("", float("-inf"))
    assert route({"empty": ConditionBundle.empty(SLOTS, WIDTH)}, h) == ("", float("-inf"))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 100))
def test_bundles_do_not_depend_on_the_order_and_merge_into_what_one_would_have_learned(
    first: int, second: int, seed: int
) -> None:
    a, b = samples(0, first, seed), samples(1, second, seed + 1)
    empty = ConditionBundle.empty(SLOTS, WIDTH)
    apart = empty.extended(*a).merged(empty.extended(*b))
    together = empty.extended(*b).extended(*a)
    assert np.allclose(apart.sums, together.sums) and np.array_equal(apart.counts, together.counts)
    permuted = np.random.default_rng(seed).permutation(first)
    assert np.allclose(empty.extended(a[0][permuted], a[1][permuted]).sums, empty.extended(*a).sums)


def test_a_sample_is_not_compared_with_itself() -> None:
    h = np.eye(WIDTH, dtype=np.float32)[:4]
    bundle = ConditionBundle.empty(SLOTS, WIDTH).extended(h, np.zeros(4, np.int64))
    assert (
        bundle.moments[0] == 4 and abs(bundle.moments[1]) < 1e-9
    )  # orthogonal to the three others


def test_one_sample_opens_a_condition_without_a_similarity_at_home() -> None:
    bundle = ConditionBundle.empty(SLOTS, WIDTH).extended(*samples(0, 1, 0))
    assert (
        bundle.counts.sum() == 1
        and bundle.moments[0] == 0
        and bundle.standardised(samples(0, 4, 1)[0]) == float("-inf")
    )


def test_equal_samples_neither_claim_nor_refuse_everything() -> None:
    h = np.repeat(samples(0, 1, 0)[0], 8, axis=0)
    bundle = ConditionBundle.empty(SLOTS, WIDTH).extended(h, np.zeros(8, np.int64))
    assert np.isfinite(bundle.standardised(samples(1, 8, 2)[0]))


def test_memories_of_one_condition_are_merge_candidates_and_others_are_not() -> None:
    bundles = {
        "noise": met(0, seed=0),
        "noise again": met(0, seed=1),
        "fog": met(1, seed=2),
        "dark": met(2, seed=3),
    }
    pairs = merge_candidates(bundles, threshold=0.95)
    assert (
        [(p.first, p.second) for p in pairs] == [("noise", "noise again")]
        and pairs[0].similarity > 0.95
        and pairs[0].shared == SLOTS
    )


def test_a_condition_is_in_at_most_one_pair_the_most_alike_first() -> None:
    bundles = {name: met(0, seed=seed) for seed, name in enumerate("abc")}
    pairs = merge_candidates(bundles, threshold=0.5)
    assert len(pairs) == 1
    best = max(similarity_of(bundles[p], bundles[q])[0] for p, q in ("ab", "ac", "bc"))
    assert pairs[0].similarity == pytest.approx(best)


def test_signatures_are_compared_and_merged_the_same_way() -> None:
    (h, slots), (other, other_slots) = samples(0, 40, 0), samples(0, 40, 1)
    first, second = (
        DomainPrototypes.empty(SLOTS, WIDTH).extended(*part)
        for part in ((h, slots), (other, other_slots))
    )
    assert merge_candidates({"a": first, "b": second}) == [
        MergeCandidate("a", "b", *similarity_of(first, second))
    ]
    both = DomainPrototypes.empty(SLOTS, WIDTH).extended(
        np.concatenate([h, other]), np.concatenate([slots, other_slots])
    )
    assert np.allclose(merged_prototypes(first, second).sums, both.sums)


def test_conditions_without_shared_classes_are_never_one() -> None:
    h, slots = samples(0, 60, 0)
    low, high = (
        DomainPrototypes.empty(SLOTS, WIDTH).extended(h[chosen], slots[chosen])
        for chosen in (slots < 2, slots >= 2)
    )
    assert (
        similarity_of(low, high) == (0.0, 0)
        and merge_candidates({"a": low, "b": high}, threshold=-1.0) == []
    )


def test_bad_hypervectors_are_refused_with_their_shape() -> None:
    bundle = met(0)
    with pytest.raises(InputError, match=r"\(N, 32\)"):
        bundle.similarity(np.zeros((2, 16), np.float32))
    with pytest.raises(InputError, match="not finite"):
        bundle.extended(np.full((1, WIDTH), np.nan, np.float32), np.zeros(1, np.int64))
    with pytest.raises(InputError, match="class slots of 0 to 3"):
        bundle.extended(np.zeros((1, WIDTH), np.float32), np.array([7]))
    with pytest.raises(InputError, match="between -1 and 1"):
        merge_candidates({}, threshold=2.0)
    with pytest.raises(InputError, match="same slots and width"):
        similarity_of(bundle, ConditionBundle.empty(SLOTS, 8))
