"""The suite about questions at toy size, and the rules it compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeadapt_bench.baselines.question_rules import (
    BASELINES,
    k_centre,
    least_margin,
    most_novel,
    paced,
    previous,
)
from edgeadapt_bench.datasets.image_dataset import SAMPLE, load_dataset
from edgeadapt_bench.labels.new_class_questions import with_new_classes
from edgeadapt_bench.labels.question_streams import Asked, allowing
from edgeadapt_bench.labels.questions import run_questions

from edgeadapt.demo.sample import KNOWN
from edgeadapt.device.querying.strategy import Candidates, Rule


def window(size: int, count: int, asked: int = 0) -> Candidates:
    rng = np.random.default_rng(size)
    probability = rng.dirichlet(np.ones(3), size)
    return Candidates(
        rng.normal(size=(size, 4)).astype(np.float32),
        probability,
        rng.normal(size=size).astype(np.float32),
        1.0 - probability.max(axis=1),
        np.zeros(size),
        rng.normal(size=(asked, 4)).astype(np.float32),
        4.0,
        count,
    )


@pytest.mark.slow
def test_the_quick_suite_asks_within_its_limits_and_better_than_chance() -> None:
    rows = {row.name: row for row in run_questions(None, lambda line: None, quick=True)}
    for name in ("precision/20/ours", "precision_new_classes/clean/ours"):
        assert rows[name].target == 0.6 and rows[name].value is not None
        assert rows[name].value > rows[name].baseline
    assert (
        rows["questions_per_condition/most"].value <= 20
        and rows["questions_per_condition/most"].holds
    )
    assert rows["recovery/20/ours"].value > rows["recovery/20/no_questions"].value
    assert rows["recovery/10_per_class/ours"].holds is True
    assert rows["accuracy/oracle"].value > rows["accuracy/frozen"].value
    assert "recovery/20_adaptation_off/ours" not in rows


@pytest.mark.parametrize("name", sorted(BASELINES))
@pytest.mark.parametrize(("size", "count", "asked"), [(1, 3, 0), (8, 3, 0), (8, 8, 2), (5, 9, 1)])
def test_a_rule_takes_distinct_rows_and_as_many_as_it_may(
    name: str, size: int, count: int, asked: int
) -> None:
    rows = BASELINES[name](0)(window(size, count, asked))
    assert len(rows) == len(set(rows)) == min(size, count) and all(0 <= row < size for row in rows)


@pytest.mark.parametrize("rule", [most_novel, least_margin, k_centre, previous])
def test_a_rule_that_draws_nothing_does_not_depend_on_a_seed(rule: Rule) -> None:
    assert rule(window(9, 4)) == rule(window(9, 4))


def test_k_centre_keeps_away_from_what_was_asked_before() -> None:
    seen = window(6, 1)
    again = Candidates(
        seen.embedding,
        seen.probability,
        seen.novelty,
        seen.doubt,
        seen.newness,
        seen.embedding[:5],
        4.0,
        1,
    )
    assert k_centre(again) == [5]


def test_a_paced_rule_asks_when_it_is_told_to() -> None:
    rule = paced(most_novel, [2, 0, 3])
    assert [len(rule(window(8, 10))) for _ in range(5)] == [2, 0, 3, 0, 0]
    assert len(paced(most_novel, [6])(window(8, 4))) == 4  # never more than may be asked


def test_chance_is_what_random_questions_in_the_same_windows_would_find() -> None:
    asked = Asked(taught=[True, False, True], counts=[1, 0, 2], base=[0.1, 0.9, 0.4])
    assert asked.precision == pytest.approx(2 / 3) and asked.chance == pytest.approx(0.3)
    assert np.isnan(Asked().precision) and np.isnan(Asked(counts=[0], base=[0.5]).chance)


def test_three_tenths_of_a_stream_are_of_new_classes() -> None:
    before, stream = with_new_classes(load_dataset(SAMPLE), "clean", 160, 0)
    assert (stream.y >= len(KNOWN)).sum() == 48 and len(before) >= 160
    again, same = with_new_classes(load_dataset(SAMPLE), "clean", 160, 0)
    np.testing.assert_array_equal(stream.x, same.x)
    np.testing.assert_array_equal(before, again)


def test_only_the_number_of_questions_differs_in_the_bundle_for_sixty() -> None:
    bundle = load_dataset(SAMPLE).bundle
    more = allowing(bundle, 60)
    assert (
        more.manifest.policy.ask.per_condition == 60
        and bundle.manifest.policy.ask.per_condition == 20
    )
    assert (
        more.manifest.policy.shift == bundle.manifest.policy.shift and more.sha256 == bundle.sha256
    )


def test_pictures_are_drawn_into_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the bench extra")
    from edgeadapt_bench.labels import questions

    found = questions.Passes(frozen=[0.5], oracle=[0.9])
    for arm in ("ours", "random", "none"):
        found.add(
            arm,
            Asked(
                taught=[] if arm == "none" else [True, False],
                counts=[2],
                base=[0.2],
                right=np.array([True, False, True]),
            ),
        )
    questions.draw_bars(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "questions_precision.png",
        "questions_recovery.png",
    ]
