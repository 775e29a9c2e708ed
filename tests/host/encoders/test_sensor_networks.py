"""Sensor networks end to end: train, export, open, predict, learn; and norm statistics repair a
sensor whose gain and offset drifted.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeadapt
from edgeadapt import host
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, read_bundle, write_bundle
from edgeadapt.errors import InputError
from edgeadapt.host.data.sensors import SensorData
from edgeadapt.host.encoders.base import example_input
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.encoders.networks import Normalised, build_network, normalised
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.norm_statistics import NormStatistics
from edgeadapt.host.training.augmentation import augmented

CLASSES = ("idle", "slow", "fast", "knock")
QUICK = {"novelty": "cosine", "random_features": 0, "class_slots": 8}
UNITS = np.array([[9.8], [0.02], [300.0]], np.float32)  # of three unlike sensors


def machine(count: int, seed: int) -> SensorData:
    """Three sensors on a machine over 48 samples: noise alone, a slow wave, a fast wave, or a
    knock; random phase and strength.
    """
    draw = np.random.default_rng(seed)
    y = np.arange(count) % 4
    time, phase = np.arange(48) + 0.0, draw.uniform(0, 2 * np.pi, (count, 3, 1))
    waves = [
        0 * phase + 0 * time,
        np.sin(time / 4 + phase),
        np.sin(time * 1.3 + phase),
        3 * np.exp(-0.5 * (time - 48 * phase / 6.3) ** 2),
    ]
    clean = np.select([y[:, None, None] == k for k in range(4)], waves) * draw.uniform(
        0.6, 1.4, (count, 1, 1)
    )
    x = clean + 0.4 * draw.standard_normal(clean.shape)
    return SensorData(((x + 1.0) * UNITS).astype(np.float32), y.astype(np.int64), CLASSES)


def measurements(data: SensorData) -> SensorData:
    """Eight numbers per window, as a small controller would send: level and variation per sensor,
    and of the differences of two.
    """
    steps = np.diff(data.x, axis=2)
    x = np.concatenate([data.x.mean(2), data.x.std(2), steps[:, :2].std(2)], axis=1)
    return SensorData(x.astype(np.float32), data.y, data.classes)


def drifted(data: SensorData) -> SensorData:
    """Worn sensors: a gain and an offset of their own each, in units of what they measure."""
    gain, offset = np.array([[2.2], [0.35], [1.8]]), np.array([[1.5], [-1.0], [2.0]])
    return SensorData((data.x * gain + offset * UNITS).astype(np.float32), data.y, data.classes)


def trained(name: str, data: SensorData) -> Normalised:
    network = normalised(
        build_network(name, 4, data.channels, seed=0, widths=(16, 32)), data.x
    ).train()
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(4):
            for rows in torch.randperm(len(y)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(
                    network(augmented(x[rows], "plain")), y[rows]
                ).backward()
                optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def cnn() -> Normalised:
    return trained("sensor-cnn", machine(800, 0))


@pytest.fixture(scope="module")
def bundle(cnn: Normalised, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, held = tmp_path_factory.mktemp("sensor") / "machine.edge", machine(480, 1)
    host.export(path, cnn, (held.x, held.y), CLASSES, stress=False, name="machine", **QUICK)
    return path


def accuracy(labels: object, data: SensorData) -> float:
    return float((np.array(labels) == np.array(CLASSES)[data.y]).mean())


def test_a_signal_encoder_has_channels_over_time_as_taps_and_one_dimensional_norms(
    cnn: Normalised,
) -> None:
    data = machine(8, 2)
    encoder = as_encoder(cnn, data.x)
    assert (
        isinstance(encoder, ModuleEncoder)
        and encoder.input.layout == "NC"
        and encoder.input.shape == (3, 48)
    )
    assert (encoder._taps, encoder.tap_dim, encoder.dim) == (("network.blocks.0",), 16, 32)
    assert [(norm.path, norm.channels) for norm in encoder.norms] == [
        ("network.blocks.0.1", 16),
        ("network.blocks.1.1", 32),
    ]
    assert encoder.frozen["encoder.network.blocks.0.1.scale"].shape == (16, 1)
    x = torch.from_numpy(data.x)
    out = encoder.encode({"x": x}, encoder.frozen)
    with torch.no_grad():
        assert torch.allclose(out["z"], cnn.features(x), atol=1e-5)
        assert torch.allclose(
            out["taps"], cnn.network.blocks[0](cnn.normalise(x)).mean(2), atol=1e-5
        )
    example = example_input(encoder.input, 4000, torch.Generator().manual_seed(0))
    assert torch.allclose(example.mean((0, 2)), x.mean((0, 2)), rtol=0.2), (
        "examples for checks are in the sensor's units"
    )


class Tokens(nn.Module):
    """A recurrent layer behind a convolution: (B, T, D), time first."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(3, 10, 3, 2, 1)
        self.body = nn.LayerNorm(10)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.front(x).transpose(1, 2)).mean(1))  # type: ignore[no-any-return]


def test_maps_with_time_first_are_not_tapped() -> None:
    encoder = as_encoder(Tokens(), machine(4, 0).x)
    assert isinstance(encoder, ModuleEncoder) and encoder._taps == ("front",) and encoder.dim == 10


