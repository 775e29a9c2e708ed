"""Export: from an encoder and calibration data to a bundle that a learner opens."""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import edgeadapt
from edgeadapt import host
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, read_bundle, write_bundle
from edgeadapt.bundle.packed_gram import packed_width
from edgeadapt.bundle.signature import generate_key
from edgeadapt.errors import BundleError, InputError
from edgeadapt.host.assembly import calibration as calibrate
from edgeadapt.host.exporting.settings import NOVELTY, ONLY_BY_NAME


def blobs(
    count: int, dim: int = 24, classes: int = 4, seed: int = 0, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, dim)) * 3
    y = np.arange(count) % classes
    return (centres[y] + spread * rng.standard_normal((count, dim))).astype(np.float32), y.astype(
        np.int64
    )


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "blobs.edge"
    host.export(
        path, host.Identity(24), blobs(400), ["a", "b", "c", "d"], name="blobs", stress=False
    )
    return path


def test_feature_vectors_are_first_class(identity: Path) -> None:
    x, y = blobs(200, seed=1)
    with edgeadapt.open(identity) as learner:
        assert (
            np.array(learner.predict(features={"z": x}).labels) == np.array(list("abcd"))[y]
        ).mean() > 0.95
        learner.add_class("e")
        extra = (x[:10] * 0 + 9 + np.random.default_rng(0).standard_normal((10, 24))).astype(
            np.float32
        )
        learner.learn(None, ["e"] * 10, features={"z": extra})
        learner.settle()
        assert learner.predict(features={"z": extra + 0.1}).labels == ("e",) * 10


def test_a_ridge_of_few_columns_takes_random_features_and_one_of_many_does_not(
    tmp_path: Path,
) -> None:
    found = {}
    for dim in (24, 80):
        bundle = host.export(
            tmp_path / f"{dim}.edge",
            host.Identity(dim),
            blobs(200, dim=dim),
            ["a", "b", "c", "d"],
            stress=False,
            head="ridge",
        )
        found[dim] = "ridge.features" in {spec.name for spec in bundle.manifest.tensors}
    assert found == {24: True, 80: False}


def shifted_stream(path: Path | Bundle) -> tuple[np.ndarray, np.ndarray, str]:
    """The last embeddings and inputs of a stream with a constant offset on every feature, and the
    method.
    """
    x, _ = blobs(3200, seed=2)
    with edgeadapt.open(path, budget=edgeadapt.Budget(busy_fraction=1.0)) as learner:
        for start in range(0, 3200, 32):
            seen = learner.observe(features={"z": x[start : start + 32] + 1.5})
            learner.settle()
        assert seen.reading.is_shifted
        return seen.prediction.embedding, x[-32:], learner.bundle.manifest.policy.adapt.method


def test_advice_changes_nothing(identity: Path) -> None:
    embedding, x, method = shifted_stream(identity)
    assert method == "feature_shift"
    assert np.allclose(embedding, x + 1.5, atol=1e-5)


def test_feature_shift_moves_a_shifted_stream_back(identity: Path, tmp_path: Path) -> None:
    bundle = read_bundle(identity)
    policy = bundle.manifest.policy
    acting = msgspec.structs.replace(
        policy, adapt=msgspec.structs.replace(policy.adapt, mode="act")
    )
    manifest = msgspec.structs.replace(bundle.manifest, policy=acting, members={})
    graphs = {graph.file: bundle.graph(graph.file) for graph in manifest.graphs}
    weights = {member: dict(bundle.weights(member)) for member in (FROZEN, FACTORY, GUARD)}
    embedding, x, _ = shifted_stream(
        write_bundle(tmp_path / "acting.edge", manifest, graphs, weights, {})
    )
    assert abs((embedding - x).mean()) < 0.75, "at least half of the offset of 1.5 is taken back"


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.block = nn.Sequential(
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.stem(x / 255.0)).mean((2, 3)))


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three kinds of 16 x 16 images: horizontal, vertical and no stripes."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.integers(0, 60, (count, 16, 16))
    x[y == 0, ::4] += 180
    x[y == 1, :, ::4] += 180
    return x.astype(np.uint8), y.astype(np.int64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TinyNet]:
    torch.manual_seed(0)
    net = TinyNet()
    x, y = (torch.from_numpy(a) for a in stripes(300, 1))
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(x[:, None].float()), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("images") / "stripes.edge"
    host.export(
        path,
        net.eval(),
        stripes(240, 2),
        ["rows", "columns", "plain"],
        stress=False,
        private_key=generate_key()[0],
    )
    return path, net


def test_the_bundle_computes_the_features_of_the_module(images: tuple[Path, TinyNet]) -> None:
    path, net = images
    x, _ = stripes(30, 3)
    with torch.no_grad():
        expected = net.block(net.stem(torch.from_numpy(x)[:, None] / 255.0)).mean((2, 3)).numpy()
    with edgeadapt.open(path) as learner:
        assert np.allclose(learner.predict(x).embedding, expected, atol=1e-4)


