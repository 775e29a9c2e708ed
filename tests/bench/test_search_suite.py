"""The search suite runs on what ships, and its summaries say what they claim."""

from __future__ import annotations

import numpy as np
import pytest
from edgeadapt_bench.adaptors.search import run_search
from edgeadapt_bench.adaptors.search_rows import summary
from edgeadapt_bench.adaptors.search_streams import Source, quick
from edgeadapt_bench.adaptors.search_summary import (
    BOTH,
    NONE,
    REFITTED,
    SHARED,
    UPDATED,
    Trial,
    kendall,
    left_out,
    ranks,
    spearman,
)
from edgeadapt_bench.adaptors.search_tuning import grid

from edgeadapt.device.adaptors.scores import SCORES

SECONDS = {**dict.fromkeys(SCORES, 0.1), "training": 2.0}


def made(
    stream: str, trained: dict[str, float], scores: dict[str, dict[str, float]], pick: str = "a"
) -> Trial:
    others = {NONE: 0.5, UPDATED: 0.7, REFITTED: 0.6, SHARED: 0.65, BOTH: 0.7}
    picked = {**dict.fromkeys(SCORES, pick), "ridge, labels in the head": ""}
    return Trial(
        stream,
        50,
        trained,
        scores,
        others,
        {NONE: 0.9, UPDATED: 0.88, SHARED: 0.8},
        picked,
        0.1,
        SECONDS,
    )


def scored(**ridge: float) -> dict[str, dict[str, float]]:
    """The ridge score as given, the others the other way round."""
    return {
        score: {name: value if score == "ridge" else -value for name, value in ridge.items()}
        for score in SCORES
    }


def test_the_quick_suite_trains_ranks_and_compares() -> None:
    rows = {row.name: row for row in run_search(None, lambda line: None, quick=True)}
    assert rows["streams"].value == 2
    assert rows["seconds/ranking all candidates"].holds
    best = rows["accuracy/shipped/best adaptor afterwards"].value
    none = rows["accuracy/shipped/no adaptor"].value
    assert best > none + 5, "ten steps on fifty labels already help under fog and low contrast"
    assert all(-1.0 <= rows[f"spearman/{score}"].value <= 1.0 for score in SCORES)
    assert (
        rows["share/no adaptor picked, labels already in the head"].value
        >= rows["share/no adaptor picked"].value
    )


def test_a_score_that_ranks_right_has_no_regret_and_one_that_ranks_wrong_has_all_of_it() -> None:
    trials = [
        made(f"toy/{i}", {"a": 0.8, "b": 0.7, "c": 0.6}, scored(a=3, b=2, c=1)) for i in range(3)
    ]
    rows = {row.name: row.value for row in summary(trials)}
    assert rows["spearman/ridge"] == 1.0 and rows["kendall/naswot"] == -1.0
    assert rows["regret/best by ridge"] == 0.0 and rows["regret/best by spectral"] == pytest.approx(
        20.0
    )
    assert rows["regret/score of the other streams"] == 0.0
    assert rows["difference/picked by ridge - updated head"] == pytest.approx(10.0)
    assert rows["source accuracy/toy/updated head"] == pytest.approx(88.0)


def test_what_is_used_on_a_stream_is_chosen_on_the_others() -> None:
    trials = [
        made("toy/odd", {"a": 0.5, "b": 0.9}, scored(a=1, b=2)),
        *(made(f"toy/{i}", {"a": 0.9, "b": 0.8}, scored(a=1, b=2)) for i in range(3)),
    ]
    chosen = left_out(trials, ["a", "b"], lambda t, name: t.regret(name))
    assert chosen["toy/odd"] == "a", "though b is better there"
    assert chosen["toy/0"] == "b", "the odd stream outweighs two others"


def test_draws_of_a_stream_count_as_one_stream() -> None:
    often = [made("toy/often", {"a": 0.9, "b": 0.8}, scored(a=2, b=1)) for _ in range(9)]
    rows = {
        row.name: row.value
        for row in summary([*often, made("toy/once", {"a": 0.8, "b": 0.9}, scored(a=2, b=1))])
    }
    assert rows["spearman/ridge"] == pytest.approx(0.0)


def test_ranks_share_ties_and_a_constant_has_no_order() -> None:
    assert ranks([3, 1, 3]).tolist() == [2.5, 1.0, 2.5]
    assert kendall([1, 1], [1, 2]) == spearman([5, 5, 5], [1, 2, 3]) == 0.0


def test_a_head_that_learns_labels_is_the_head_fitted_on_both() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    z = (np.eye(8)[y] + 0.3 * rng.standard_normal((60, 8))).astype(np.float32)
    source = Source.of(z, y, z, y)
    more = (z[:9] + 1).astype(np.float32)
    before, after = source.logits(more), source.logits(more, source.taught(more, y[:9]))
    assert (after.argmax(axis=1) == y[:9]).mean() > (
        before.argmax(axis=1) == y[:9]
    ).mean() or np.abs(after - before).max() > 0.01
    assert source.taught(more, y[:9])["ridge.gram"][-1, -1] == pytest.approx(
        float(source.weight.sum()) + 9, rel=1e-5
    )


def test_the_grid_that_chose_the_training_orders_settings_by_what_they_reach() -> None:
    stream = next(quick())
    marks = grid(
        [stream],
        {
            "scale_shift": (0.03, 1e-6),
            "low_rank": (0.003,),
            "bottleneck": (0.003,),
            "linear": (0.003,),
        },
        steps=(1, 30),
    )
    assert set(marks) == {"scale_shift", "low_rank", "bottleneck", "linear"}
    values = list(marks["scale_shift"].values())
    assert values == sorted(values, reverse=True)
    assert marks["scale_shift"][(0.03, 0.0, 30)] > marks["scale_shift"][(1e-6, 0.0, 30)] + 0.1, (
        "a rate that moves nothing is far behind"
    )
