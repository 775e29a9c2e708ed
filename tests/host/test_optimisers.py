"""The optimisers against torch's own, and the promise that nothing moves without a live sample."""

from __future__ import annotations

import pytest
import torch

from edgeadapt.host.optimisers import SGD, Adam, AdamW, Momentum

STEPS, RATE = 20, 0.05
PAIRS = {
    "SGD": (SGD(), lambda p: torch.optim.SGD(p, RATE)),
    "momentum": (Momentum(0.9), lambda p: torch.optim.SGD(p, RATE, momentum=0.9)),
    "Adam": (Adam(), lambda p: torch.optim.Adam(p, RATE, eps=1e-6)),
    "Adam, other moments": (Adam(0.8, 0.95, 1e-5), lambda p: torch.optim.Adam(p, RATE, (0.8, 0.95), 1e-5)),
    "AdamW": (AdamW(0.1), lambda p: torch.optim.AdamW(p, RATE, eps=1e-6, weight_decay=0.1)),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return {"head.weight": torch.randn(3, 5, generator=generator), "head.bias": torch.randn(3, generator=generator)}


def slopes(values, step):
    """Of a quadratic bowl that moves, so that the moments never settle."""
    return {name: 0.7 * value + torch.sin(torch.arange(value.numel()) + step).reshape(value.shape) for name, value in values.items()}


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_twenty_steps_are_torchs(name, is_gated):
    rule, other = PAIRS[name]
    mine = parameters()
    theirs = {key: value.clone().requires_grad_() for key, value in mine.items()}
    reference, state = other(list(theirs.values())), rule.state(mine)
    live = torch.ones(()) if is_gated else None
    start = parameters()
    for step in range(STEPS):
        mine, state = rule.update(mine, slopes(mine, step), state, RATE, live)
        for key, slope in slopes({key: value.detach() for key, value in theirs.items()}, step).items():
            theirs[key].grad = slope
        reference.step()
    for key, value in mine.items():
        moved = (value - start[key]).abs()
        assert moved.min() > 1e-2
        share = 3e-5 if isinstance(rule, Adam) else 2e-6  # 1 - 0.999^t in float32 is off by up to 6e-5 of itself at t = 1
        assert (value - theirs[key].detach()).abs().max() <= share * moved.max()


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_moves_while_no_sample_is_live(name):
    rule = PAIRS[name][0]
    values, state = parameters(), rule.state(parameters())
    fresh = rule.update(values, slopes(values, 0), state, RATE, torch.zeros(()))
    for after, before in zip(fresh, (values, state), strict=True):
        assert all(torch.equal(after[key], before[key]) for key in before)
    values, state = rule.update(values, slopes(values, 0), state, RATE, torch.ones(()))  # now there are moments to decay
    idle = rule.update(values, slopes(values, 1), state, torch.tensor(RATE), torch.zeros(()))
    for after, before in zip(idle, (values, state), strict=True):
        assert set(after) == set(before)
        assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_learning_rate_may_be_a_tensor():
    for rule, _ in PAIRS.values():
        number, tensor = (rule.update(parameters(), slopes(parameters(), 0), rule.state(parameters()), rate) for rate in (RATE, torch.tensor(RATE)))
        assert all(torch.allclose(number[0][key], tensor[0][key], atol=1e-7) for key in number[0])


def test_momentum_keeps_the_rate_a_velocity_was_made_with():
    """The classical form: after the rate drops to 0 the old velocity still moves the parameters, unlike in torch."""
    rule, start = Momentum(0.5), parameters()
    moved, state = rule.update(start, slopes(start, 0), rule.state(start), RATE)
    again, _ = rule.update(moved, slopes(moved, 1), state, 0.0)
    for key in start:
        torch.testing.assert_close(again[key] - moved[key], 0.5 * (moved[key] - start[key]), atol=1e-6, rtol=1e-4)


def test_adamw_decays_and_adam_does_not():
    zero = {key: torch.zeros_like(value) for key, value in parameters().items()}
    still, _ = Adam().update(parameters(), zero, Adam().state(parameters()), RATE)
    decayed, _ = AdamW(0.1).update(parameters(), zero, AdamW(0.1).state(parameters()), RATE)
    for key, value in parameters().items():
        assert torch.equal(still[key], value)
        torch.testing.assert_close(decayed[key], value * (1 - RATE * 0.1))
