"""``state_kib``: the best head that fits travels in the bundle, and a learner learns with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeadapt
from edgeadapt import Policy, host
from edgeadapt.bundle import Bundle
from edgeadapt.errors import InputError

WIDTH, NAMES = 96, ("a", "b", "c", "d")


def samples(
    count: int, seed: int, classes: int = 4
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(3)
    means = 2.0 * rng.standard_normal((5, 8)) @ np.linalg.qr(rng.standard_normal((WIDTH, 8)))[0].T
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    return (means[y] + 0.5 * rng.standard_normal((count, WIDTH))).astype(np.float32), y


def export(path: Path, state_kib: float, lines: list[str]) -> Bundle:
    x, y = samples(240, 1)
    return host.export(
        path,
        host.Identity(WIDTH),
        calibration=(x, y),
        classes=NAMES,
        class_slots=8,
        guard_per_class=10,
        adapt="none",
        novelty="cosine",
        state_kib=state_kib,
        progress=lines.append,
    )


def test_a_small_budget_gives_a_small_head_that_learns_forgets_and_takes_new_classes(
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    bundle = export(tmp_path / "small.edge", 30, lines)
    assert any("heads within 30 KiB" in line for line in lines)
    own = [
        s
        for s in bundle.manifest.tensors
        if s.name.startswith(("slda.", "ridge.", "mean.", "head.", "projection."))
    ]
    assert sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in own) <= 30 * 1024
    with edgeadapt.open(bundle, policy=Policy(new_classes="add")) as learner:
        x, y = samples(200, 2)
        assert (
            np.mean([a == NAMES[b] for a, b in zip(learner.predict(x).labels, y, strict=True)])
            > 0.95
        )
        new, _ = samples(400, 3, classes=5)
        new = new[samples(400, 3, classes=5)[1] == 4]
        before = learner.digest()
        learner.learn(new[:30], ["e"] * 30, source="line")
        learner.settle()
        assert np.mean([label == "e" for label in learner.predict(new[30:]).labels]) > 0.9
        learner.forget(source="line")
        assert "e" not in learner.predict(new[30:]).labels
        assert learner.digest() != before  # the class name stays; its evidence does not


def test_a_budget_in_which_no_head_fits_names_the_smallest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="KiB"):
        export(tmp_path / "none.edge", 0.5, [])
