"""The soft-Hebbian rule, alone and with a modulator, on a small trained network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_trained import dimmed, images, trained
from torch import Tensor, nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.label_free.encoder_space.entropy import Tent
from edgeadapt.host.methods.label_free.encoder_space.hebbian_modulator import (
    Hebbian,
    NeuroHebbian,
    ThreeFactorHebbian,
)
from edgeadapt.host.methods.label_free.encoder_space.soft_hebbian import SoftHebbian, stem_of


def filters(norms: Tensor) -> tuple[nn.Conv2d, Tensor]:
    convolution = nn.Conv2d(1, len(norms), 3, bias=False)
    weight = torch.randn(len(norms), 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return convolution, norms.reshape(-1, 1, 1, 1) * weight / weight.flatten(1).norm(dim=1).reshape(
        -1, 1, 1, 1
    )


def patches() -> Tensor:
    """Smooth images about 0, as a normalising first layer gives them."""
    x = images(12, 3)[0][:, None].float()
    return (x - x.mean()) / x.std()


def learned(rule: SoftHebbian, norms: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    convolution, source = filters(norms)
    weight, x = source, patches()
    for _ in range(steps):
        weight = rule.step(convolution, weight, source, x, torch.ones(len(x)))
    return source, weight


def test_the_published_rule_pulls_filters_to_norm_one_and_ours_leaves_their_norms() -> None:
    start = torch.full((8,), 0.2)
    _, published = learned(SoftHebbian(rate=0.05, keeps_norm=False), start, 250)
    norms = published.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(8), rtol=0, atol=2e-3)
    mixed = torch.tensor([0.05, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 0.2])
    source, kept = learned(SoftHebbian(rate=0.05, anchor=0.0), mixed, 250)
    torch.testing.assert_close(kept.flatten(1).norm(dim=1), mixed, rtol=1e-5, atol=0)
    turned = nn.functional.cosine_similarity(source.flatten(1), kept.flatten(1))
    assert float(turned.min()) < 0.9  # it learned


def test_where_one_channel_takes_every_position_the_others_learn_nothing() -> None:
    convolution, source = filters(torch.ones(6))
    # bright everywhere: the filter with the largest sum wins
    x = (patches() * 0.1 + 4.0).clamp(min=0.1)
    sums = source.flatten(1).sum(dim=1)
    moved = (
        SoftHebbian(rate=0.1, temperature=0.01, anchor=0.0).step(
            convolution, source, source, x, torch.ones(len(x))
        )
        - source
    )
    change = moved.flatten(1).abs().amax(dim=1)
    assert int(change.argmax()) == int(sums.argmax()) and float(
        change.sort().values[-2]
    ) < 1e-4 < 1e-2 < float(change.max())


def test_a_filter_that_was_pruned_away_stays_as_it_is() -> None:
    convolution, source = filters(torch.tensor([1.0, 1e-7, 0.0, 0.8]))
    moved = SoftHebbian(rate=0.1).step(convolution, source, source, patches(), torch.ones(12))
    assert torch.equal(moved[1:3], source[1:3]) and not torch.equal(moved[0], source[0])


def test_the_anchor_brings_filters_back() -> None:
    source, away = learned(SoftHebbian(rate=0.05, anchor=0.0), torch.ones(6), 20)
    convolution, weight = filters(torch.ones(6))[0], away
    rule = SoftHebbian(rate=0.0, anchor=0.2)
    for _ in range(40):
        weight = rule.step(convolution, weight, source, patches(), torch.ones(12))
    assert float((weight - source).abs().max()) < 1e-3 < 0.02 < float((away - source).abs().max())


STILL = SoftHebbian(rate=0.0)


def at_rest() -> list[Callable[[], Any]]:
    """Methods on the source's statistics whose rates are 0."""
    encoder = trained().encoder
    return [
        lambda: Hebbian(encoder, rule=STILL, over_statistics=False),
        lambda: ThreeFactorHebbian(encoder, Ridge(), rule=STILL, over_statistics=False),
        lambda: NeuroHebbian(encoder, Ridge(), rule=STILL, rate=0.0, over_statistics=False),
    ]


@pytest.mark.parametrize("number", range(3))
def test_rates_of_zero_leave_the_source_bit_for_bit(number: int) -> None:
    method, own = at_rest()[number](), trained()
    state = own.state(method)
    for _ in range(3):
        state, _ = own.refreshed(method, state, dimmed(images(64, 11)[0]))
    constants = method.refold({}, state)[1]
    assert all(torch.equal(value, own.encoder.frozen[name]) for name, value in constants.items())
    x = images(16, 12)[0]
    assert torch.equal(
        own.features(method, state, x), own.encoder.encode({"x": x}, own.encoder.frozen)["z"]
    )


