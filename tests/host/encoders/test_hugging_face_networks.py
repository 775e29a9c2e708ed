"""Networks from a local folder of Hugging Face: pixels, feature and weights are the folder's
own.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeadapt.commands._recipe_steps import built_network, finished_encoder
from edgeadapt.errors import InputError, RecipeError
from edgeadapt.host.assembly.composition import compile_encoder
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.encoders.hugging_face_networks import folder_config
from edgeadapt.host.encoders.named_networks import headless, named_encoder
from edgeadapt.host.recipe import load_recipe

IMAGES = (
    np.random.default_rng(0)
    .integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    .repeat(8, 1)
    .repeat(8, 2)
)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
PIXELS = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "image_mean": MEAN,
    "image_std": STD,
}
TOKENS = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something reaches for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def hf() -> Any:
    return pytest.importorskip("transformers")


def folder(path: Path, pixels: dict[str, Any] | None = None, model: Any = None) -> Path:
    path.mkdir(exist_ok=True)
    if model is None:
        (path / "config.json").write_text('{"model_type": "vit", "image_size": 48}')
    else:
        model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PIXELS if pixels is None else pixels))
    return path


def normalised(x: np.ndarray = IMAGES) -> torch.Tensor:
    unit = torch.from_numpy(x).float().permute(0, 3, 1, 2) / 255
    return (unit - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def small(hf: Any, name: str) -> Any:
    """A network with random weights that stand as after training."""
    torch.manual_seed(0)
    kind, _, task = name.partition("/")
    config = {
        "ViT": lambda: hf.ViTConfig(**TOKENS),
        "DeiT": lambda: hf.DeiTConfig(**TOKENS),
        "Dinov2": lambda: hf.Dinov2Config(**TOKENS),
        "CLIPVision": lambda: hf.CLIPVisionConfig(**TOKENS),
        "SiglipVision": lambda: hf.SiglipVisionConfig(**TOKENS),
        "MobileNetV2": lambda: hf.MobileNetV2Config(image_size=32, depth_multiplier=0.25),
        "MobileViT": lambda: hf.MobileViTConfig(
            image_size=32,
            hidden_sizes=[24, 32, 40],
            num_attention_heads=2,
            neck_hidden_sizes=[8, 8, 12, 16, 16, 20, 64],
        ),
        "ResNet": lambda: hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
        "ConvNext": lambda: hf.ConvNextConfig(
            hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32
        ),
    }[kind]()
    model = getattr(hf, f"{kind}{task or 'Model'}")(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(normalised())
    return model.eval()


def before_classifier(model: Any, x: torch.Tensor) -> torch.Tensor:
    taken: list[torch.Tensor] = []
    last = [m for m in model.classifier.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _m, inputs: taken.append(inputs[0]))
    model(x)
    return taken[0]


FEATURES: dict[str, Any] = {
    "ViT": lambda out: out.pooler_output,
    "DeiT": lambda out: out.pooler_output,
    "Dinov2": lambda out: out.last_hidden_state[:, 0],
    "CLIPVision": lambda out: out.pooler_output,
    "SiglipVision": lambda out: out.pooler_output,
    "MobileNetV2": lambda out: out.last_hidden_state.mean((2, 3)),
    "MobileViT": lambda out: out.last_hidden_state.mean((2, 3)),
    "ResNet": lambda out: out.last_hidden_state.mean((2, 3)),
    "ConvNext": lambda out: out.pooler_output,
    "ViT/ForImageClassification": None,
    "Dinov2/ForImageClassification": None,
    "MobileNetV2/ForImageClassification": None,
    "ResNet/ForImageClassification": None,
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_folder_gives_the_feature_of_the_untouched_network(
    hf: Any, tmp_path: Path, name: str
) -> None:
    model = small(hf, name)
    place = folder(tmp_path / "net", model=model)
    with torch.no_grad():
        x, take = normalised(), FEATURES[name]
        want = take(model(x)) if take else before_classifier(model, x)
        encoder = as_encoder(named_encoder(f"hf:{place}"), IMAGES)
        z = encoder.encode({"x": torch.from_numpy(IMAGES)}, encoder.frozen)["z"]
    assert z.shape == want.shape and float((z - want).abs().max()) < 1e-3 * float(want.abs().max())
    assert float(want.std(0).max()) > 1e-2 * float(want.abs().max()), (
        "images must differ in their feature"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ViT", "MobileViT", "SiglipVision", "ResNet/ForImageClassification"]
)
def test_a_folder_becomes_a_checked_graph(hf: Any, tmp_path: Path, name: str) -> None:
    place = folder(tmp_path / "net", model=small(hf, name))
    compiled = compile_encoder(as_encoder(named_encoder(f"hf:{place}"), IMAGES))
    assert compiled is not None and compiled.graph.parity.worst_error <= 1e-4


def test_a_pooler_without_weights_is_never_the_feature(hf: Any, tmp_path: Path) -> None:
    model = hf.ViTModel(hf.ViTConfig(**TOKENS), add_pooling_layer=False).eval()
    place = folder(tmp_path / "net", model=model)
    with torch.no_grad():
        got = named_encoder(f"hf:{place}")(torch.from_numpy(IMAGES).float().permute(0, 3, 1, 2))
        assert torch.allclose(got, model(normalised()).last_hidden_state[:, 0], atol=1e-4)
        mean = named_encoder(f"hf:{place}", feature="mean")(
            torch.from_numpy(IMAGES).float().permute(0, 3, 1, 2)
        )
        assert torch.allclose(mean, model(normalised()).last_hidden_state.mean(1), atol=1e-4)
    with pytest.raises(InputError, match="has no trained pooler"):
        named_encoder(f"hf:{place}", feature="pooler")


def test_of_a_network_for_images_and_text_the_images_are_taken(hf: Any, tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    config = hf.CLIPConfig(vision_config=TOKENS, text_config=text)
    model = hf.CLIPModel(config).eval()
    place = folder(tmp_path / "net", model=model)
    with torch.no_grad():
        got = named_encoder(f"hf:{place}")(torch.from_numpy(IMAGES).float().permute(0, 3, 1, 2))
        want = model.vision_model(normalised()).pooler_output
    assert torch.allclose(got, want, atol=1e-4)


def test_channels_that_the_folder_flips_are_flipped(hf: Any, tmp_path: Path) -> None:
    model = small(hf, "MobileViT")
    flips = {
        "size": {"shortest_edge": 36},
        "do_center_crop": True,
        "crop_size": 32,
        "do_flip_channel_order": True,
    }
    place = folder(tmp_path / "net", flips, model)
    x = torch.from_numpy(IMAGES).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.allclose(
            named_encoder(f"hf:{place}")(x), model(x.flip(1) / 255).pooler_output, atol=1e-5
        )
    assert folder_config(str(place)).size == (32, 32)


def test_another_size_of_images_interpolates_the_positions(hf: Any, tmp_path: Path) -> None:
    model = small(hf, "ViT")
    place = folder(tmp_path / "net", model=model)
    large = np.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        got = named_encoder(f"hf:{place}")(torch.from_numpy(large).float().permute(0, 3, 1, 2))
        want = model(normalised(large), interpolate_pos_encoding=True).pooler_output
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("pixels", "size", "mean", "std"),
    [
        ({"size": 40, "image_mean": 0.5, "image_std": 0.5}, (40, 40), 127.5, 127.5),
        (
            {"size": {"height": 40, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            (40, 56),
            127.5,
            127.5,
        ),
        (
            {
                "size": {"shortest_edge": 64},
                "crop_size": {"height": 56, "width": 56},
                "do_center_crop": True,
                "do_normalize": False,
            },
            (56, 56),
            0.0,
            255.0,
        ),
        (
            {
                "size": {"shortest_edge": 64},
                "do_rescale": False,
                "image_mean": [100] * 3,
                "image_std": [50] * 3,
            },
            (64, 64),
            100,
            50,
        ),
        (
            {
                "size": 40,
                "rescale_factor": 1 / 127.5,
                "image_mean": [1.0] * 3,
                "image_std": [1.0] * 3,
            },
            (40, 40),
            127.5,
            127.5,
        ),
        ({"do_resize": False, "size": 40, "do_normalize": False}, (48, 48), 0.0, 255.0),
    ],
)
def test_pixels_are_what_the_preprocessor_says(
    tmp_path: Path, pixels: dict[str, Any], size: tuple[int, int], mean: float, std: float
) -> None:
    found = folder_config(str(folder(tmp_path / "net", pixels)))
    assert found.size == size
    assert found.mean == pytest.approx((mean,) * 3) and found.std == pytest.approx((std,) * 3)


def test_a_folder_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing downloads: hf download OWNER/NAME"):
        named_encoder("hf:google/vit-base-patch16-224")
    place = folder(tmp_path / "net")
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        named_encoder(f"hf:{place}")
    (place / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: a pickle.*safe_serialization=True"):
        named_encoder(f"hf:{place}")
    (place / "preprocessor_config.json").write_text('{"do_normalize": true, "size": 32}')
    with pytest.raises(InputError, match="do_normalize needs image_mean"):
        folder_config(str(place))
    (place / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json, which says what pixels"):
        folder_config(str(place))


def test_code_in_a_folder_never_runs(hf: Any, tmp_path: Path) -> None:
    place = folder(tmp_path / "net", model=small(hf, "ViT"))
    ran = tmp_path / "ran"
    (place / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (place / "config.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match="not a vision network that transformers"):
        named_encoder(f"hf:{place}")
    assert not ran.exists()


def test_missing_weights_are_refused_and_not_made_up(hf: Any, tmp_path: Path) -> None:
    place = folder(tmp_path / "net", model=small(hf, "ViT"))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"has no weights for \d+ tensors of ViTModel"):
        named_encoder(f"hf:{place}")


def test_a_recipe_names_a_folder_beside_it_and_training_goes_on_from_there(
    hf: Any, tmp_path: Path
) -> None:
    model = small(hf, "ResNet")
    folder(tmp_path / "net", model=model)
    text = (
        '[encoder]\nnetwork = "hf:./net"\n{}[data]\nkind = "folder"\npath = "p"\n[export]\nname ='
        ' "x"\n'
    )
    (tmp_path / "r.toml").write_text(text.format(""))
    recipe = load_recipe(tmp_path / "r.toml")
    assert recipe.data.size == (32, 32)
    data = ImageData(IMAGES, np.arange(4) % 2, ("a", "b"))
    x = torch.from_numpy(IMAGES).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        assert finished_encoder(recipe, data)(x).shape == (4, 16)
    fine = built_network(recipe, data, "")
    assert fine(normalised()).shape == (4, 2)
    assert torch.equal(
        fine.model.embedder.embedder.convolution.weight, model.embedder.embedder.convolution.weight
    )
    assert as_encoder(headless(fine.eval()), IMAGES).dim == 16, (
        "the feature is in front of the new classifier"
    )
    (tmp_path / "r.toml").write_text(text.format('pretrained = "w.safetensors"\n'))
    with pytest.raises(RecipeError, match="the folder has its weights"):
        load_recipe(tmp_path / "r.toml")