def test_an_image_of_tokens_is_no_signal() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.mix, self.head = nn.Conv2d(1, 6, 4, 4), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(self.cut(x).flatten(2).transpose(1, 2)).mean(1))  # type: ignore[no-any-return]

    encoder = as_encoder(Patches(), np.zeros((2, 8, 8), np.uint8))
    assert isinstance(encoder, ModuleEncoder) and encoder._taps == ("cut",)


def test_a_vector_encoder_refolds_its_norms_to_what_torch_computes_in_training_mode() -> None:
    data = measurements(machine(200, 3))
    network = trained("sensor-mlp", data)
    encoder = as_encoder(network, data.x)
    assert isinstance(encoder, ModuleEncoder) and (
        encoder.tap_dim,
        encoder.dim,
        len(encoder.norms),
    ) == (0, 32, 2)
    norms = NormStatistics(encoder)
    values = {
        **encoder.frozen,
        **norms.frozen,
        **{k: torch.from_numpy(v) for k, v in norms.factory(None).items()},
    }  # type: ignore[arg-type]
    x = torch.from_numpy(data.x * 1.3)
    _, statistics = norms.adapt({"x": x, "sample_weight": torch.ones(len(x))}, values)
    _, constants = norms.refold({}, {**values, **statistics})
    assert (
        all(constants[name].shape == encoder.frozen[name].shape for name in constants)
        and len(constants) == 4
    )
    with torch.no_grad():
        assert torch.allclose(
            encoder.encode({"x": x}, {**encoder.frozen, **constants})["z"],
            network.train().features(x),
            atol=1e-4,
        )
    network.eval()


def test_a_trained_sensor_cnn_becomes_a_bundle_that_predicts_and_learns(bundle: Path) -> None:
    test = machine(200, 4)
    with edgeadapt.open(bundle) as learner:
        assert (
            learner.bundle.manifest.input.layout == "NC"
            and learner.bundle.manifest.policy.adapt.method == "class_matched_statistics"
        )
        assert accuracy(learner.predict(test.x).labels, test) > 0.9
        alarm = (
            (
                np.sign(np.sin(np.arange(48) / 2)) * 4
                + 0.3 * np.random.default_rng(5).standard_normal((30, 3, 48))
                + 1
            )
            * UNITS
        ).astype(np.float32)
        learner.add_class("alarm")
        learner.learn(alarm[:20], ["alarm"] * 20)
        learner.settle()
        assert (
            set(learner.predict(alarm[20:]).labels) == {"alarm"}
            and accuracy(learner.predict(test.x).labels, test) > 0.85
        )
        with pytest.raises(InputError, match=r"shape \(N, 3, 48\)"):
            learner.predict(test.x[:, :, :40])


def acting(path: Path, target: Path) -> Path:
    bundle = read_bundle(path)
    policy = msgspec.structs.replace(
        bundle.manifest.policy,
        adapt=msgspec.structs.replace(bundle.manifest.policy.adapt, mode="act"),
    )
    manifest = msgspec.structs.replace(bundle.manifest, policy=policy, members={})
    graphs = {graph.file: bundle.graph(graph.file) for graph in manifest.graphs}
    write_bundle(
        target,
        manifest,
        graphs,
        {member: dict(bundle.weights(member)) for member in (FROZEN, FACTORY, GUARD)},
        {},
    )
    return target


def end_of_stream(path: Path, data: SensorData) -> float:
    """Accuracy on the last third of a stream in batches of 32."""
    labels: list[str] = []
    with edgeadapt.open(path, budget=edgeadapt.Budget(busy_fraction=1.0)) as learner:
        for start in range(0, len(data), 32):
            labels += learner.observe(data.x[start : start + 32]).prediction.labels
            learner.settle()
    last = len(data) * 2 // 3
    return accuracy(labels[last:], data.take(np.arange(last, len(data))))


def test_the_default_recovers_most_of_what_worn_sensors_cost(bundle: Path, tmp_path: Path) -> None:
    stream = machine(960, 6)
    clean, frozen = end_of_stream(bundle, stream), end_of_stream(bundle, drifted(stream))
    adapted = end_of_stream(acting(bundle, tmp_path / "acting.edge"), drifted(stream))
    assert frozen < clean - 0.25, (clean, frozen)
    assert adapted > clean - 0.35 * (clean - frozen), (clean, frozen, adapted)


@pytest.mark.slow  # the CNN goes the same way every time
def test_a_trained_sensor_mlp_becomes_a_bundle(tmp_path: Path) -> None:
    held, test = measurements(machine(240, 8)), measurements(machine(200, 9))
    network = trained("sensor-mlp", measurements(machine(640, 7)))
    host.export(tmp_path / "m.edge", network, (held.x, held.y), CLASSES, stress=False, **QUICK)
    with edgeadapt.open(tmp_path / "m.edge") as learner:
        manifest = learner.bundle.manifest
        assert manifest.tap_dim == 0 and manifest.policy.shift.signature == (
            0,
            32,
        ), "conditions are told apart in the features"
        assert np.isfinite(learner.bundle.weights(FROZEN)["route.projection"]).all()
        assert accuracy(learner.predict(test.x).labels, test) > 0.9
        learner.learn(test.x[:8], [CLASSES[k] for k in test.y[:8]])
        learner.settle()
        assert accuracy(learner.predict(test.x[8:]).labels, test.take(np.arange(8, 200))) > 0.9
