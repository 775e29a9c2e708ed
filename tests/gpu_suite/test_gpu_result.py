"""The file of a measurement: its schema, its page, and what the folder of measurements does not
take.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from edgeadapt_bench.gpu.gpu import run_gpu
from edgeadapt_bench.gpu.gpu_result import (
    SCHEMA,
    TITLE,
    Card,
    GpuRow,
    Result,
    checked,
    failed,
    file_name,
    markdown,
    measured,
    not_run,
    table,
    write,
)
from schema_meaning import meaning

from edgeadapt._json_schema import schema_text
from edgeadapt.errors import InputError
from edgeadapt.scenarios.environment import machine, versions

MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements"
REGENERATE = "python -m edgeadapt_bench.gpu.gpu_result > docs/measurements/measurement.schema.json"
CARD = Card("NVIDIA L4", "", "8.9", "12.8", False)
ROWS = [
    measured("step", "batch 32: TensorRT, over the floor", 1.25, "x", (1.2, 1.31), at_most=1.5),
    measured("step", "batch 32: TensorRT, times faster than torch eager", 4.0, "x", at_least=5.0),
    not_run("step", "batch 32: CuPy", "cupy is not installed in this Python"),
    failed("cudart", "pool of buffers", "killed by SIGSEGV"),
    checked("cudart", "stream priorities", True, "-5 | 0"),
]


def made(card: Card | None = CARD, quick: bool = False) -> Result:
    return Result(SCHEMA, "2026-11-26", card, quick, 12.5, machine(), versions(), ROWS)


def validate(content: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(
        json.loads((MEASUREMENTS / "measurement.schema.json").read_text())
    ).validate(content)


def test_the_committed_schema_has_not_drifted() -> None:
    committed = json.loads((MEASUREMENTS / "measurement.schema.json").read_text())
    assert meaning(committed) == meaning(json.loads(schema_text(Result, TITLE))), REGENERATE


def test_a_result_fits_the_schema_and_one_with_a_word_too_many_does_not() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    content = json.loads(json.dumps(asdict(made())))
    validate(content)
    content["rows"][0]["state"] = "guessed"
    with pytest.raises(jsonschema.ValidationError, match="guessed"):
        validate(content)


def test_every_committed_measurement_is_of_a_card_and_its_page_says_what_its_file_says() -> None:
    files = sorted(MEASUREMENTS.glob("*-*-*-*.json"))
    for path in files:
        content = json.loads(path.read_text())
        validate(content)
        assert content["card"] and not content["card"]["is_fake"] and not content["quick"]
        assert path.with_suffix(".md").read_text() == markdown(content)
        assert path.name in (MEASUREMENTS / "README.md").read_text()
    assert bool(files) != (
        "Nothing was measured on a GPU until now." in (MEASUREMENTS / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("card", "quick", "why"),
    [
        (None, False, "no GPU was here"),
        (replace(CARD, is_fake=True), False, "a fake of the tests"),
        (CARD, True, "a quick run"),
    ],
)
def test_the_folder_of_measurements_takes_real_cards_only(
    tmp_path: Path, card: Card | None, quick: bool, why: str
) -> None:
    folder = tmp_path / "measurements"
    with pytest.raises(InputError, match=why):
        write(made(card, quick), folder)
    assert not folder.exists()
    data, page = write(made(card, quick), tmp_path / "elsewhere")
    assert data.exists() and page.exists()


def test_a_result_is_named_after_its_day_and_card(tmp_path: Path) -> None:
    data, page = write(made(), tmp_path / "measurements")
    assert (data.name, page.name) == ("2026-11-26-nvidia-l4.json", "2026-11-26-nvidia-l4.md")
    assert json.loads(data.read_text())["rows"][0]["value"] == 1.25
    assert (
        file_name(made(replace(CARD, board="Jetson Orin Nano 8GB")))
        == "2026-11-26-jetson-orin-nano-8gb"
    )
    assert file_name(made(None)) == "2026-11-26-no-gpu"


def test_the_page_shows_figures_targets_and_reasons(tmp_path: Path) -> None:
    page = markdown(asdict(made()))
    assert (
        "| step | batch 32: TensorRT, over the floor | 1.25 x | 1.2 to 1.31 | <= 1.5 holds |  |"
        in page
    )
    assert (
        ">= 5 MISSED" in page
        and "not run: cupy is not installed" in page
        and "| failed |" in page
        and "-5 \\| 0" in page
    )
    assert "**Of a fake.**" in markdown(
        asdict(made(replace(CARD, is_fake=True)))
    ) and "No GPU was found" in markdown(asdict(made(None)))


def test_columns_of_the_table_stand_below_each_other() -> None:
    lines = table(ROWS).splitlines()
    assert len(lines) == 1 + len(ROWS) and lines[1].index("1.25 x") == lines[2].index(
        "4 x"
    ) == lines[0].index("result")


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "measured"},
        {"state": "passed", "value": 1.0},
        {"state": "not run"},
        {"state": "failed"},
        {"state": "passed", "holds": True},
    ],
)
def test_a_row_that_says_two_things_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="row 'r'"):
        GpuRow("p", "r", **wrong)


def test_a_figure_that_is_not_finite_is_a_failure() -> None:
    row = measured("bundle", "read", float("inf"), "", at_most=1e-3)
    assert (row.state, row.value, row.target, row.holds) == ("failed", None, "<= 0.001", None)


def test_as_a_suite_what_failed_is_a_miss_and_what_did_not_run_is_none(without_gpu: None) -> None:
    from edgeadapt_bench.gpu.gpu import _as_row

    rows = [_as_row(row) for row in ROWS]
    assert [(row.value, row.holds) for row in rows] == [
        (1.25, True),
        (4.0, False),
        (None, None),
        (None, False),
        (None, None),
    ]
    found = run_gpu(None, lambda line: None, quick=True, parts=("cudart",))
    assert (
        len(found) == 13
        and {row.value for row in found} == {None}
        and all(row.unit.startswith("not run: no NVIDIA driver") for row in found)
    )
