"""What a learner brings to a graph at once, by its roles."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tiny_bundle import manifest

from edgeadapt.bundle import read_bundle
from edgeadapt.bundle._batches import usual_batches
from edgeadapt.bundle.schema import AdaptorSpec, AdaptPolicy, GrowthPolicy, PolicySpec, PortSpec
from edgeadapt.demo.sample import bundle_path
from edgeadapt.runtime import GraphFile

FAMILY = tuple(
    AdaptorSpec(name=name, tensors=(f"{name}.w",), learning_rate=0.1, steps=1, batch=batch)
    for name, batch in (("narrow", 16), ("wide", 48))
)
POLICY = PolicySpec(
    adapt=AdaptPolicy(memory=100, min_memory=20),
    growth=GrowthPolicy(candidates=FAMILY, fewest_labels=40, samples=200),
)


@pytest.mark.parametrize(
    ("roles", "methods", "expected"),
    [
        (("encode",), (), (1, 8, 32)),
        (("predict", "novelty"), (), (1, 8, 32)),
        (("adapt",), (), (20, 32, 100)),
        (("fit",), ("narrow",), (16, 32)),
        (("fit",), ("wide",), (32, 48)),
        (("probe",), ("wide",), (32, 40, 200)),
        (("adapt", "predict"), (), (1, 8, 20, 32, 100)),
    ],
)
def test_a_role_that_takes_more_at_once_has_a_larger_size(
    roles: tuple[str, ...], methods: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    tiny = manifest(policy=POLICY)
    assert (
        usual_batches(msgspec.structs.replace(tiny.graphs[0], roles=roles, methods=methods), tiny)
        == expected
    )


def test_a_graph_with_a_fixed_batch_has_its_own_and_one_without_a_batch_has_none() -> None:
    tiny = manifest(policy=POLICY)
    fixed = PortSpec(name="z", dtype="float32", shape=(4, 16))
    assert usual_batches(
        msgspec.structs.replace(tiny.graphs[0], batch=4, ports=(fixed,)), tiny
    ) == (4,)
    assert (
        usual_batches(msgspec.structs.replace(tiny.graphs[0], roles=("derive",), ports=()), tiny)
        == ()
    )


def test_a_memory_of_nothing_is_no_size() -> None:
    tiny = manifest(policy=PolicySpec(adapt=AdaptPolicy(memory=0, min_memory=0)))
    assert usual_batches(msgspec.structs.replace(tiny.graphs[0], roles=("adapt",)), tiny) == (
        1,
        8,
        32,
    )


def test_a_graph_file_brings_them_and_its_hash_does_not_know() -> None:
    bundle = read_bundle(bundle_path())
    adapt = bundle.graph_file(
        next(spec for spec in bundle.manifest.graphs if spec.roles == ("adapt",))
    )
    assert (
        adapt.batches
        == (bundle.manifest.policy.adapt.min_memory, bundle.manifest.policy.adapt.memory)
        == (32, 64)
    )
    assert replace(adapt, is_rare=True).batches == adapt.batches
    assert GraphFile("other name", adapt.model, adapt.frozen).sha256 == adapt.sha256
