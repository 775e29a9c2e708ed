"""A correction of strength s goes that share of the way, and its average goes on as at full
strength.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from feature_vectors import samples
from golden_files import GOLDEN

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, read_bundle, write_bundle
from edgeadapt.bundle.codec import decode_manifest, encode_manifest
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import BundleError
from edgeadapt.runtime import open_runtime

VECTORS = GOLDEN / "vectors.edge"


def with_strength(bundle: Bundle, path: Path, strength: float) -> Bundle:
    policy = bundle.manifest.policy
    adapt = msgspec.structs.replace(policy.adapt, mode="act", strength=strength)
    manifest = msgspec.structs.replace(
        bundle.manifest, policy=msgspec.structs.replace(policy, adapt=adapt), members={}
    )
    graphs = {graph.file: bundle.graph(graph.file) for graph in bundle.manifest.graphs}
    return write_bundle(
        path, manifest, graphs, {m: dict(bundle.weights(m)) for m in (FROZEN, FACTORY, GUARD)}, {}
    )


def test_a_bundle_from_before_strengths_corrects_at_full_strength() -> None:
    assert read_bundle(VECTORS).manifest.policy.adapt.strength == 1.0


@pytest.mark.parametrize("strength", [0.5, 0.25])
def test_after_many_refreshes_a_mild_correction_is_that_share_of_the_full_one(
    tmp_path: Path, strength: float
) -> None:
    bundle = read_bundle(VECTORS)
    means = {}
    for share in (1.0, strength):
        program = Program(with_strength(bundle, tmp_path / f"{share}.edge", share), open_runtime())
        assert program.can_adapt
        memory, domain = program.factory(), program.factory_domain()
        start = program.runtime.download(domain)["correct.mean"]
        for seed in range(6):
            x, _ = samples(64, range(4), seed, moved=2.0)
            domain = program.adapt(domain.over(memory), x, np.ones(64, np.float32))[1].over(domain)
        means[share] = program.runtime.download(domain)["correct.mean"] - start
        x, _ = samples(64, range(4), 99, moved=2.0)
        moved = program.forward_head(x, x[:, :0], domain.over(memory)).embedding - x
        np.testing.assert_allclose(moved, np.broadcast_to(-means[share], moved.shape), atol=1e-4)
    assert means[1.0].mean() > 1.0  # most of the way to 2
    np.testing.assert_allclose(means[strength], strength * means[1.0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5])
def test_a_strength_that_is_no_share_is_refused(strength: float) -> None:
    manifest = read_bundle(VECTORS).manifest
    adapt = msgspec.structs.replace(manifest.policy.adapt, strength=strength)
    policy = msgspec.structs.replace(manifest.policy, adapt=adapt)
    with pytest.raises(BundleError, match="strength"):
        decode_manifest(encode_manifest(msgspec.structs.replace(manifest, policy=policy)))
