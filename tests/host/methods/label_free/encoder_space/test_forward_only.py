"""A modulator found by random search: never worse than where it began, and home again without a
gradient.
"""

from __future__ import annotations

import pytest
import torch
from tiny_trained import dimmed, images, trained

from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.label_free.encoder_space.forward_only import ForwardOnly, _lowest
from edgeadapt.host.methods.label_free.encoder_space.soft_hebbian import SoftHebbian


def cost(method: ForwardOnly, state: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    here = torch.cat([state["modulator.gain"], state["modulator.offset"]])
    return float(method._cost(x, torch.ones(len(x)), state, state["source.stem"], here)[0])


def test_the_parabola_finds_the_minimum_of_a_parabola_and_takes_the_better_side_of_a_hill() -> None:
    def at(place: float, bend: float = 1.0, reach: float = 3.0) -> float:
        below, middle, above = (torch.tensor(bend * (x - place) ** 2) for x in (-1.0, 0.0, 1.0))
        return float(_lowest(below, middle, above, reach))

    assert [at(0.0), at(0.75), at(-2.0)] == pytest.approx([0.0, 0.75, -2.0])
    assert at(8.0) == pytest.approx(3.0)
    assert [at(0.5, bend=-1.0), at(-0.5, bend=-1.0)] == [-1.0, 1.0]


def searched(method: ForwardOnly, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float, float]:
    """Cost before and after three refreshes, and accuracy after them."""
    own, state = trained(), trained().state(method)
    before = cost(method, state, x)
    for seed in range(3):
        state, _ = own.refreshed(method, state, x, seed=seed)
    return (
        before,
        cost(method, state, x),
        float((own.logits(method, state, x).argmax(dim=1) == y).float().mean()),
    )


def test_a_search_brings_the_statistics_of_the_layers_nearer_and_answers_with_them() -> None:
    own = trained()
    x, y = images(96, 31)
    method = ForwardOnly(own.encoder, Ridge(), steps=30)
    right = float(
        (own.logits(method, own.state(method), dimmed(x)).argmax(dim=1) == y).float().mean()
    )
    before, after, answers = searched(method, dimmed(x), y)
    assert after < 0.7 * before and right < 0.75 < 0.95 < answers


def test_entropy_alone_is_lowest_where_classes_fall_together() -> None:
    x, y = images(96, 31)
    before, after, answers = searched(
        ForwardOnly(trained().encoder, Ridge(), steps=30, distance=0.0, spread=0.3), dimmed(x), y
    )
    assert after < 0.1 * before and answers < 0.75


def test_on_clean_inputs_the_answers_stay() -> None:
    own = trained()
    method = ForwardOnly(own.encoder, Ridge(), steps=20)
    x, y = images(96, 32)
    state, wish = own.refreshed(method, own.state(method), x)
    assert (
        float((own.logits(method, state, x).argmax(dim=1) == y).float().mean()) > 0.97
        and wish == 0.0
    )


def test_without_reach_the_source_is_left_bit_for_bit() -> None:
    own = trained()
    for method in (
        ForwardOnly(own.encoder, Ridge(), reach=0.0),
        ForwardOnly(own.encoder, Ridge(), spread=0.0, rule=SoftHebbian(rate=0.0)),
    ):
        state, _ = own.refreshed(method, own.state(method), dimmed(images(64, 33)[0]))
        constants = method.refold({}, state)[1]
        assert constants and all(
            torch.equal(value, own.encoder.frozen[name]) for name, value in constants.items()
        )


def test_noise_decides_where_it_looks_and_the_same_noise_finds_the_same() -> None:
    own = trained()
    method = ForwardOnly(own.encoder, Ridge(), steps=2)
    x = dimmed(images(64, 34)[0])
    one, again, other = (
        own.refreshed(method, own.state(method), x, seed=seed)[0]["modulator.gain"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and float((one - other).abs().max()) > 1e-3


def test_with_a_rule_the_filters_learn_as_well() -> None:
    own = trained()
    method = ForwardOnly(own.encoder, Ridge(), steps=2, rule=SoftHebbian(rate=0.02))
    state, _ = own.refreshed(method, own.state(method), dimmed(images(64, 35)[0]))
    constants = method.refold({}, state)[1]
    assert (method.name, ForwardOnly(own.encoder, Ridge()).name) == (
        "hebbian_evolved",
        "forward_only",
    )
    assert sorted(constants) == ["encoder.0.weight", "encoder.1.scale", "encoder.1.shift"]
    assert not torch.equal(constants["encoder.0.weight"], own.encoder.frozen["encoder.0.weight"])
