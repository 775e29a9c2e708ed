"""The precision suite on a small bundle: figures of each precision, float32 beside them, and what
it refuses.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
from edgeadapt_bench import suites
from edgeadapt_bench.precision import precision
from golden_files import GOLDEN

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import InputError
from edgeadapt.host.data.images import ImageData

PRECISE = GOLDEN / "precise.edge"
CLASSES = ("down", "right", "saddle")  # in another order than the bundle's


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(PRECISE)


def images(count: int) -> ImageData:
    y = np.arange(count) % 3
    ramp = np.linspace(-1, 1, 12)
    kinds = np.stack(
        [np.tile(ramp[:, None], (1, 12)), np.tile(ramp, (12, 1)), 2 * ramp[None, :] * ramp[:, None]]
    )
    x = 90 + 60 * np.random.default_rng(3).standard_normal((count, 12, 12)) + 50 * kinds[y]
    return ImageData(x.clip(0, 255).round().astype(np.uint8), y, CLASSES)


def test_every_precision_has_every_figure_and_float32_stands_beside_it(bundle: Bundle) -> None:
    known = images(300)
    strange = np.random.default_rng(0).integers(0, 256, (60, 12, 12)).astype(np.uint8)
    found = precision._answers(bundle, known, strange, 0, True)
    assert list(found) == ["float32", "float16", "int8"] == list(precision.precisions_of(bundle))
    for figures in found.values():
        assert (
            figures["accuracy"] > 0.95
            and figures["equal answers"] > 0.95
            and figures["clean windows that alarm"] < 0.05
        )
    assert found["float32"]["equal answers"] == 1.0
    rows = {row.name: row for row in precision._answer_rows([found, found])}
    assert (
        rows["accuracy/int8"].baseline == found["float32"]["accuracy"]
        and "over 2 seeds" in rows["accuracy/int8"].unit
    )
    assert (
        rows["accuracy/int8"].target
        == pytest.approx(found["float32"]["accuracy"] - precision.MARGIN)
        and rows["accuracy/int8"].holds
    )
    assert rows["accuracy/float32"].baseline is None
    worse = {**found, "int8": {**found["int8"], "accuracy": found["float32"]["accuracy"] - 0.05}}
    assert {row.name: row for row in precision._answer_rows([worse])}[
        "accuracy/int8"
    ].holds is False


def test_the_thresholds_are_those_of_the_precision(bundle: Bundle) -> None:
    x = images(96).x
    for name in ("float32", "int8"):
        subject = precision.Subject(bundle, name)
        assert subject.program.manifest.policy == bundle.manifest.at(name).policy
        looks = subject.look((0.5 * x + 110).astype(np.uint8))
        assert subject.alarms(looks, [np.arange(32), np.arange(32, 64)]) == 1.0


def test_sizes_and_times_are_of_this_bundle(bundle: Bundle) -> None:
    rows = {
        row.name: row
        for row in precision._size_rows(bundle) + precision._time_rows(bundle, images(32).x, True)
    }
    assert rows["graph of the encoder/int8"].value == pytest.approx(
        len(bundle.graph("graphs/encode_int8.onnx")) / 1024
    )
    assert rows["the bundle"].value == pytest.approx(PRECISE.stat().st_size / 1024)
    assert {
        f"encode at batch {batch}/{name}" for batch in (1, 8, 32) for name in ("float16", "int8")
    } <= set(rows)
    assert all(
        row.value > 0 and row.baseline > 0
        for name, row in rows.items()
        if name.startswith("encode")
    )  # type: ignore[operator]


def test_a_bundle_without_variants_or_with_other_images_is_refused() -> None:
    with pytest.raises(InputError, match="no encoder but the float32 one"):
        suites.run("precision", options=("quick",), bundle=bundle_path(), say=lambda line: None)
    with pytest.raises(InputError, match="does not take images"):
        suites.run("precision", options=("quick",), bundle=PRECISE, say=lambda line: None)
    with pytest.raises(InputError, match="'guard' has no option --bundle"):
        suites.run("guard", bundle=PRECISE, say=lambda line: None)


@pytest.mark.slow
def test_the_quick_form_exports_the_shipped_encoder_and_loses_nothing() -> None:
    report = suites.run("precision", options=("quick",), say=lambda line: None)
    assert all(row["holds"] is not False for row in report["rows"]) and len(report["rows"]) > 25
