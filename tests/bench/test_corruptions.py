"""Corruptions keep shape, repeat by seed, and grow with severity."""

from __future__ import annotations

import numpy as np
import pytest

from edgeadapt.demo.sample import load_sample
from edgeadapt.scenarios.corruptions import REPORTING, SEVERITIES, TUNING, corrupt
from edgeadapt.scenarios.orders import arrange


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return load_sample().x[::100]


def test_fifteen_report_and_four_others_tune() -> None:
    assert len(REPORTING) == 15
    assert len(TUNING) == 4
    assert not set(REPORTING) & set(TUNING)


@pytest.mark.parametrize("name", sorted(SEVERITIES))
def test_a_corruption_changes_images_repeatably_and_more_at_severity_five(
    name: str, images: np.ndarray
) -> None:
    mild, strong = corrupt(images, name, 1, 7), corrupt(images, name, 5, 7)
    assert mild.shape == images.shape
    assert mild.dtype == np.uint8
    assert np.array_equal(mild, corrupt(images, name, 1, 7))
    change = [np.abs(x.astype(float) - images).mean() for x in (mild, strong)]
    assert 0.3 < change[0] < change[1], f"{name} changes {change}"


@pytest.mark.parametrize("name", sorted(SEVERITIES))
def test_colour_images_keep_their_channels(name: str, images: np.ndarray) -> None:
    colour = np.repeat(images[:4, :, :, None], 3, axis=3)
    assert corrupt(colour, name, 3).shape == colour.shape


def test_clean_is_the_same_array_and_unknown_names_are_refused(images: np.ndarray) -> None:
    assert corrupt(images, "clean") is images
    with pytest.raises(ValueError, match="no corruption called 'rain'"):
        corrupt(images, "rain")
    with pytest.raises(ValueError, match="severity is 1 to 5, got 6"):
        corrupt(images, "fog", 6)


def test_a_sorted_stream_shows_one_class_after_the_other_and_a_shuffled_one_does_not() -> None:
    y = np.repeat(np.arange(5), 40)
    in_order, mixed = (y[arrange(y, order, 200, 3)] for order in ("sorted", "shuffled"))
    assert (np.diff(in_order) != 0).sum() == 4
    assert (np.diff(mixed) != 0).sum() > 100
    assert np.array_equal(np.bincount(in_order), np.bincount(mixed))


def test_a_stream_longer_than_its_pool_passes_through_it_again() -> None:
    rows = arrange(np.zeros(10, np.int64), "shuffled", 25, 0)
    assert len(rows) == 25
    assert np.bincount(rows).max() <= 3