def test_a_rate_of_zero_over_statistics_is_norm_statistics_bit_for_bit() -> None:
    own = trained()
    plain = NeuroHebbian(own.encoder, Ridge(), rule=STILL, rate=0.0, statistics_rate=1.0)
    tent = Tent(own.encoder, Ridge(), rate=0.0)
    x = dimmed(images(64, 13)[0])
    one = plain.refold({}, own.refreshed(plain, own.state(plain), x)[0])[1]
    two = tent.refold({}, own.refreshed(tent, own.state(tent), x)[0])[1]
    assert set(two) < set(one) and all(torch.equal(one[name], two[name]) for name in two)


def test_samples_that_the_head_is_unsure_of_have_no_part_in_the_third_factor() -> None:
    own = trained()
    method = ThreeFactorHebbian(
        own.encoder, Ridge(), rule=SoftHebbian(rate=0.05), over_statistics=False
    )
    x, y = images(96, 14)
    given = {**own.state(method), "head.weight": own.head["head.weight"].clone()}
    # the last two classes look alike: ln 2 is above 0.4 ln 3
    given["head.weight"][:, 2] = given["head.weight"][:, 1]
    only_sure = (y == 0).float()
    alone, beside = (
        method.adapt({"x": x, "sample_weight": weight}, given)[1]["stem.weight"]
        for weight in (only_sure, torch.ones(96))
    )
    plain = Hebbian(own.encoder, rule=SoftHebbian(rate=0.05), over_statistics=False)
    drawn = plain.adapt({"x": x, "sample_weight": torch.ones(96)}, given)[1]["stem.weight"]
    without_the_factor = float((drawn - alone).norm())
    assert float((beside - alone).norm()) < 0.1 * without_the_factor and without_the_factor > 1e-3


def test_the_modulator_lowers_the_entropy_of_what_it_adapted_to() -> None:
    own = trained()
    method = NeuroHebbian(
        own.encoder, Ridge(), rule=STILL, rate=1.0, margin=1.0, over_statistics=False
    )
    x = dimmed(images(96, 15)[0])
    state, entropies = own.state(method), []
    for _ in range(6):
        state, _ = own.refreshed(method, state, x)
        entropies.append(
            float(
                torch.distributions.Categorical(logits=own.logits(method, state, x))
                .entropy()
                .mean()
            )
        )
    assert entropies[-1] < 0.9 * entropies[0] and float(state["modulator.gain"].abs().max()) > 0.01


def test_certainty_about_everything_asks_for_a_reset_and_ordinary_certainty_does_not() -> None:
    own = trained()
    method = NeuroHebbian(own.encoder, Ridge())
    x = images(64, 16)[0]
    state, wishes = {**own.state(method), "head.weight": own.head["head.weight"] * 0.5}, []
    for _ in range(12):
        state, wish = own.refreshed(method, state, x)
        wishes.append(wish)
    assert max(wishes) == 0.0
    collapsed = {**own.state(method), "head.weight": own.head["head.weight"] * 0.0}
    collapsed["head.weight"][-1, 0] = 50.0  # everything is class 0
    wishes = []
    for _ in range(12):
        collapsed, wish = own.refreshed(method, collapsed, x)
        wishes.append(wish)
    assert wishes[0] == 0.0 and wishes[-1] == 1.0


def spec(*shape: int) -> InputSpec:
    return InputSpec(layout="NCHW", dtype="float32", shape=shape, range=(0.0, 1.0))


def test_an_encoder_without_a_stem_to_learn_is_refused_by_name() -> None:
    flat = ModuleEncoder(
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval(),
        InputSpec(layout="NC", dtype="float32", shape=(6,)),
    )
    with pytest.raises(InputError, match="has none"):
        stem_of(flat)
    late = nn.Sequential(
        nn.Conv2d(4, 8, 3),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    with pytest.raises(InputError, match="right behind the first convolution"):
        Hebbian(ModuleEncoder(late.eval(), spec(4, 8, 8)))
    grouped = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    with pytest.raises(InputError, match="one group"):
        Hebbian(ModuleEncoder(grouped.eval(), spec(4, 8, 8)))


def test_a_head_that_looks_its_answers_up_has_no_gradient_for_the_modulator() -> None:
    with pytest.raises(InputError, match="neuro_hebbian"):
        NeuroHebbian(trained().encoder, KeyValueBottleneck())
