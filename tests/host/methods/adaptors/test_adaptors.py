"""Adaptors that a device trains: nothing at the factory, the promised promises in training, sizes
that one can count.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from edgeadapt_bench.adaptors.candidate_fit import factory, train
from edgeadapt_bench.adaptors.search_streams import Source
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Dims, FactoryData
from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
from edgeadapt.host.methods.adaptors.family import TRAINING, Training, family, training
from edgeadapt.host.methods.adaptors.linear import LinearAdaptor
from edgeadapt.host.methods.adaptors.low_rank import LowRank
from edgeadapt.host.methods.adaptors.scale_shift import ScaleShift
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor
from edgeadapt.testing import _suite, check_identity_stub

DIMS = Dims(12, 0, 4)
KINDS = [ScaleShift(), LowRank(3), Bottleneck(5), LinearAdaptor()]


def name_of(adaptor: TrainedAdaptor) -> str:
    return adaptor.name


def state(adaptor: TrainedAdaptor) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((40, DIMS.features)).astype(np.float32), np.arange(40) % DIMS.slots
    values = adaptor.factory(FactoryData(z, z[:, :0], y, np.ones(40, np.float32), DIMS.slots))
    head = {
        "head.weight": rng.standard_normal((DIMS.features + 1, DIMS.slots)).astype(np.float32),
        "head.active": np.ones(DIMS.slots, np.float32),
    }
    return {name: torch.from_numpy(value) for name, value in {**values, **head}.items()}


def rows(seed: int, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIMS.features, generator=generator), torch.randint(
        0, DIMS.slots, (count,), generator=generator
    )


def moved(adaptor: TrainedAdaptor, steps: int = 5) -> dict[str, torch.Tensor]:
    t, (z, y) = state(adaptor), rows(1)
    for _ in range(steps):
        t = {**t, **adaptor.fit(t, z, y, torch.ones(len(y)), torch.tensor(0.05))[1]}
    return t


@pytest.mark.parametrize(
    "adaptor", [ScaleShift(decay=1.0), LowRank(8, decay=1.0), LinearAdaptor(decay=1.0)], ids=name_of
)
def test_an_adaptor_keeps_its_promises_and_its_stubs_do_not(
    adaptor: TrainedAdaptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bottleneck is among the slow ones of ``test_methods.py``; the graphs of ``linear`` are
    those of low rank with one product less.
    """
    if adaptor.kind == "linear":
        monkeypatch.setattr(_suite, "check_compiles", lambda subject, learning_rate: None)
    assert set(check_identity_stub(adaptor)) == {
        "correct returns its input",
        "fit changes nothing",
        "fit goes uphill",
    }


@pytest.mark.parametrize("adaptor", KINDS, ids=name_of)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), size=st.floats(1e-2, 1e3))
def test_the_factory_state_is_the_identity_at_any_size_of_features(
    adaptor: TrainedAdaptor, seed: int, size: float
) -> None:
    z = size * rows(seed)[0]
    assert torch.equal(adaptor.correct(state(adaptor), z), z)
    same = torch.ones(3, DIMS.features)  # no deviation to divide by
    assert torch.equal(adaptor.correct(state(adaptor), same), same)


@pytest.mark.parametrize("adaptor", KINDS, ids=name_of)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), size=st.floats(1e-2, 1e3))
def test_features_twice_as_large_are_corrected_twice_as_far(
    adaptor: TrainedAdaptor, seed: int, size: float
) -> None:
    t, z = moved(adaptor), rows(seed)[0]
    assert not torch.allclose(adaptor.correct(t, z), z, atol=1e-3)
    torch.testing.assert_close(
        adaptor.correct(t, size * z), size * adaptor.correct(t, z), rtol=1e-3, atol=1e-3 * size
    )


@pytest.mark.parametrize(
    "adaptor",
    [
        ScaleShift(decay=1.0),
        LowRank(3, decay=1.0),
        Bottleneck(5, decay=1.0),
        LinearAdaptor(decay=1.0),
    ],
    ids=name_of,
)
def test_a_batch_without_weight_changes_nothing_momentum_and_decay_included(
    adaptor: TrainedAdaptor,
) -> None:
    t, (z, y) = moved(adaptor), rows(2)
    _, new = adaptor.fit(t, z, y, torch.zeros(len(y)), torch.tensor(0.1))
    assert set(new) == {spec.name for spec in adaptor.tensors(DIMS)}
    assert all(torch.equal(value, t[name]) for name, value in new.items())


@pytest.mark.parametrize("adaptor", KINDS, ids=name_of)
def test_decay_pulls_what_makes_the_residual_towards_zero_and_nothing_else(
    adaptor: TrainedAdaptor,
) -> None:
    t, (z, y), rate = moved(adaptor), rows(3), torch.tensor(0.01)
    _, free = adaptor.fit(t, z, y, torch.ones(len(y)), rate)
    _, pulled = replace(adaptor, decay=2.0).fit(t, z, y, torch.ones(len(y)), rate)
    for name in adaptor.shapes(DIMS):
        full = f"{adaptor.name}.{name}"
        by = 0.02 * t[full] if name in adaptor.decayed else torch.zeros_like(t[full])
        torch.testing.assert_close(pulled[full], free[full] - by, rtol=1e-4, atol=1e-5)
    zero = {
        f"{adaptor.name}.{name}": torch.zeros_like(t[f"{adaptor.name}.{name}"])
        for name in adaptor.decayed
    }
    assert torch.equal(adaptor.correct({**t, **zero}, z), z)


