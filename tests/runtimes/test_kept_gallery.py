"""The compiler's gallery in the ONNX Runtime that is installed here, which need not be the one that
it was checked with. No torch.

The folder is made by ``tests/host/compile/keep_gallery.py``, where its contents are described, or
beside the tests of the compiler.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

FOLDER = os.environ.get("EDGEADAPT_KEPT_GALLERY", "")
KEPT = sorted(path.parent for path in Path(FOLDER).glob("*/model.onnx")) if FOLDER else []
LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "on": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
needs_folder = pytest.mark.skipif(
    not FOLDER,
    reason="EDGEADAPT_KEPT_GALLERY names no folder made by tests/host/compile/keep_gallery.py",
)
Arrays = dict[str, Any]


def of(values: Arrays, *path: str) -> Arrays:
    start = "|".join(path) + "|"
    return {
        name.removeprefix(start): value for name, value in values.items() if name.startswith(start)
    }


def excess(name: str, got: Any, step: Arrays, tolerance: float) -> float:
    """How many times the error is what it may be: the tolerance times the change, and what the
    function itself leaves open.
    """
    exact, single = step[f"float64|{name}"], step[f"float32|{name}"]
    assert got.shape == exact.shape and got.dtype == single.dtype
    if got.dtype.kind != "f":
        wrong = float(np.mean(got != exact)) if got.size else 0.0
        return 0.0 if wrong <= float(step[f"allowed|{name}"]) else np.inf
    assert np.array_equal(np.isfinite(got), np.isfinite(single))
    finite = np.isfinite(exact) & np.isfinite(got)
    old = (
        step[f"state|{name.removesuffix('.next')}"]
        if name.endswith(".next") and f"state|{name.removesuffix('.next')}" in step
        else 0.0
    )
    error, change = (
        np.abs(np.where(finite, value, 0.0)).max(initial=0.0)
        for value in (got - exact, exact - old)
    )
    allowed = tolerance * change + float(step[f"allowed|{name}"]) + 1e-12
    return float(error / allowed)


@needs_folder
def test_the_folder_holds_the_gallery() -> None:
    assert len(KEPT) >= 20, f"{FOLDER} holds {len(KEPT)} graphs"


@needs_folder
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_graph_computes_what_torch_computed(folder: Path, level: str) -> None:
    with np.load(folder / "values.npz") as archive:
        values = {name: archive[name] for name in archive.files}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if frozen := of(values, "frozen"):
        options.add_external_initializers(
            list(frozen),
            [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in frozen.values()],
        )
    session = onnxruntime.InferenceSession(
        (folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [output.name for output in session.get_outputs()]
    for number in sorted({name.split("|")[0] for name in values if name[0].isdigit()}):
        step = of(values, number)
        given = {**of(step, "port"), **of(step, "state")}
        got = dict(
            zip(
                outputs,
                session.run(outputs, {i.name: given[i.name] for i in session.get_inputs()}),
                strict=True,
            )
        )
        assert set(got) == set(of(step, "float64"))
        worst = {
            name: excess(name, np.asarray(value), step, float(values["tolerance"]))
            for name, value in got.items()
        }
        wrong = {
            name: f"{times:.1f} times what is allowed"
            for name, times in worst.items()
            if not times <= 1
        }
        assert not wrong, f"onnxruntime {onnxruntime.__version__}, step {number}: {wrong}"
