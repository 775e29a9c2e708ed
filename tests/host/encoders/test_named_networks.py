"""Encoders by name: sizes and moments of their own, weights only from where they are named."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeadapt.commands._recipe_steps import built_network, finished_encoder
from edgeadapt.errors import InputError, RecipeError, RuntimeUnavailable
from edgeadapt.host import named_encoder
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.encoders.named_networks import headless, input_config, pretrained_network
from edgeadapt.host.encoders.networks import Normalised, build_network
from edgeadapt.host.recipe import load_recipe

SPEC = "torchvision:mobilenet_v3_small"
RECIPE = '[encoder]\n{}\n[data]\nkind = "folder"\npath = "p"\n[export]\nname = "x"\n'
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something reaches for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(build_network(SPEC, 1000, 3, seed=5).state_dict(), path)
    return path


def recipe(folder: Path, lines: str) -> Any:
    (folder / "r.toml").write_text(RECIPE.format(lines), encoding="utf-8")
    return load_recipe(folder / "r.toml")


def feature(encoder: Any) -> torch.Tensor:
    return encoder.encode({"x": torch.from_numpy(IMAGES)}, encoder.frozen)["z"]  # type: ignore


def pixels(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).float().permute(0, 3, 1, 2)


def test_a_torchvision_network_from_a_file_has_its_weights_size_and_moments(weights: Path) -> None:
    assert input_config(SPEC).size == (224, 224)
    module = named_encoder(SPEC, str(weights))
    assert torch.allclose(module.normalise.mean.ravel() / 255, torch.tensor([0.485, 0.456, 0.406]))
    inner = build_network(SPEC, 1000, 3, seed=5).eval()
    x = (pixels(IMAGES) / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    maps = inner.avgpool(inner.features(x))  # type: ignore[operator]
    want = inner.classifier[:3](maps.flatten(1))  # type: ignore[index, operator]
    encoder = as_encoder(module, IMAGES)
    z = feature(encoder)
    assert z.shape == (6, 1024) and torch.allclose(
        z, want, atol=1e-4 * float(want.abs().max().detach())
    )


def test_gray_images_are_given_to_all_three_channels(weights: Path) -> None:
    module = named_encoder(SPEC, str(weights))
    gray = IMAGES[..., :1]
    assert torch.allclose(module(pixels(gray)), module(pixels(gray.repeat(3, axis=3))), atol=1e-6)
    assert as_encoder(module, IMAGES[..., 0]).dim == 1024


def test_a_recipe_with_pretrained_weights_is_a_finished_encoder_of_its_own_image_size(
    tmp_path: Path, weights: Path
) -> None:
    found = recipe(tmp_path, f'network = "{SPEC}"\npretrained = "{weights.name}"')
    assert found.data.size == (224, 224) and found.encoder.pretrained == str(
        tmp_path / weights.name
    )
    assert recipe(tmp_path, f'network = "{SPEC}"').data.size == (96, 96)
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    data = ImageData(IMAGES, np.arange(6) % 2, ("a", "b"))
    assert isinstance(finished_encoder(found, data), Normalised)
    fine = built_network(found, data, found.encoder.pretrained)
    assert fine.classifier[3].out_features == 2 and torch.equal(
        fine.features[0][0].weight, torch.load(weights)["features.0.0.weight"]
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            'pretrained = "w.pth"',
            "pretrained is not allowed for small-residual; allowed: 'timm:NAME'",
        ),
        (
            f'network = "{SPEC}"\npretrained = "hub:huggingface.co"',
            "allowed: a file of weights, or 'hub:download.pytorch.org'",
        ),
        ('file = "a.onnx"\npretrained = "w.pth"', "pretrained are allowed only without it"),
    ],
)
def test_pretrained_weights_that_cannot_be_are_refused_by_the_recipe(
    tmp_path: Path, lines: str, reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason):
        recipe(tmp_path, lines)


def test_a_missing_or_foreign_file_is_named_and_nothing_is_downloaded_instead(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        InputError,
        match=r"no such file of weights; nothing downloads unless encoder.pretrained = 'hub:",
    ):
        pretrained_network(SPEC, 0, str(tmp_path / "none.pth"))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"not the weights of 'torchvision:mobilenet_v3_small'"):
        pretrained_network(SPEC, 0, str(tmp_path / "other.safetensors"))
    with pytest.raises(InputError, match=r"are on 'hub:download\.pytorch\.org'"):
        pretrained_network(SPEC, 0, "hub:example.org")


def test_a_hub_that_is_named_is_asked_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    asked: list[Any] = []
    monkeypatch.setattr(
        torchvision.models,
        "get_model",
        lambda name, **wanted: asked.append((name, wanted)) or nn.Flatten(),
    )
    pretrained_network(SPEC, 0, "hub:download.pytorch.org")
    assert asked == [("mobilenet_v3_small", {"weights": "DEFAULT"})]


def test_without_timm_the_error_has_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'edgeadapt\[timm\]'"):
        build_network("timm:resnet18", 2, 3)


# -- timm -----------------------------------------------------------------------------------------

NAME = "timm:mobilenetv4_conv_small_035"


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm")


def test_a_timm_network_has_the_size_and_moments_of_its_own_table(
    timm: Any, tmp_path: Path
) -> None:
    config = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    found = recipe(tmp_path, 'network = "timm:vit_tiny_patch16_224"')
    assert found.data.size == config.input_size[1:] == (224, 224)
    network = build_network("timm:vit_tiny_patch16_224", 3, 3, img_size=32)
    assert network.input_moments == ([127.5] * 3, [127.5] * 3)
    data = ImageData(IMAGES, np.arange(6) % 3, ("a", "b", "c"))
    assert built_network(found, data, "")(pixels(IMAGES)).shape == (
        6,
        3,
    ), "the recipe makes it for 32 px"


def test_a_trained_timm_network_is_exported_without_its_classifier(timm: Any) -> None:
    module = Normalised(build_network(NAME, 3, 3), [120.0] * 3, [60.0] * 3).eval()
    inner = module.network
    x = module.normalise(pixels(IMAGES))
    want = inner.forward_head(inner.forward_features(x), pre_logits=True)  # type: ignore[operator]
    encoder = as_encoder(headless(module), IMAGES)
    z = feature(encoder)
    assert encoder.dim == 1280 and torch.allclose(z, want, atol=1e-4 * float(want.abs().max()))
    assert len(encoder.norms) > 20 and encoder.left_frozen == ()  # type: ignore[attr-defined]


def config_mean(timm: Any) -> float:
    return timm.get_pretrained_cfg("mobilenetv4_conv_small_035").mean[2]  # type: ignore


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_timm_network_takes_its_weights_from_a_file_or_a_folder(
    timm: Any, tmp_path: Path, kind: str
) -> None:
    donor = build_network(NAME, 1000, 3, seed=7)
    save_file(
        {k: v.contiguous() for k, v in donor.state_dict().items()}, tmp_path / "model.safetensors"
    )
    trained_with = {"mean": [0.5, 0.5, 0.25], "num_classes": 1000}
    config = {"architecture": NAME[5:], "pretrained_cfg": trained_with}
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = tmp_path if kind == "folder" else tmp_path / "model.safetensors"
    module = named_encoder(NAME, str(given))
    assert module.normalise.mean.ravel()[2] == 255 * (
        0.25 if kind == "folder" else config_mean(timm)
    )
    assert torch.equal(module.network.conv_stem.weight, donor.conv_stem.weight)  # type: ignore[union-attr]
    assert module(pixels(IMAGES)).shape == (6, 1280)
    fine = pretrained_network(NAME, 4, str(given), seed=1)
    assert fine(pixels(IMAGES)).shape == (6, 4) and torch.equal(
        fine.conv_stem.weight, donor.conv_stem.weight
    )


def test_weights_of_another_timm_network_are_refused(timm: Any, tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(
        InputError,
        match=r"has no weights for \d+ tensors of 'timm:mobilenetv4_conv_small_035': conv_stem",
    ):
        named_encoder(NAME, str(tmp_path / "w.safetensors"))
    with pytest.raises(
        InputError, match=r"nothing downloads unless encoder.pretrained = 'hub:huggingface.co'"
    ):
        named_encoder(NAME, str(tmp_path / "none.safetensors"))
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": {}}')
    with pytest.raises(InputError, match="holds weights of 'resnet18'"):
        named_encoder(NAME, str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "options", "reason"),
    [
        ("timm:mobilenetv4_conv_smal", {}, "did you mean mobilenetv4_conv_small"),
        ("timm:resnet18.nothing", {}, "did you mean resnet18[.]"),
        (
            NAME,
            {"pretrained": True},
            "takes no option 'pretrained'; .* 'hub:huggingface.co', which alone downloads",
        ),
        (NAME, {"colour": 3}, "cannot be made with {'colour': 3}"),
    ],
)
def test_a_name_or_option_that_timm_does_not_have_is_refused(
    timm: Any, spec: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        build_network(spec, 3, 3, **options)


@pytest.mark.slow
def test_at_least_sixty_networks_of_twelve_families_give_the_feature_of_the_untouched_one(
    timm: Any,
) -> None:
    from edgeadapt_bench.precision.encoder_parity import FAMILIES, checked

    passing = {
        family: [row.name for row in map(checked, names) if row.passes]
        for family, names in FAMILIES.items()
    }
    assert sum(map(len, passing.values())) >= 60 and sum(map(bool, passing.values())) >= 12, passing
