"""The novelty suite in its quick form, and the arithmetic behind its rows."""

from __future__ import annotations

import numpy as np
import pytest
from edgeadapt_bench.harness.measure import report
from edgeadapt_bench.novelty import novelty, novelty_cases
from edgeadapt_bench.novelty.novelty_features import Seen, per_class

from edgeadapt.host.assembly.novelty_choice import auroc
from edgeadapt.host.exporting.settings import NOVELTY


def test_the_quick_form_scores_every_candidate_and_routes_every_router() -> None:
    lines: list[str] = []
    rows = {row.name: row for row in novelty.run_novelty(None, lines.append, quick=True)}
    assert report("novelty", list(rows.values()))["suite"] == "novelty" and lines
    for score in NOVELTY:
        assert 0.0 <= rows[f"shipped/novel/{score}/auroc"].value <= 1.0
        assert (
            rows[f"shipped/novel/{score}/auroc"].baseline
            == rows["shipped/novel/cosine/auroc"].value
        )
        # no score tells noise from novelty
        assert rows[f"shipped/fog/shifted_known_against_novel/{score}/auroc"].value < 0.6
    assert rows["shipped/novel/pick/any_size"].target == pytest.approx(
        rows["shipped/novel/pick/any_size"].baseline - novelty.BEHIND
    )
    assert rows["routing_4/signature/random"].value > 0.9
    assert rows["merging/signature/same_merged"].value > 0.5


def test_resamples_scatter_around_the_area_they_resample() -> None:
    rng = np.random.default_rng(0)
    # with ties
    known, novel = (
        np.round(rng.standard_normal(400), 1).astype(np.float32),
        np.round(rng.standard_normal(300) + 1, 1).astype(np.float32),
    )
    resampled = novelty._resampled(known, novel, 300)
    assert abs(resampled.mean() - auroc(known, novel)) < 0.005 and 0.01 < resampled.std() < 0.03
    assert np.allclose(
        novelty._resampled(np.zeros(5, np.float32), np.zeros(4, np.float32), 10), 0.5
    )


def test_false_positives_are_counted_below_the_threshold_of_the_known() -> None:
    known = np.arange(100, dtype=np.float32)
    assert novelty._auroc_fpr(known, np.array([0, 50, 200, 300], np.float32))[1] == 0.5


def test_class_splits_halve_the_classes_without_overlap() -> None:
    for known, novel in novelty_cases._class_splits(10, 5):
        assert sorted([*known, *novel]) == list(range(10)) and len(known) == 5


def test_rows_of_chosen_classes_are_relabelled_in_the_order_given() -> None:
    seen = Seen(
        np.arange(6, dtype=np.float32)[:, None],
        np.zeros((6, 0), np.float32),
        np.array([0, 1, 2, 0, 1, 2]),
    )
    chosen = seen.of(np.array([2, 0]))
    assert chosen.z[:, 0].tolist() == [0, 2, 3, 5] and chosen.y.tolist() == [1, 0, 1, 0]
    assert sorted(seen.y[per_class(seen.y, 1, 0)].tolist()) == [0, 1, 2]
