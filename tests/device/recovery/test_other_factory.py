"""A bundle of the same feature space whose factory knew other classes must not take over what was
learned in their slots.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from feature_vectors import samples
from golden_files import GOLDEN

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, read_bundle, write_bundle
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import StateError

BUNDLE = GOLDEN / "vectors.edge"


def test_other_factory_classes_are_refused_and_the_state_is_kept(tmp_path: Path) -> None:
    bundle = read_bundle(BUNDLE)
    with open_learner(bundle, state=tmp_path / "s") as learner:
        learner.learn(*samples(20, [0, 1, 2, 3], 1))
        learner.settle()
        digest = learner.digest()
    manifest = msgspec.structs.replace(
        bundle.manifest, members={}, classes=("scratch", "ok", "dent", "stain")
    )
    weights = {
        name: bundle.weights(name)
        for name in (FROZEN, FACTORY, GUARD)
        if name in bundle.manifest.members
    }
    other = write_bundle(
        tmp_path / "other.edge",
        manifest,
        {g.file: bundle.graph(g.file) for g in manifest.graphs},
        weights,
        bundle.card,
    )
    with pytest.raises(StateError, match=r"other factory classes.*edgeadapt migrate"):
        open_learner(other, state=tmp_path / "s")
    with open_learner(bundle, state=tmp_path / "s") as learner:
        assert learner.digest() == digest


def test_another_head_on_the_same_features_is_refused(tmp_path: Path) -> None:
    """The two bundles share a feature space, and neither folder has a snapshot that would not
    fit.
    """
    counting = BUNDLE.with_name("counting.edge")
    with open_learner(BUNDLE, state=tmp_path / "s") as learner:
        learner.learn(*samples(20, [0, 1, 2, 3], 1))
        learner.settle()
    assert read_bundle(counting).manifest.space == read_bundle(BUNDLE).manifest.space
    with pytest.raises(StateError, match=r"stores other tensors.*edgeadapt migrate"):
        open_learner(counting, state=tmp_path / "s")