def test_a_bundle_carries_each_weight_once_and_none_that_no_graph_reads(
    images: tuple[Path, TinyNet],
) -> None:
    path, net = images
    bundle = read_bundle(path)
    read = {name for graph in bundle.manifest.graphs for name in (*graph.frozen, *graph.reads)}
    frozen = bundle.weights(FROZEN)
    encoder = {name: value for name, value in frozen.items() if name.startswith("encoder.")}
    assert set(encoder) <= read and not any(
        net.head.weight.shape == value.shape for value in encoder.values()
    )
    # two methods may centre by the same vector
    large = {name: value.tobytes() for name, value in frozen.items() if value.ndim > 1}
    assert len(set(large.values())) == len(large) > 8
    convolutions = sum(p.numel() for p in net.parameters() if p.dim() == 4)
    channels = 8 + 16
    # a scale and a shift each
    assert sum(value.size for value in encoder.values()) == convolutions + 2 * channels
    assert frozen["norms.class_mean"].shape == frozen["norms.class_variance"].shape == (3, channels)


def test_the_files_of_a_bundle_have_no_empty_class_slots_and_half_of_a_gram_matrix(
    images: tuple[Path, TinyNet],
) -> None:
    bundle = read_bundle(images[0])
    with zipfile.ZipFile(images[0]) as archive:
        lies = {
            name: value
            for member in (FROZEN, FACTORY)
            for name, value in safetensors.numpy.load(archive.read(member)).items()
        }
    gram = bundle.weights(FACTORY)["slda.gram"]
    width = packed_width(gram.size)
    assert lies["slda.gram"].size == width * (width + 1) // 2 < gram.size
    sums = [
        spec
        for spec in bundle.manifest.tensors
        if spec.kind == "evidence" and spec.class_axis is not None
    ]
    assert sums and all(
        lies[spec.name].shape[spec.class_axis] == 3 < spec.shape[spec.class_axis] for spec in sums
    )
    assert lies["norms.class_mean"].dtype == lies["norms.class_variance"].dtype == np.float16


def test_the_manifest_says_how_every_graph_compared_with_torch(
    images: tuple[Path, TinyNet],
) -> None:
    bundle = read_bundle(images[0])
    assert bundle.signed_by is not None
    roles = {role for graph in bundle.manifest.graphs for role in graph.roles}
    assert roles == {"encode", "correct", "predict", "novelty", "shift", "learn", "adapt", "derive"}
    for graph in bundle.manifest.graphs:
        assert graph.parity.cases >= 8
        assert graph.parity.worst_error <= 2e-2


def test_adaptation_only_advises_when_it_was_not_stress_tested(
    images: tuple[Path, TinyNet],
) -> None:
    adapt = read_bundle(images[0]).manifest.policy.adapt
    assert (adapt.mode, adapt.method, adapt.reason) == (
        "advise",
        "class_matched_statistics",
        "not stress-tested",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "svm"}, "head is one of slda, ridge, nearest_mean, key_value, got 'svm'"),
        ({"novelty": "entropy"}, "novelty is one of"),
        ({"adapt": "guesswork"}, "adapt is one of"),
        ({"adapt": "norm_statistics"}, "needs an encoder with batch-norm layers that can adapt"),
        ({"class_slots": 2}, "4 classes do not fit into class_slots = 2"),
        ({"colour_order": "bgr"}, "unknown setting"),
    ],
)
def test_settings_are_refused_by_name(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        host.export(
            tmp_path / "x.edge", host.Identity(24), blobs(80), ["a", "b", "c", "d"], **settings
        )
    assert not (tmp_path / "x.edge").exists()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            np.zeros((8, 24), np.float32),
            np.zeros(8, np.int64),
            "class 'b' has 0 calibration samples, 5 are needed",
        ),
        (np.full((80, 24), np.nan, np.float32), np.arange(80) % 4, "not finite"),
        (np.zeros((80, 24), np.float32), np.arange(80) % 5, "index the 4 classes, got 0..4"),
        (np.zeros((80, 24), np.float32), np.zeros(79, np.int64), "got \\(80, 24\\) and \\(79,\\)"),
        (np.zeros((80, 12), np.float32), np.arange(80) % 4, "width 24, got 12"),
    ],
)
def test_calibration_data_is_checked(
    x: np.ndarray, y: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        host.export(tmp_path / "x.edge", host.Identity(24), (x, y), ["a", "b", "c", "d"])


def test_thresholds_hold_on_fresh_clean_windows_of_every_class_mix(identity: Path) -> None:
    x, y = blobs(2000, seed=5)
    with edgeadapt.open(identity) as learner:
        alarms = {}
        for kind, windows in calibrate.class_mix_windows(
            y, 32, 150, np.random.default_rng(6)
        ).items():
            readings = []
            for number, rows in enumerate(windows):
                seen = learner.observe(features={"z": x[rows]}, stream=f"{kind}-{number}")
                readings.append(seen.reading.is_shifted)
            alarms[kind] = np.mean(readings)
        assert max(alarms.values()) <= 0.04, alarms
        moved = [
            learner.observe(features={"z": x[rows] + 2.0}, stream=f"moved-{i}").reading.is_shifted
            for i, rows in enumerate(windows[:50])
        ]
        assert np.mean(moved) >= 0.95


def test_the_novelty_score_is_chosen_on_held_out_classes(identity: Path) -> None:
    novelty = read_bundle(identity).manifest.policy.novelty
    assert set(novelty.alternatives) == set(NOVELTY) - set(ONLY_BY_NAME)
    assert novelty.auroc == max(novelty.alternatives.values()) > 0.9


def test_an_untrusted_signature_is_refused(images: tuple[Path, TinyNet]) -> None:
    with pytest.raises(BundleError, match="key"):
        edgeadapt.open(images[0], trust=[generate_key()[1]])
