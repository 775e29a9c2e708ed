"""A run of one class is not taken for a condition, and a condition is seen through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_trained import CLASSES, SLOTS, dimmed, images, trained
from torch import Tensor

from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.label_free.encoder_space.batch_statistics import BatchStatisticsPass
from edgeadapt.host.methods.label_free.encoder_space.class_matched_statistics import (
    ClassMatchedStatistics,
    _rounded,
    expected_moments,
)
from edgeadapt.host.methods.label_free.encoder_space.norm_statistics import NormStatistics


@pytest.fixture(scope="module")
def matched() -> ClassMatchedStatistics:
    x, y = images(300, 20)
    return ClassMatchedStatistics(
        trained().encoder, Ridge(), 1.0, x.numpy(), y.numpy().astype(np.int64), SLOTS
    )


def accuracy(
    method: NormStatistics | ClassMatchedStatistics, state: dict[str, Tensor], x: Tensor, y: Tensor
) -> float:
    logits = Ridge().predict(state, trained().features(method, state, x))
    return float((logits.argmax(dim=1) == y).float().mean())


def moved(method: NormStatistics | ClassMatchedStatistics, x: Tensor) -> float:
    """How far a refresh moves the statistics, in standard deviations of the source."""
    start = trained().state(method)
    state, _ = trained().refreshed(method, start, x)
    return float(
        ((state["norm.mean"] - start["norm.mean"]) / torch.sqrt(start["norm.variance"] + 1e-5))
        .abs()
        .mean()
    )


@pytest.mark.parametrize("kind", range(CLASSES))
def test_clean_images_of_one_class_move_it_far_less_than_plain_statistics(
    matched: ClassMatchedStatistics, kind: int
) -> None:
    x, y = images(192, 21)
    one = x[y == kind]
    assert moved(matched, one) < 0.55 * moved(NormStatistics(trained().encoder), one)


def test_clean_images_of_one_class_cost_nothing_where_plain_statistics_cost_much(
    matched: ClassMatchedStatistics,
) -> None:
    x, y = images(192, 21)
    new_x, new_y = images(300, 22)
    ours, theirs = [], []
    for kind in range(CLASSES):
        for method, marks in ((matched, ours), (NormStatistics(trained().encoder), theirs)):
            state, _ = trained().refreshed(method, trained().state(method), x[y == kind])
            marks.append(accuracy(method, state, new_x, new_y))
    frozen = accuracy(matched, trained().state(matched), new_x, new_y)
    assert min(ours) > frozen - 0.03 > max(theirs) + 0.1


def test_a_condition_is_corrected_from_two_refreshes_on_images_of_two_classes(
    matched: ClassMatchedStatistics,
) -> None:
    x, y = images(192, 23)
    new_x, new_y = images(300, 24)
    some, new_x = dimmed(x)[y != 2], dimmed(new_x)
    state = trained().state(matched)
    frozen = accuracy(matched, state, new_x, new_y)
    for _ in range(2):
        state, _ = trained().refreshed(matched, state, some)
    plain = NormStatistics(trained().encoder)
    instead = accuracy(
        plain, trained().refreshed(plain, trained().state(plain), some)[0], new_x, new_y
    )
    assert accuracy(matched, state, new_x, new_y) > max(frozen + 0.2, instead + 0.03)


def test_a_memory_of_all_classes_gives_what_plain_statistics_give(
    matched: ClassMatchedStatistics,
) -> None:
    x, _ = images(300, 25)
    state, _ = trained().refreshed(matched, trained().state(matched), x)
    plain = NormStatistics(trained().encoder)
    want, _ = trained().refreshed(plain, trained().state(plain), x)
    spread = torch.sqrt(want["norm.variance"] + 1e-5)
    assert float(((state["norm.mean"] - want["norm.mean"]) / spread).abs().mean()) < 0.1


def true_moments(kind: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,), in float64, of what each norm of the source takes: of one class of
    the factory's images.
    """
    x, y = images(300, 20)
    through = BatchStatisticsPass(trained().encoder, is_source=True)
    values = {**trained().encoder.frozen, **through.frozen}
    rows = x[y == kind]
    passed = through(
        rows, torch.ones(len(rows)), values, values["norms.gain"], values["norms.offset"]
    )
    return passed.mean.double(), passed.variance.double()


@pytest.mark.parametrize("kind", range(CLASSES))
def test_what_is_expected_of_one_class_is_what_it_showed(
    matched: ClassMatchedStatistics, kind: int
) -> None:
    mean, variance = expected_moments(matched.frozen, torch.eye(SLOTS)[kind])
    want_mean, want_variance = true_moments(kind)
    moved = (want_mean - matched.frozen["norms.mean"]).abs()
    assert float(((mean - want_mean).abs() / (moved + 1e-3)).max()) < 2**-11 + 1e-4
    assert float((variance / want_variance - 1).abs().max()) < 2**-11 + 1e-4


def test_a_mixture_of_classes_spreads_as_their_moments_say(matched: ClassMatchedStatistics) -> None:
    # the fourth is of a slot without inputs, and a fifth is trusted to none
    shares = torch.tensor([0.5, 0.2, 0.0, 0.1, 0.0])
    mean, variance = expected_moments(matched.frozen, shares)
    source = (matched.frozen["norms.mean"].double(), matched.frozen["norms.variance"].double())
    parts = [(0.5, *true_moments(0)), (0.2, *true_moments(1)), (0.3, *source)]
    want = sum(p * m for p, m, _ in parts)
    square = sum(p * (v + (m - want) ** 2) for p, m, v in parts)
    assert float(((mean - want) / torch.sqrt(source[1])).abs().max()) < 3e-3
    assert float((variance / square - 1).abs().max()) < 3e-3


def test_where_no_class_is_trusted_the_source_is_expected_bit_for_bit(
    matched: ClassMatchedStatistics,
) -> None:
    mean, variance = expected_moments(matched.frozen, torch.zeros(SLOTS))
    assert torch.equal(mean, matched.frozen["norms.mean"])
    assert torch.equal(variance, matched.frozen["norms.variance"])


def test_only_classes_with_inputs_are_kept_in_numbers_that_float16_has(
    matched: ClassMatchedStatistics,
) -> None:
    channels = len(matched.frozen["norms.mean"])
    for part in ("mean", "variance"):
        of_class = matched.frozen[f"norms.class_{part}"]
        assert of_class.shape == (CLASSES, channels) and of_class.std() > 0.01
        assert torch.equal(of_class, of_class.half().float())


def test_moments_that_float16_cannot_hold_stay_as_they_are() -> None:
    dead = torch.tensor([0.1, 7.0e4])  # of a channel that the source never moved
    assert torch.equal(_rounded(dead), dead) and not torch.equal(_rounded(dead[:1]), dead[:1])
