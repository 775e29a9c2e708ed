"""A run of one class is not taken for a condition, and a condition is seen through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_trained import CLASSES, SLOTS, dimmed, images, trained
from torch import Tensor

from edgeadapt.host.methods.class_matched_statistics import ClassMatchedStatistics
from edgeadapt.host.methods.norm_statistics import NormStatistics
from edgeadapt.host.methods.ridge import Ridge


@pytest.fixture(scope="module")
def matched() -> ClassMatchedStatistics:
    x, y = images(300, 20)
    return ClassMatchedStatistics(trained().encoder, Ridge(), 1.0, x.numpy(), y.numpy().astype(np.int64), SLOTS)


def accuracy(method: NormStatistics | ClassMatchedStatistics, state: dict[str, Tensor], x: Tensor, y: Tensor) -> float:
    logits = Ridge().predict(state, trained().features(method, state, x))
    return float((logits.argmax(dim=1) == y).float().mean())


def moved(method: NormStatistics | ClassMatchedStatistics, x: Tensor) -> float:
    """How far a refresh moves the statistics, in standard deviations of the source."""
    start = trained().state(method)
    state, _ = trained().refreshed(method, start, x)
    return float(((state["norm.mean"] - start["norm.mean"]) / torch.sqrt(start["norm.variance"] + 1e-5)).abs().mean())


@pytest.mark.parametrize("kind", range(CLASSES))
def test_clean_images_of_one_class_move_it_far_less_than_plain_statistics(matched: ClassMatchedStatistics, kind: int) -> None:
    x, y = images(192, 21)
    one = x[y == kind]
    assert moved(matched, one) < 0.55 * moved(NormStatistics(trained().encoder), one)


def test_clean_images_of_one_class_cost_nothing_where_plain_statistics_cost_much(matched: ClassMatchedStatistics) -> None:
    x, y = images(192, 21)
    new_x, new_y = images(300, 22)
    ours, theirs = [], []
    for kind in range(CLASSES):
        for method, marks in ((matched, ours), (NormStatistics(trained().encoder), theirs)):
            state, _ = trained().refreshed(method, trained().state(method), x[y == kind])
            marks.append(accuracy(method, state, new_x, new_y))
    frozen = accuracy(matched, trained().state(matched), new_x, new_y)
    assert min(ours) > frozen - 0.03 > max(theirs) + 0.1


def test_a_condition_is_corrected_from_two_refreshes_on_images_of_two_classes(matched: ClassMatchedStatistics) -> None:
    x, y = images(192, 23)
    new_x, new_y = images(300, 24)
    some, new_x = dimmed(x)[y != 2], dimmed(new_x)
    state = trained().state(matched)
    frozen = accuracy(matched, state, new_x, new_y)
    for _ in range(2):
        state, _ = trained().refreshed(matched, state, some)
    plain = NormStatistics(trained().encoder)
    instead = accuracy(plain, trained().refreshed(plain, trained().state(plain), some)[0], new_x, new_y)
    assert accuracy(matched, state, new_x, new_y) > max(frozen + 0.2, instead + 0.03)


def test_a_memory_of_all_classes_gives_what_plain_statistics_give(matched: ClassMatchedStatistics) -> None:
    x, _ = images(300, 25)
    state, _ = trained().refreshed(matched, trained().state(matched), x)
    plain = NormStatistics(trained().encoder)
    want, _ = trained().refreshed(plain, trained().state(plain), x)
    spread = torch.sqrt(want["norm.variance"] + 1e-5)
    assert float(((state["norm.mean"] - want["norm.mean"]) / spread).abs().mean()) < 0.1


def test_a_class_without_inputs_expects_what_the_source_shows(matched: ClassMatchedStatistics) -> None:
    for part in ("mean", "square"):
        of_class, source = matched.frozen[f"norms.class_{part}"], matched.frozen[f"norms.source_{part}"]
        assert of_class.shape == (SLOTS, len(source))
        assert torch.equal(of_class[CLASSES], source) and not torch.allclose(of_class[0], source)
