"""The suites that hold the whole against its bars, at toy size on the images that ship: rows and
bars are there, and gains have the right sign.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from edgeadapt_bench.datasets.image_dataset import SAMPLE, bar, load_dataset, shares
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.labels.answers import run_answers
from edgeadapt_bench.labels.classes import run_classes
from edgeadapt_bench.labels.guard_suite import NOISE_KINDS, run_guard
from edgeadapt_bench.shift.detection import KINDS, run_detection, window_rows
from edgeadapt_bench.suites import SUITES

from edgeadapt.demo.sample import CLASSES, KNOWN
from edgeadapt.errors import InputError

REGRESSION = {name: suite for name, suite in SUITES.items() if suite.seeds}


def quiet(line: str) -> None:
    pass


def by_name(rows: list[Row]) -> dict[str, Row]:
    found = {row.name: row for row in rows}
    assert len(found) == len(rows), "a row is there twice"
    assert all(np.isfinite(row.value) for row in rows)
    return found


def test_every_suite_has_its_name() -> None:
    assert list(REGRESSION) == ["detection", "answers", "classes", "guard"]


def test_the_regression_suites_import_neither_torch_nor_onnx() -> None:
    modules = ", ".join(f"edgeadapt_bench.{suite.module}" for suite in REGRESSION.values())
    code = (
        f"import sys, {modules}; sys.exit(', '.join({{'torch', 'onnx',"
        " 'torchvision'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_shipped_images_are_split_into_labels_and_judges() -> None:
    dataset = load_dataset(SAMPLE)
    assert (len(dataset.training), len(dataset.test)) == (1500, 2500)
    assert dataset.known().classes == KNOWN and dataset.test.classes == CLASSES
    with pytest.raises(InputError, match="training images"):
        load_dataset(SAMPLE, tuning=True)


def test_shares_are_disjoint_and_none_takes_more_than_a_fifth() -> None:
    parts = shares(100, 0, 10, 90)
    assert [len(part) for part in parts] == [10, 20, 70]
    assert sorted(np.concatenate(parts)) == list(range(100))


def test_windows_have_the_class_mix_they_are_named_after() -> None:
    y = np.repeat(np.arange(6), 50)
    rng = np.random.default_rng(0)
    assert [len(np.unique(y[window_rows(y, kind, 32, rng)])) for kind in KINDS] == [6, 2, 1]


def test_a_bar_holds_on_the_right_side() -> None:
    held = [
        bar("a", 0.5, "share", **{side: 0.5}).holds for side in ("at_least", "at_most", "exactly")
    ]
    missed = [
        bar("a", value, "share", **{side: 0.5}).holds
        for side, value in (("at_least", 0.4), ("at_most", 0.6), ("exactly", 0.6))
    ]
    assert held == [True] * 3 and missed == [False] * 3
    assert bar("a", 0.5, "share").holds is None


def test_clean_windows_are_quiet_and_noise_is_found_where_the_class_free_statistic_misses_it() -> (
    None
):
    rows = by_name(
        run_detection(SAMPLE, (0,), quiet, windows=40, conditions=("gaussian_noise",), lite0=False)
    )
    assert all(
        rows[f"false_alarms/{kind}"].value <= 0.1 and rows[f"false_alarms/{kind}"].target == 0.02
        for kind in KINDS
    )
    noise = rows["detection/gaussian_noise/one"]
    assert (
        noise.holds
        and noise.target == 0.95
        and noise.baseline is not None
        and noise.value > noise.baseline
    )
    assert rows["new_classes_read_as_shift/random"].target is None


def test_answers_recover_more_than_nothing_does() -> None:
    rows = by_name(
        run_answers(
            SAMPLE, (0,), quiet, length=256, conditions=("contrast",), arms=("questions", "given")
        )
    )
    given = rows["recovery/10_per_class"]
    assert given.target == 0.75 and given.value > 0.3
    assert 0 < rows["questions"].value <= 20
    assert rows["accuracy/oracle"].value > rows["accuracy/oracle"].baseline + 0.3  # type: ignore[operator]


def test_new_classes_are_learned_and_old_ones_stay() -> None:
    rows = by_name(run_classes(SAMPLE, (0,), quiet, draws=2, stories=False))
    new, old = rows["new_in_ten"], rows["old_among_old"]
    assert (new.target, old.target) == (0.70, 0.90)
    assert new.value > new.baseline > 0.3 and old.holds  # type: ignore[operator]
    assert rows["oracle/all_ten"].value > rows["all_ten"].value


def test_honest_labels_get_in_and_most_lies_do_not() -> None:
    rows = by_name(run_guard(SAMPLE, (0,), quiet, per_kind=1, conditions=("brightness",)))
    assert rows["honest_accepted"].target == 0.95 and rows["honest_accepted"].value >= 0.5
    assert rows["honest_batches"].value == 6
    assert rows["gain/ten_classes"].value > rows["gain/ten_classes"].baseline + 0.05  # type: ignore[operator]
    assert rows["caught/80_wrong"].holds and rows["caught/80_wrong"].target == 1.0
    assert {f"caught/{noise}" for noise in NOISE_KINDS} <= set(rows)
