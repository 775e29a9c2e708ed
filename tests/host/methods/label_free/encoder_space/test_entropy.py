"""Entropy steps on gains and offsets: they lower what they say they lower, stop where they should,
and fold into the encoder.
"""

from __future__ import annotations

import math

import pytest
import torch
from tiny_trained import SLOTS, dimmed, images, trained

from edgeadapt.errors import InputError
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.label_free.encoder_space.entropy import GuardedEntropy, Tent
from edgeadapt.host.methods.label_free.encoder_space.predictive_entropy import (
    entropy_of,
    reliability,
)
from edgeadapt.host.steps.optimisers import SGD


def mean_entropy(method: Tent, state: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    return float(entropy_of(trained().logits(method, state, x)).mean())


def test_the_entropy_of_logits_leaves_unused_slots_out() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, -1e9, -1e9], [50.0, 0.0, 0.0, -1e9, -1e9]])
    torch.testing.assert_close(entropy_of(logits), torch.tensor([math.log(3), 0.0]))


def test_reliability_is_exp_of_the_margin_below_it_and_nothing_above() -> None:
    most = torch.tensor(math.log(10))
    weight = reliability(torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0]) * most, most)
    torch.testing.assert_close(
        weight[:2], torch.exp(torch.tensor([0.4, 0.2]) * most), rtol=0.02, atol=0
    )
    assert 0.4 < float(weight[2]) < 0.6 and float(weight[3]) < 0.02 and float(weight[4]) < 1e-4


def test_steps_lower_the_entropy_of_the_memory_below_that_of_norm_statistics() -> None:
    own = trained()
    x = dimmed(images(96, 21)[0])
    still, tent = Tent(own.encoder, Ridge(), rate=0.0), Tent(own.encoder, Ridge(), rate=0.02)
    state = own.refreshed(still, own.state(still), x)[0]
    statistics = mean_entropy(still, state, x)
    state = own.state(tent)
    for _ in range(8):
        state = own.refreshed(tent, state, x)[0]
    assert (
        mean_entropy(tent, state, x)
        < 0.7 * statistics
        < statistics
        < mean_entropy(tent, own.state(tent), x)
    )


def test_a_step_is_the_gradient_of_the_mean_entropy_by_autograd() -> None:
    own = trained()
    method = Tent(own.encoder, Ridge(), rate=0.5, optimiser=SGD())
    x, state = dimmed(images(48, 22)[0]), own.state(method)
    state["norm.gain"] = torch.zeros(36, requires_grad=True)
    passed = method._pass(
        x, torch.ones(48), state, state["norms.gain"] + state["norm.gain"], state["norms.offset"]
    )
    (slope,) = torch.autograd.grad(
        entropy_of(Ridge().predict(state, passed.z)).mean(), state["norm.gain"]
    )
    moved = method.adapt({"x": x, "sample_weight": torch.ones(48)}, own.state(method))[1][
        "norm.gain"
    ]
    torch.testing.assert_close(moved, -0.5 * slope, rtol=1e-3, atol=1e-6)


def test_the_anchor_keeps_the_guarded_form_near_the_source() -> None:
    own = trained()
    x = dimmed(images(96, 23)[0])
    lengths = []
    for anchor in (0.0, 0.5):
        method = GuardedEntropy(own.encoder, Ridge(), rate=0.1, anchor=anchor, margin=1.0)
        state = own.state(method)
        for _ in range(8):
            state = own.refreshed(method, state, x)[0]
        lengths.append(float(state["norm.gain"].norm()))
    assert 0 < lengths[1] < 0.3 * lengths[0]


def test_predictions_like_the_average_are_redundant() -> None:
    own = trained()
    method = GuardedEntropy(own.encoder, Ridge(), alike=0.5)
    x, y = images(96, 24)
    state = {
        **own.state(method),
        "entropy.prediction": torch.nn.functional.one_hot(torch.tensor(0), SLOTS).float(),
    }
    weight = method._weigh(state, own.logits(method, own.state(method), x))
    assert float(weight[y == 0].max()) < 0.01 and float(weight[y == 1].min()) > 0.5


def test_a_collapse_asks_for_a_reset_within_a_dozen_refreshes() -> None:
    own = trained()
    x = images(64, 25)[0]
    method = GuardedEntropy(own.encoder, Ridge(), rate=0.0)
    collapsed, wishes = own.state(method), []
    collapsed["head.weight"] = torch.zeros_like(collapsed["head.weight"])
    collapsed["head.weight"][-1, 1] = 60.0
    for _ in range(12):
        collapsed, wish = own.refreshed(method, collapsed, x)
        wishes.append(wish)
    assert wishes[0] == 0.0 and wishes[-1] == 1.0
    # all is unsure: nothing to reset
    flat = {**own.state(method), "head.weight": torch.zeros_like(own.head["head.weight"])}
    for _ in range(12):
        flat, wish = own.refreshed(method, flat, x)
    assert wish == 0.0


@pytest.mark.parametrize("method", [Tent, GuardedEntropy])
def test_a_head_that_looks_its_answers_up_is_refused(method: type[Tent]) -> None:
    with pytest.raises(InputError, match="gradient"):
        method(trained().encoder, KeyValueBottleneck())