@pytest.mark.parametrize("adaptor", KINDS, ids=name_of)
def test_the_first_step_moves_what_the_probe_is_read_out_by(adaptor: TrainedAdaptor) -> None:
    """At the factory the residual is 0 whatever is not read out linearly from the probe; after one
    step it lies in the span of probe and 1.
    """
    t, (z, y) = state(adaptor), rows(4, 64)
    probe = adaptor.probe(t, z)
    _, new = adaptor.fit(t, z, y, torch.ones(len(y)), torch.tensor(1e-3))
    deviation = z.std(dim=1, unbiased=False, keepdim=True)
    change = (adaptor.correct({**t, **new}, z) - z) / deviation
    basis = torch.cat([probe, torch.ones(len(z), 1)], dim=1)
    fit = basis @ torch.linalg.lstsq(basis, change).solution
    assert (change - fit).norm() < 1e-2 * change.norm()


@pytest.mark.parametrize("adaptor", KINDS, ids=name_of)
def test_a_constant_sample_and_contradicting_labels_leave_finite_values(
    adaptor: TrainedAdaptor,
) -> None:
    t = state(adaptor)
    z, y = torch.ones(8, DIMS.features), torch.arange(8) % 2
    for _ in range(20):
        outputs, new = adaptor.fit(t, z, y, torch.ones(8), torch.tensor(0.05))
        t = {**t, **new}
        assert bool(outputs["loss"].isfinite()) and all(
            bool(v.isfinite().all()) for v in new.values()
        )


def test_any_head_can_be_trained_through() -> None:
    adaptor, (z, y) = LowRank(3), rows(5)
    t = {name: value for name, value in state(adaptor).items() if not name.startswith("head.")}
    towards = torch.eye(DIMS.features)[: DIMS.slots]

    def cosine(t: object, z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(z) @ towards.T

    losses = []
    for _ in range(60):
        outputs, new = adaptor.fit(t, z, y, torch.ones(len(y)), torch.tensor(0.03), cosine)
        t = {**t, **new}
        losses.append(float(outputs["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_candidates_of_one_bundle_share_no_tensor_and_are_ordered_by_size() -> None:
    dims = Dims(1280, 0, 16)
    found = family(dims)
    names = [spec.name for candidate in found for spec in candidate.tensors(dims)]
    sizes = [candidate.parameter_count(dims) for candidate in found]
    assert len(found) >= 8 and len(set(names)) == len(names) and sizes == sorted(sizes)
    assert all(
        name.startswith(f"{candidate.name}.")
        for candidate in found
        for name in (spec.name for spec in candidate.tensors(dims))
    )
    for candidate, size in zip(found, sizes, strict=True):
        kept = [spec for spec in candidate.tensors(dims) if spec.persist == "checkpoint"]
        assert size == sum(int(np.prod(spec.shape)) for spec in kept)
        assert (
            training(candidate) is TRAINING[candidate.kind]
            and candidate.decay == training(candidate).decay
        )


def test_the_family_keeps_to_a_budget_and_to_narrow_features() -> None:
    assert [c.name for c in family(Dims(1280, 0, 16), state_kib=50)] == [
        "scale_shift",
        "low_rank_4",
    ]
    assert {"linear", "low_rank_4", "bottleneck_64"} <= {c.name for c in family(Dims(42, 0, 8))}
    assert not any(c.name == "low_rank_16" for c in family(Dims(16, 0, 8)))
    with pytest.raises(InputError, match=r"the smallest takes 10.0 KiB at 1280 features"):
        family(Dims(1280, 0, 16), state_kib=5)


def test_the_bench_trains_as_fit_does() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    z = (np.eye(12)[y] * 2 + rng.standard_normal((90, 12))).astype(np.float32)
    source = Source.of(z, y, z, y)
    adaptor, how = Bottleneck(4, decay=1.0, scale=source.scale), Training(0.01, 6, 8, 1.0)
    mine = train(adaptor, source, source.t, z[:20] + 1, y[:20], how)
    t = {**source.t, **factory(adaptor, source)}
    order, queue = np.random.default_rng(0), np.zeros(0, np.int64)
    for _ in range(how.steps):
        while len(queue) < how.batch:
            queue = np.append(queue, order.permutation(20))
        part, queue = queue[:8], queue[8:]
        t = {
            **t,
            **adaptor.fit(
                t,
                torch.from_numpy(z[part] + 1),
                torch.from_numpy(y[part]),
                torch.ones(8),
                torch.tensor(0.01),
                source.head.predict,
            )[1],
        }
    for name, value in mine.items():
        torch.testing.assert_close(value, t[name], rtol=1e-4, atol=1e-6)
