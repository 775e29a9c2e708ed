"""Rows, reports and paired timings: what every suite writes and how it measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from edgeadapt_bench import suites
from edgeadapt_bench.harness import measure
from edgeadapt_bench.harness.measure import Row, at_most, near, paired, report, table

from edgeadapt.errors import InputError


def test_report_is_the_json_every_suite_writes(tmp_path: Path) -> None:
    rows = [
        at_most("observe_ratio/lite0/b1", 1.1, "x plain", 1.15, 1.0),
        Row("observe_ratio/demo/b1", 2.5, "x plain"),
    ]
    measure.write_json(tmp_path / "report.json", report("overhead", rows))
    read = json.loads((tmp_path / "report.json").read_text())
    assert list(read) == ["suite", "machine", "versions", "rows"]
    assert (
        read["suite"] == "overhead"
        and read["machine"]["cores"] >= 1
        and {"python", "numpy", "onnxruntime"} <= set(read["versions"])
    )
    assert read["rows"] == [
        {
            "name": "observe_ratio/lite0/b1",
            "value": 1.1,
            "unit": "x plain",
            "baseline": 1.0,
            "target": 1.15,
            "holds": True,
        },
        {
            "name": "observe_ratio/demo/b1",
            "value": 2.5,
            "unit": "x plain",
            "baseline": None,
            "target": None,
            "holds": None,
        },
    ]


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        measure.write_json(
            tmp_path / "report.json", report("overhead", [Row("rss_mib", float("nan"), "MiB")])
        )


@pytest.mark.parametrize(("value", "holds"), [(150.0, True), (150.1, False)])
def test_a_bar_is_met_at_its_value_and_missed_above(value: float, holds: bool) -> None:
    assert at_most("label_usable_ms", value, "ms", 150.0).holds is holds


@pytest.mark.parametrize(
    ("value", "holds"), [(85.8, False), (85.9, True), (86.9, True), (87.0, False)]
)
def test_near_holds_within_the_tolerance_on_both_sides(value: float, holds: bool) -> None:
    assert near("ridge/fashion_5x2", value, "%", 86.4, 0.5001).holds is holds


def test_a_row_without_a_target_holds_nothing_and_one_with_a_target_must_say() -> None:
    assert at_most("observe_ratio/demo/b1", 9.0, "x plain", None).holds is None
    for wrong in ({"target": 1.0}, {"holds": True}):
        with pytest.raises(ValueError, match="a target says whether it holds"):
            Row("row", 1.0, "ms", **wrong)


def test_table_shows_the_miss() -> None:
    lines = table(
        [
            at_most("a", 2.0, "ms", 1.0),
            at_most("long/name", 0.5, "ms", 1.0, 0.25),
            Row("c", 3.0, "ms"),
        ]
    ).splitlines()
    assert (
        lines[1].endswith("MISSED")
        and lines[2].endswith("holds")
        and "0.25" in lines[2]
        and lines[3].split() == ["c", "3", "ms"]
    )


def test_paired_calls_take_turns_and_the_first_of_a_block_is_not_counted() -> None:
    calls: list[str] = []
    pauses: list[int] = []
    first, second = paired(
        lambda i: calls.append("a"),
        lambda i: calls.append("b"),
        2,
        block=3,
        between=lambda: pauses.append(1),
    )
    assert "".join(calls) == "bbbaaaaaabbbbbbaaa"
    assert len(first) == len(second) == 2 * 2 and len(pauses) == len(calls) and (first >= 0).all()


def test_an_unknown_suite_is_named_with_those_there_are() -> None:
    with pytest.raises(
        InputError,
        match=(
            "no suite called 'speed'; suites: overhead, steps, heads, detection, noticing, shift,"
            " answers, classes, guard"
        ),
    ):
        suites.run("speed")


def test_a_suite_is_run_told_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fake(data: str | None, seeds: tuple[int, ...], say: Any) -> list[Row]:
        asked.append((data, seeds))
        return [at_most("false_alarms/random", 0.01, "share", 0.02)]

    monkeypatch.setattr("edgeadapt_bench.shift.detection.run_detection", fake)
    told: list[str] = []
    result = suites.run(
        "detection", data=tmp_path, json_path=tmp_path / "detection.json", say=told.append
    )
    assert (
        asked == [(str(tmp_path), (0, 1, 2))]
        and "false_alarms/random" in told[-1]
        and "holds" in told[-1]
    )
    assert json.loads((tmp_path / "detection.json").read_text()) == result


def test_a_long_reason_moves_no_figure_of_other_rows_to_the_right() -> None:
    rows = [
        Row("cuda", None, "not run: " + "because " * 40),
        Row("cpu", 1.0, "us", None, 2.0, True),
    ]
    head, reason, figure = table(rows).splitlines()
    assert (
        reason.endswith("because")
        and len(head) < 60
        and len(figure) < 60
        and figure.endswith("holds")
    )
