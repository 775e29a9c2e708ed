"""The daemon beside a bare loop, in small: on the shipped bundle, with few frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeadapt_bench.serving import _serve_bare, serve_rows
from edgeadapt_bench.serving._serve_daemon import LABEL_EVERY
from edgeadapt_bench.serving.frame_sequence import CONDITIONS, LEG, FrameSequence
from edgeadapt_bench.serving.model_files import ModelFiles, shipped
from edgeadapt_bench.serving.player import Player
from edgeadapt_bench.serving.serve import match
from edgeadapt_bench.serving.serve_rows import Match, memory_rows, rows_of

from edgeadapt.demo.sample import KNOWN
from edgeadapt.errors import RuntimeUnavailable


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return shipped(tmp_path_factory.mktemp("model"))


def test_both_play_the_same_frames_and_the_daemon_adapts_and_learns_meanwhile(
    model: ModelFiles,
) -> None:
    found = match(model, 2, LEG, 8, p99_ratio=1000.0)  # a busy machine pauses no learning here
    assert [len(said["answers"]) for said in (*found.bare, *found.daemon)] == [LEG] * 4 and len(
        found.camera_daemon[0]["answers"]
    ) == 8
    assert (
        [said["shifted"] for said in found.bare]
        == [said["shifted"] for said in found.daemon]
        == [LEG, 0]
    )
    assert (
        found.told["refreshes"] > 0
        and found.told["commits"]["learned"] > 0
        and found.is_measurement
        and not found.told["problems"]
    )
    assert found.told["labels"]["received"] - found.told["questions"] >= 2 * LEG // LABEL_EVERY, (
        "labels by name, beside the answers"
    )
    assert (
        found.told["loop"]["answered"] == 3 * LEG + 8
        and found.told["loop"]["refused"] == 0
        and found.readings >= 4
    )
    rows = {
        row.name.split("/")[0]: row
        for row in rows_of(
            "x",
            Match(found.bare, found.daemon, [], [], found.told, found.readings),
            with_targets=True,
        )
    }
    assert rows["p50_ms"].value == pytest.approx(
        1e3 * np.median(np.concatenate([said["answers"] for said in found.daemon]))
    )
    assert rows["rate_hz"].baseline == pytest.approx(
        np.median([LEG / said["seconds"] for said in found.bare])
    )
    assert (
        rows["rate_hz"].value is not None
        and rows["rate_hz"].baseline is not None
        and 0 < rows["rate_hz"].value < rows["rate_hz"].baseline
    )
    assert rows["lost"].value == 0 and rows["labels"].value > 0 and rows["loop_cpu_ms"].value > 0


def test_what_the_bare_loop_says_is_what_the_head_of_the_bundle_says(model: ModelFiles) -> None:
    with Player(
        _serve_bare.__name__, encoder=str(model.encoder), frames=str(model.frames), on_one_core=True
    ) as bare:
        bare.play(LEG)
        said = bare.play(LEG, 20_000.0)
        bare.end()
    sequence = FrameSequence.of(str(model.frames))
    assert (
        said["shifted"] == LEG
        and 1.0 / len(KNOWN) < said["right"] / LEG < 0.9
        and sequence.weight.shape[1] == len(sequence.bias) == len(KNOWN)
    )


def test_the_sequence_changes_its_condition_leg_by_leg_and_hands_over_copies(
    model: ModelFiles,
) -> None:
    sequence = FrameSequence.of(str(model.frames))
    count = len(sequence.y)
    assert len(sequence.x) == 1 + len(CONDITIONS) and [
        sequence.is_shifted(LEG * leg) for leg in range(4)
    ] == [False, True, False, True]
    for leg, kind in ((0, 0), (1, 1), (2, 0), (3, 2), (5, 3), (7, 1)):
        assert (sequence.frame(LEG * leg) == sequence.x[kind, LEG * leg % count]).all(), leg
    frame = sequence.frame(3)
    frame[:] = 0
    assert (
        sequence.frame(3).any()
        and sequence.label(3) == sequence.names[sequence.y[3]]
        and {sequence.label(n) for n in range(count)} == set(KNOWN)
    )


def turns(rate: float, p99_ms: float) -> dict[str, Any]:
    """A turn of 100 answers, of which two are slow."""
    return {
        "answers": [1e-3] * 98 + [1e-3 * p99_ms] * 2,
        "seconds": 100 / rate,
        "caught_up": 0.0,
        "cpu": 0.1,
        "loop_cpu": 1e-3,
        "worked": 0.01,
        "right": 5,
        "shifted": 10,
        "mib": 100.0,
    }


def told(refreshes: int = 1, learned: int = 1) -> dict[str, Any]:
    return {
        "refreshes": refreshes,
        "commits": {"learned": learned},
        "evidence": {"learned": learned},
        "deferred": 0,
        "conditions": 1,
        "questions": 0,
        "latency": {"pauses": 0},
        "loop": {"refused": 0, "failures": 0},
        "sinks": [],
        "checkpoints": 1,
    }


def verdicts(found: Match) -> dict[str, tuple[float | None, bool | None]]:
    return {
        row.name.split("/")[0]: (row.value, row.holds)
        for row in rows_of("x", found, with_targets=True)
        if row.target is not None
    }


def test_the_median_of_the_rounds_is_held_to_the_targets() -> None:
    bare = [turns(rate, 2.0) for rate in (100, 200, 400)]
    good = Match(bare, [turns(90, 2.8), turns(172, 2.8), turns(100, 20.0)], [], [], told())
    assert verdicts(good) == {
        "rate_ratio": (pytest.approx(0.86), True),
        "p99_ratio": (pytest.approx(1.4), True),
        "refreshes": (1, True),
        "commits": (1, True),
    }
    bad = Match(bare, [turns(90, 3.2), turns(168, 3.2), turns(100, 2.0)], [], [], told())
    assert verdicts(bad)["rate_ratio"] == (pytest.approx(0.84), False) and verdicts(bad)[
        "p99_ratio"
    ] == (pytest.approx(1.6), False)


def test_work_that_goes_on_after_the_last_answer_counts() -> None:
    found = Match([turns(100, 2.0)], [{**turns(100, 2.0), "caught_up": 1.0}], [], [], told())
    assert verdicts(found)["rate_ratio"] == (pytest.approx(0.5), False)


@pytest.mark.parametrize(("refreshes", "learned"), [(0, 0), (3, 0), (0, 3)])
def test_a_run_in_which_nothing_was_learned_or_adapted_is_no_measurement(
    refreshes: int, learned: int
) -> None:
    said = verdicts(Match([turns(100, 2.0)], [turns(100, 2.0)], [], [], told(refreshes, learned)))
    assert said["rate_ratio"] == (pytest.approx(1.0), False) and said["p99_ratio"] == (
        pytest.approx(1.0),
        False,
    )
    assert said["refreshes"] == (refreshes, refreshes > 0) and said["commits"] == (
        learned,
        learned > 0,
    )
    assert (
        memory_rows("x", [100.0] * 30, 3000, told(refreshes, learned), with_targets=True)[0].holds
        is False
    )


def test_memory_counts_from_the_end_of_the_warm_up() -> None:
    filling = [100.0 + n for n in range(10)]
    flat, leaking = [*filling, *[110.0] * 20], [*filling, *[110.0 + 2.0 * n for n in range(20)]]
    row = memory_rows("x", flat, 3000, told(), with_targets=True)[0]
    assert (row.value, row.baseline, row.target, row.holds) == (
        0.0,
        110.0,
        serve_rows.GROWTH_MIB,
        True,
    )
    row, slope = memory_rows("x", leaking, 3000, told(), with_targets=True)[:2]
    assert (
        row.value == pytest.approx(32.0)
        and row.holds is False
        and slope.value == pytest.approx(200.0)
    )


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"a measuring process failed: .*missing"):
        Player(
            _serve_bare.__name__,
            encoder=str(tmp_path / "missing.onnx"),
            frames=str(tmp_path / "missing.npz"),
            on_one_core=False,
        )
