"""Streams: how a run is judged, what the baselines do, and that heads by sums are heads by
samples.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeadapt_bench.baselines.stream_baselines import (
    Buffer,
    NeighbourBank,
    SoftmaxLayer,
    joint_probe,
    layer_bytes,
    row_bytes,
)
from edgeadapt_bench.baselines.stream_plan import by_class, by_group, by_unit, judge, run_plan
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import quick_pool
from edgeadapt_bench.datasets.small_pools import drawn_pool
from edgeadapt_bench.harness.plots import save_bars, save_lines
from edgeadapt_bench.suites import run
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.errors import InputError, RuntimeUnavailable


@pytest.fixture(scope="module")
def easy() -> Pool:
    return drawn_pool("mnist", 4, 1, 12, 1, per_cell=50, test_per_cell=25)


def test_accuracy_on_the_way_forgetting_and_the_end_of_a_run_by_hand(easy: Pool) -> None:
    plan = by_class(easy, 2, 0)
    right = easy.test_y.copy()
    half_of_zero = right.copy()
    half_of_zero[np.flatnonzero(right == 0)[:10]] = 1  # 10 of the 50 of the first task
    outcome = judge(plan, [right, half_of_zero])
    assert outcome.accuracy[0, 0] == 1.0 and np.isnan(outcome.accuracy[0, 1])
    assert (
        outcome.forgetting == pytest.approx(10 / 50)
        and outcome.final == pytest.approx(0.9)
        and outcome.incremental == pytest.approx(0.95)
    )


def test_what_has_not_arrived_is_not_asked_for_in_a_stream_of_classes_but_is_in_one_of_domains(
    easy: Pool,
) -> None:
    pool = quick_pool("emoji")
    plan = by_group(pool, 1)
    outcome = run_plan(plan, NeighbourBank(pool.dim, 200))
    assert np.isfinite(outcome.accuracy).all() and outcome.accuracy.shape == (4, 4)
    assert np.isnan(run_plan(by_class(easy, 1, 0), NeighbourBank(12, 40)).accuracy[0, 1:]).all()


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_row_arrives_once_in_every_order(seed: int) -> None:
    pool = drawn_pool("letters", 6, 1, 3, 1, per_cell=7, test_per_cell=2)
    plan = by_class(pool, 2, seed)
    rows = np.concatenate([plan.rows(stage) for stage in range(3)])
    assert sorted(rows) == list(range(len(pool.y))) and sorted(sum(plan.stages, ())) == list(
        range(6)
    )
    assert all(set(pool.y[plan.rows(stage)]) == set(plan.stages[stage]) for stage in range(3))


def test_streams_that_are_none_are_refused(easy: Pool) -> None:
    with pytest.raises(InputError, match="tasks of 3"):
        by_class(easy, 3, 0)
    with pytest.raises(InputError, match="one domain"):
        by_group(easy, 0)


@given(capacity=st.integers(1, 60), labels=st.lists(st.integers(0, 4), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_buffer_is_never_larger_than_it_may_be_and_shares_itself_equally(
    capacity: int, labels: list[int]
) -> None:
    y = np.array(labels)
    buffer = Buffer(capacity, 1)
    buffer.add(np.arange(len(y), dtype=np.float32)[:, None], y)
    z, kept = buffer.rows()
    assert len(kept) == len(buffer) <= capacity
    assert np.array_equal(y[z[:, 0].astype(int)], kept), "a stored row keeps its label"
    assert len(set(z[:, 0].tolist())) == len(z), "no row is stored twice"
    classes, counts = np.unique(kept, return_counts=True)
    if capacity >= len(set(labels)):
        quota = max(capacity // len(set(labels)), 1)
        assert set(classes) == set(labels)
        assert all(count <= max(quota, 1) or capacity > len(y) for count in counts)


def test_a_reservoir_keeps_every_row_with_the_same_chance() -> None:
    kept = np.zeros(50)
    for seed in range(400):
        buffer = Buffer(10, 1, seed)
        buffer.add(np.arange(50, dtype=np.float32)[:, None], np.zeros(50, np.int64))
        kept[buffer.rows()[0][:, 0].astype(int)] += 1
    assert abs(kept / 400 - 0.2).max() < 0.08


@pytest.mark.parametrize("is_cosine", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_the_bank_answers_as_a_search_written_out_does(
    is_cosine: bool, count: int, easy: Pool
) -> None:
    bank = NeighbourBank(easy.dim, len(easy.y), count, is_cosine)
    bank.learn(easy.z, easy.y)
    for z, answer in zip(easy.test_z[:40], bank.predict(easy.test_z[:40]), strict=True):
        unit = easy.z / np.linalg.norm(easy.z, axis=1, keepdims=True)
        near = np.argsort(
            -(unit @ z) if is_cosine else ((easy.z - z) ** 2).sum(axis=1), kind="stable"
        )[:count]
        votes = easy.y[near].tolist()
        assert answer == max(votes, key=lambda k: (votes.count(k), -votes.index(k)))


def test_one_step_of_the_softmax_layer_is_the_gradient(easy: Pool) -> None:
    layer = SoftmaxLayer(easy.dim, 4, 0.1)
    layer.learn(easy.z[:8], easy.y[:8])
    scale = 1.0 / easy.z[:8].std()
    h = np.c_[easy.z[:8] * scale, np.ones(8)]
    gradient = h.T @ (np.full((8, 4), 0.25) - np.eye(4)[easy.y[:8]]) / 8
    assert np.allclose(layer._weight, -0.1 * gradient, atol=1e-6)


def test_replay_forgets_less_than_none_and_counts_what_it_stores(easy: Pool) -> None:
    plan = by_class(drawn_pool("mnist", 4, 1, 12, 1, per_cell=400), 2, 0)
    plain, replayed = (run_plan(plan, SoftmaxLayer(easy.dim, 4, 0.1, replay)) for replay in (0, 60))
    assert replayed.forgetting < plain.forgetting and replayed.final > plain.final
    assert (
        SoftmaxLayer(12, 4, 0.1, 60).nbytes
        == layer_bytes(12, 4) + 60 * row_bytes(12)
        == 2 * 4 * 13 * 4 + 60 * 25
    )


def test_all_at_once_is_better_than_one_pass_in_order(easy: Pool) -> None:
    probe = joint_probe(easy.z, easy.y, 4, 0.1, steps=300)
    assert (probe.predict(easy.test_z) == easy.test_y).mean() > run_plan(
        by_class(easy, 2, 0), SoftmaxLayer(easy.dim, 4, 0.1)
    ).final


def test_rows_of_one_unit_are_one_unit_of_an_interval(easy: Pool) -> None:
    pool = quick_pool("emoji")
    pooled = replace(pool, test_unit=np.arange(len(pool.test_y)) // 4)
    share = by_unit(pooled, np.tile([1.0, 1.0, 0.0, 0.0], len(pool.test_y) // 4))
    assert len(share) == len(pool.test_y) // 4 and set(share) == {0.5}


@pytest.mark.slow
def test_every_head_and_rival_runs_quickly_and_heads_do_not_depend_on_the_order(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch", reason="heads are torch functions")
    from edgeadapt_bench.streams.streams import run_streams

    plots = str(tmp_path) if importlib.util.find_spec("matplotlib") else None
    rows = {row.name: row for row in run_streams(None, lambda line: None, quick=True, plots=plots)}
    for stream in ("fashion_5x2", "emoji_styles"):
        assert rows[f"order_changed_answers/{stream}"].holds
        assert rows[f"{stream}/ridge/final"].value > rows[f"{stream}/softmax SGD/final"].value
        assert (
            rows[f"{stream}/ridge/forgetting"].value
            < rows[f"{stream}/softmax SGD/forgetting"].value + 1e-9
        )
    assert rows["fashion_5x2/ridge/state"].value == pytest.approx(
        4 * (97 * 97 + 97 * 10 + 97 * 10) / 1000
    )
    assert rows["fashion_5_shot/nearest mean"].value > 60
    if plots is not None:
        assert {path.suffix for path in tmp_path.iterdir()} == {
            ".png",
            ".md",
        } and "| **ridge** |" in (tmp_path / "streams.md").read_text()


def test_pictures_of_a_suite_that_draws_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no option --plots"):
        run("heads", plots=tmp_path)


def test_pictures_are_drawn_or_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeUnavailable, match=r"edgeadapt\[bench\]"):
        save_lines(tmp_path / "a.png", {"one": ([1, 2], [3, 4])})
    monkeypatch.undo()
    with pytest.raises(InputError, match="nothing to draw"):
        save_bars(tmp_path / "a.png", {})
    pytest.importorskip("matplotlib", reason="pictures need the bench extra")
    assert (
        save_bars(tmp_path / "bars.svg", {"one": 1.0, "two": 2.0}, level={"oracle": 2.5})
        .read_text()
        .startswith("<?xml")
    )
    save_lines(
        tmp_path / "new" / "lines.png",
        {"one": ([1, 10], [3, 4])},
        log_x=True,
        spread={"one": [0.1, 0.2]},
        x_ticks=(1, 10),
    )
    assert (tmp_path / "new" / "lines.png").read_bytes().startswith(b"\x89PNG")
