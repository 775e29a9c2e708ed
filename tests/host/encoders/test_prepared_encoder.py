"""A prepared encoder computes what the untouched module does, where its feature is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.batch_statistics import BatchStatisticsPass

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
IMAGES = torch.from_numpy(PIXELS).float().permute(0, 3, 1, 2)


class NormAct(nn.BatchNorm2d):
    """As timm's ``BatchNormAct2d``: the norm, then its own modules."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        return self.act(self.drop(y))  # type: ignore[no-any-return]


class DoubledNorm(nn.BatchNorm2d):
    """Not a norm and then modules: nothing but its own code knows what it does."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Bottle(nn.Module):
    """Two convolutions, each with a norm of the given type, then the average: headless."""

    def __init__(self, norm: type[nn.BatchNorm2d], *behind: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, 2, 1, bias=False), norm(6)
        self.second, self.last = nn.Conv2d(6, 8, 3, 2, 1, bias=False), norm(8)
        self.behind = nn.Sequential(*behind)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.second(self.norm(self.first(x / 255))))
        return self.behind(x.mean((2, 3)))  # type: ignore[no-any-return]


def trained(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 1.0, generator=generator)
            tensor.data[::2] *= -1 if tensor.dim() != 1 else 1
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.bias.data.uniform_(-1.0, 0.5, generator=generator)
    return module.eval()


def encoded(encoder: Any) -> dict[str, Tensor]:
    return encoder.encode({"x": torch.from_numpy(PIXELS)}, encoder.frozen)  # type: ignore[no-any-return]


@pytest.mark.parametrize("taps", [None, ["norm"]], ids=["taps chosen", "taps named"])
def test_a_norm_with_an_activation_inside_keeps_its_activation_and_its_norm_adapts(
    taps: list[str] | None,
) -> None:
    module = trained(Bottle(NormAct))
    encoder = as_encoder(module, PIXELS, taps=taps)
    assert isinstance(encoder, ModuleEncoder) and encoder.left_frozen == ()
    assert [layer.path for layer in encoder.norms] == ["norm.norm", "last.norm"]
    assert {"encoder.norm.norm.scale", "encoder.last.norm.shift"} <= set(encoder.frozen)
    out = encoded(encoder)
    assert torch.allclose(out["z"], module(IMAGES), atol=1e-5) and out["z"].min() >= 0
    tap = module.get_submodule("norm")(module.get_submodule("first")(IMAGES / 255))
    assert torch.allclose(out["taps"], tap.mean((2, 3)), atol=1e-5)


def test_the_norm_inside_measures_the_statistics_of_its_own_input() -> None:
    module = trained(Bottle(NormAct))
    through = BatchStatisticsPass(as_encoder(module, PIXELS))  # type: ignore[arg-type]
    first = module.get_submodule("first")(IMAGES / 255)
    values = {**through.encoder.frozen, **through.frozen}
    passed = through(
        torch.from_numpy(PIXELS),
        torch.ones(4),
        values,
        values["norms.gain"],
        values["norms.offset"],
    )
    assert torch.allclose(passed.mean[:6], first.mean((0, 2, 3)), atol=1e-5)
    gain = first.sub(passed.mean[:6, None, None]) / torch.sqrt(
        passed.variance[:6, None, None] + 1e-5
    )
    rest = torch.relu(gain * module.norm.weight[:, None, None] + module.norm.bias[:, None, None])  # type: ignore[index, operator]
    assert torch.allclose(
        passed.mean[6:], module.get_submodule("second")(rest).mean((0, 2, 3)), atol=1e-4
    )


def test_a_norm_of_unknown_meaning_stays_as_trained_and_is_named() -> None:
    module = trained(Bottle(DoubledNorm))
    encoder = as_encoder(module, PIXELS)
    assert isinstance(encoder, ModuleEncoder) and encoder.norms == ()
    assert encoder.left_frozen == ("norm (DoubledNorm)", "last (DoubledNorm)")
    assert torch.allclose(encoded(encoder)["z"], module(IMAGES), atol=1e-5)


class ReadsItsNorm(nn.Module):
    """Runs its norm, and shifts what comes out by a weight that only a batch-norm has."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv, self.norm, self.name = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), name

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x / 255))
        known = (
            getattr(self.norm, self.name)
            if self.name == "weight"
            else getattr(self.norm, self.name, 0.0) * 7
        )
        return (y.mean((2, 3)) + known) ** 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [("momentum", r"norm.*is off by .* of "), ("weight", "norm.*no attribute 'weight'")],
)
def test_an_encoder_that_preparing_changes_is_refused_by_the_name_of_its_norm(
    name: str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        as_encoder(trained(ReadsItsNorm(name)), PIXELS)


def test_the_comparison_is_on_the_calibration_inputs_themselves() -> None:
    class OnlyDark(ReadsItsNorm):
        def forward(self, x: Tensor) -> Tensor:
            return (
                super().forward(x)
                if float(x.max()) == 7.0
                else self.norm(self.conv(x / 255)).mean((2, 3))
            )

    as_encoder(trained(OnlyDark("momentum")), PIXELS)
    with pytest.raises(InputError, match="is off by"):
        as_encoder(trained(OnlyDark("momentum")), np.minimum(PIXELS, 7))


class Transformer(nn.Module):
    """Patches, one block of a token mixer and a perceptron, a norm, the average over tokens."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 12, 4, 4)
        self.norm1 = nn.LayerNorm(12)
        self.norm2 = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.up = nn.Linear(12, 24)
        self.down = nn.Linear(24, 12)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x / 255).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        tokens = tokens + torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v
        tokens = tokens + self.down(F.gelu(self.up(self.norm2(tokens))))
        return self.head(tokens.mean(1))  # type: ignore[no-any-return]


def test_the_feature_of_a_headless_transformer_is_its_output() -> None:
    module = trained(Transformer(nn.Identity()))
    encoder = as_encoder(module, PIXELS)
    assert isinstance(encoder, ModuleEncoder) and encoder.dim == 12
    assert encoder.feature_from == "the output of Transformer"
    assert torch.allclose(encoded(encoder)["z"], module(IMAGES), rtol=1e-4)


class Softened(nn.Module):
    """A head whose logits are divided and normalised, and another head that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.spare = nn.Conv2d(3, 6, 5, 5), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x / 255).mean((2, 3))
        logits = self.head(z)
        self.spare(z.flip(1))
        return torch.log_softmax(logits / 3, dim=1)


