"""Which recent inputs stay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from edgeadapt.device.adaptation.replay_buffer import ReplayBuffer


def offer(memory: ReplayBuffer, slots: Any, first: int = 0) -> None:
    """Inputs whose value is their number in the stream."""
    slots = np.asarray(slots, np.int64)
    numbers = np.arange(first, first + len(slots), dtype=np.int64)[:, None]
    memory.add(numbers, slots, numbers[:, 0].astype(np.float32))


def test_while_there_is_room_every_input_is_kept_in_order() -> None:
    memory = ReplayBuffer(64)
    offer(memory, np.arange(40) % 5)
    np.testing.assert_array_equal(memory.inputs()[:, 0], np.arange(40))
    assert len(memory) == 40 and memory.fresh == 40


def test_it_never_holds_more_than_its_capacity() -> None:
    memory = ReplayBuffer(16)
    for _ in range(20):
        offer(memory, np.random.default_rng(0).integers(0, 6, 33))
        assert len(memory) == 16 and memory.nbytes == 16 * 8


@pytest.mark.parametrize("seed", range(3))
def test_a_long_run_of_one_class_does_not_push_the_others_out(seed: int) -> None:
    memory = ReplayBuffer(60, seed)
    offer(memory, np.repeat(np.arange(6), 40))
    offer(memory, np.zeros(5000, np.int64))
    assert Counter(memory._classes) == dict.fromkeys(range(6), 10)


def test_within_a_class_old_and_new_are_equally_likely_to_stay() -> None:
    kept = []
    for seed in range(200):
        memory = ReplayBuffer(10, seed)
        offer(memory, np.zeros(200, np.int64))
        kept.append(memory.inputs().mean())
    assert np.mean(kept) == pytest.approx(99.5, abs=5.0)


def test_new_predictions_change_whom_it_crowds_out() -> None:
    memory = ReplayBuffer(8)
    offer(memory, np.zeros(8, np.int64))
    memory.relabel(np.array([0, 0, 0, 0, 0, 0, 1, 2]))
    offer(memory, [3, 3], first=100)
    assert Counter(memory._classes) == {0: 4, 1: 1, 2: 1, 3: 2}
    with pytest.raises(ValueError, match="8 inputs are kept, got 3 classes"):
        memory.relabel(np.zeros(3, np.int64))


def test_the_mean_distance_is_that_of_what_is_kept() -> None:
    memory = ReplayBuffer(4)
    offer(memory, [0, 1, 2, 3, 0, 1, 0])
    assert memory.mean_distance == pytest.approx(memory.inputs().mean())


def test_the_callers_buffer_can_be_used_again() -> None:
    memory, frames = ReplayBuffer(4), np.ones((4, 2, 2))
    memory.add(frames, np.zeros(4, np.int64), np.zeros(4, np.float32))
    frames[:] = 0
    assert memory.inputs().min() == 1


def test_the_same_seed_keeps_the_same_inputs() -> None:
    a, b = ReplayBuffer(16, 3), ReplayBuffer(16, 3)
    for memory in (a, b):
        offer(memory, np.random.default_rng(1).integers(0, 4, 500))
    np.testing.assert_array_equal(a.inputs(), b.inputs())