class Gated(nn.Module):
    """Squeeze and excitation at the end, headless: the last linear layer is a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.down, self.up = nn.Conv2d(3, 6, 5, 5), nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x / 255)
        gate = torch.sigmoid(self.up(torch.relu(self.down(maps.mean((2, 3))))))
        return (maps * gate[:, :, None, None]).amax((2, 3))


@pytest.mark.parametrize(
    ("module", "place", "want"),
    [
        (
            Transformer(nn.Linear(12, 5)),
            "the input of head",
            lambda m, x: m.head.weight.pinverse() @ (m(x) - m.head.bias).T,
        ),
        (Softened(), "the input of head", lambda m, x: m.body(x / 255).mean((2, 3)).T),
        (Gated(), "the output of Gated", lambda m, x: m(x).T),
        (
            Bottle(nn.BatchNorm2d, nn.Linear(8, 5), nn.ReLU()),
            "the output of Bottle",
            lambda m, x: m(x).T,
        ),
        (Bottle(nn.BatchNorm2d, nn.Linear(8, 5), nn.LogSoftmax(1)), "the input of behind.0", None),
        (Bottle(nn.BatchNorm2d, nn.Linear(8, 1), nn.Flatten(0)), "the input of behind.0", None),
    ],
    ids=[
        "transformer with a head",
        "a spare head runs last",
        "a gate is no head",
        "headless perceptron",
        "softmax",
        "one logit",
    ],
)
def test_the_feature_is_in_front_of_the_layer_that_the_answer_passes_through(
    module: nn.Module, place: str, want: Any
) -> None:
    encoder = as_encoder(trained(module), PIXELS)
    assert isinstance(encoder, ModuleEncoder) and encoder.feature_from == place
    z = encoded(encoder)["z"]
    if place == "the input of head" and isinstance(module, Transformer):
        assert encoder.dim == 12 and torch.allclose(module.head(z), module(IMAGES), rtol=1e-4)
    elif want is not None:
        assert torch.allclose(z.T, want(module, IMAGES), rtol=1e-4)
    else:
        assert encoder.dim == 8


def test_maps_whose_channels_come_last_and_those_of_attention_are_not_tapped() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.mix, self.heads = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.mix(self.cut(x / 255).permute(0, 2, 3, 1))  # (B, 4, 4, 6)
            return self.heads(x.reshape(-1, 16, 2, 3).transpose(1, 2)).mean((1, 2))  # (B, 2, 16, 3)

    encoder = as_encoder(trained(Last()), PIXELS)
    assert isinstance(encoder, ModuleEncoder) and encoder._taps == ("cut",)


def test_the_map_that_becomes_tokens_is_tapped_beside_the_one_before() -> None:
    module = trained(nn.Sequential(nn.Conv2d(3, 5, 1), Transformer(nn.Identity())))
    module[1].cut = nn.Conv2d(5, 12, 4, 4)  # type: ignore[index]
    encoder = as_encoder(module, PIXELS)
    assert (
        isinstance(encoder, ModuleEncoder)
        and encoder._taps == ("0", "1.cut")
        and encoder.tap_dim == 17
    )


def test_windows_of_a_map_are_not_tapped_as_if_each_were_an_input() -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(3, 4, 4, 4)
            self.inner = nn.Identity()
            self.last = nn.Conv2d(4, 6, 2)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.cut(x / 255)
            quarters = torch.cat([maps[..., i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2)])
            return self.last(
                maps + self.inner(quarters).unflatten(0, (4, -1)).amax((0, 3, 4), True)[0]
            )

    encoder = as_encoder(trained(Squares()), PIXELS)
    assert isinstance(encoder, ModuleEncoder) and encoder._taps == ("cut",)
