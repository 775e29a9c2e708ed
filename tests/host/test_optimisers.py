"""The optimisers against torch's own, and the promise that nothing moves without a live sample."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeadapt.host import gradient_step
from edgeadapt.host.compile import compile_step
from edgeadapt.host.steps.optimisers import LAMB, SGD, Adam, AdamW, Momentum
from edgeadapt.host.training.lamb import Lamb

STEPS, RATE = 20, 0.05
PAIRS = {
    "SGD": (SGD(), lambda p: torch.optim.SGD(p, RATE)),
    "momentum": (Momentum(0.9), lambda p: torch.optim.SGD(p, RATE, momentum=0.9)),
    "Adam": (Adam(), lambda p: torch.optim.Adam(p, RATE, eps=1e-6)),
    "Adam, other moments": (
        Adam(0.8, 0.95, 1e-5),
        lambda p: torch.optim.Adam(p, RATE, (0.8, 0.95), 1e-5),
    ),
    "AdamW": (AdamW(0.1), lambda p: torch.optim.AdamW(p, RATE, eps=1e-6, weight_decay=0.1)),
    "LAMB": (LAMB(weight_decay=0.1), lambda p: lamb(p, weight_decay=0.1)),
    "LAMB, other moments": (LAMB(0.8, 0.95, 1e-5), lambda p: lamb(p, betas=(0.8, 0.95), eps=1e-5)),
}


def lamb(tensors, **settings):
    """The optimiser of the trainer, grouped as the trainer groups."""
    matrices = [p for p in tensors if p.ndim >= 2]
    return Lamb(
        [
            {"params": matrices},
            {"params": [p for p in tensors if p.ndim < 2], "trust_ratio": False},
        ],
        RATE,
        **settings,
    )


def parameters():
    generator = torch.Generator().manual_seed(0)
    return {
        "head.weight": torch.randn(3, 5, generator=generator),
        "head.bias": torch.randn(3, generator=generator),
    }


def slopes(values, step):
    """Of a quadratic bowl that moves, so that the moments never settle."""
    return {
        name: 0.7 * value + torch.sin(torch.arange(value.numel()) + step).reshape(value.shape)
        for name, value in values.items()
    }


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
        for key, slope in slopes(
            {key: value.detach() for key, value in theirs.items()}, step
        ).items():
            theirs[key].grad = slope
        reference.step()
    for key, value in mine.items():
        moved = (value - start[key]).abs()
        assert moved.min() > 1e-2
        # 1 - 0.999^t in float32 is off by up to 6e-5 of itself at t = 1
        share = 3e-5 if isinstance(rule, Adam) else 2e-6
        assert (value - theirs[key].detach()).abs().max() <= share * moved.max()


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_moves_while_no_sample_is_live(name):
    rule = PAIRS[name][0]
    values, state = parameters(), rule.state(parameters())
    fresh = rule.update(values, slopes(values, 0), state, RATE, torch.zeros(()))
    for after, before in zip(fresh, (values, state), strict=True):
        assert all(torch.equal(after[key], before[key]) for key in before)
    # now there are moments to decay
    values, state = rule.update(values, slopes(values, 0), state, RATE, torch.ones(()))
    idle = rule.update(values, slopes(values, 1), state, torch.tensor(RATE), torch.zeros(()))
    for after, before in zip(idle, (values, state), strict=True):
        assert set(after) == set(before)
        assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_learning_rate_may_be_a_tensor():
    for rule, _ in PAIRS.values():
        number, tensor = (
            rule.update(parameters(), slopes(parameters(), 0), rule.state(parameters()), rate)
            for rate in (RATE, torch.tensor(RATE))
        )
        assert all(torch.allclose(number[0][key], tensor[0][key], atol=1e-7) for key in number[0])


def test_momentum_keeps_the_rate_a_velocity_was_made_with():
    """The classical form: after the rate drops to 0 the old velocity still moves the parameters,
    unlike in torch.
    """
    rule, start = Momentum(0.5), parameters()
    moved, state = rule.update(start, slopes(start, 0), rule.state(start), RATE)
    again, _ = rule.update(moved, slopes(moved, 1), state, 0.0)
    for key in start:
        torch.testing.assert_close(
            again[key] - moved[key], 0.5 * (moved[key] - start[key]), atol=1e-6, rtol=1e-4
        )


def test_adamw_decays_and_adam_does_not():
    zero = {key: torch.zeros_like(value) for key, value in parameters().items()}
    still, _ = Adam().update(parameters(), zero, Adam().state(parameters()), RATE)
    decayed, _ = AdamW(0.1).update(parameters(), zero, AdamW(0.1).state(parameters()), RATE)
    for key, value in parameters().items():
        assert torch.equal(still[key], value)
        torch.testing.assert_close(decayed[key], value * (1 - RATE * 0.1))


def published(p, slopes, rate, decay, eps=1e-6, betas=(0.9, 0.999)):
    """Algorithm 2 of the paper for one tensor, in float64."""
    p = p.astype(np.float64)
    m = s = np.zeros_like(p)
    for t, g in enumerate(slopes, 1):
        m, s = betas[0] * m + (1 - betas[0]) * g, betas[1] * s + (1 - betas[1]) * g * g
        u = m / (1 - betas[0] ** t) / (np.sqrt(s / (1 - betas[1] ** t)) + eps) + decay * p
        p = p - rate * np.linalg.norm(p) / np.linalg.norm(u) * u
    return p


def test_lamb_is_the_published_rule():
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=(4, 6)), draw.normal(size=(12, 4, 6))
    want = published(start, gradients, RATE, 0.1)
    values = {"a.b": torch.tensor(start, dtype=torch.float32)}
    rule = LAMB(weight_decay=0.1)
    state = LAMB().state(values)
    trained = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimiser = Lamb([trained], RATE, weight_decay=0.1)
    for g in torch.tensor(gradients, dtype=torch.float32):
        values, state = rule.update(values, {"a.b": g}, state, RATE)
        trained.grad = g
        optimiser.step()
    moved = np.abs(want - start).max()
    assert moved > 0.1
    for got in (values["a.b"].numpy(), trained.detach().numpy()):
        assert np.abs(got - want).max() < 1e-4 * moved


def test_a_step_of_lamb_is_as_long_as_a_share_of_the_tensor_whatever_the_gradient():
    start, rule = parameters(), LAMB()
    lengths = []
    for factor in (1.0, 1000.0):
        new, _ = rule.update(
            start,
            {name: factor * g for name, g in slopes(start, 0).items()},
            rule.state(start),
            RATE,
        )
        lengths.append((new["head.weight"] - start["head.weight"]).norm())
    torch.testing.assert_close(lengths[0], RATE * start["head.weight"].norm(), rtol=1e-4, atol=0)
    torch.testing.assert_close(lengths[0], lengths[1], rtol=1e-4, atol=0)


def test_tensors_without_trust_ratio_follow_adam_bit_for_bit():
    start = {**parameters(), "adaptor.up": torch.zeros(3, 5)}
    gradients = {name: torch.full_like(p, 0.3) for name, p in start.items()}
    rules = LAMB(weight_decay=0.1, excluded=("adaptor.up",)), Adam()
    with_lamb, with_adam = (
        rule.update(start, gradients, rule.state(start), RATE)[0] for rule in rules
    )
    assert torch.equal(with_lamb["head.bias"], with_adam["head.bias"]) and torch.equal(
        with_lamb["adaptor.up"], with_adam["adaptor.up"]
    )
    assert not torch.allclose(with_lamb["head.weight"], with_adam["head.weight"])


@pytest.mark.parametrize("is_pure", [True, False])
def test_lamb_leaves_zero_and_stays_finite_without_a_gradient(is_pure):
    for value, slope in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        p, g = torch.full((2, 3), value), torch.full((2, 3), slope)
        if is_pure:
            new = LAMB().update({"a.b": p}, {"a.b": g}, LAMB().state({"a.b": p}), RATE)[0]["a.b"]
        else:
            trained = nn.Parameter(p.clone())
            trained.grad = g
            Lamb([trained], RATE).step()
            new = trained.detach()
        assert bool(new.isfinite().all())
        torch.testing.assert_close(new, p - RATE * slope, atol=1e-5, rtol=0)


def test_lamb_as_a_graph_takes_the_trainers_steps():
    """The pure form through the compiler and onnxruntime, the other form in torch: five steps on
    the same batches.
    """

    def make_ports(generator, batch):
        x = torch.randn(batch, 6, generator=generator)
        y = torch.randint(0, 4, (batch,), generator=generator)
        return {"x": x, "y": y, "sample_weight": torch.ones(batch)}

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))
    step = gradient_step(
        module,
        lambda out, p: F.cross_entropy(out, p["y"], reduction="none"),
        LAMB(weight_decay=0.1),
        learning_rate=RATE,
    )
    graph = compile_step("lamb", step.fn, make_ports, step.tensors, frozen=step.frozen)
    assert graph.parity.cases >= 18 and graph.parity.median_error <= 1e-5
    session = onnxruntime.InferenceSession(graph.model, providers=["CPUExecutionProvider"])
    inputs, outputs = (
        [port.name for port in ports] for ports in (session.get_inputs(), session.get_outputs())
    )
    tensors = {name: value.detach().numpy() for name, value in step.tensors.items()}
    before = {name: value.copy() for name, value in tensors.items()}
    optimiser = lamb(list(module.parameters()), weight_decay=0.1)
    for seed in range(5):
        ports = make_ports(torch.Generator().manual_seed(seed), 8)
        given = {**tensors, **{name: value.numpy() for name, value in ports.items()}}
        named = dict(
            zip(outputs, session.run(None, {name: given[name] for name in inputs}), strict=True)
        )
        tensors |= {name: named[f"{name}.next"] for name in graph.writes}
        optimiser.zero_grad()
        F.cross_entropy(module(ports["x"]), ports["y"]).backward()
        optimiser.step()
    for name, value in module.named_parameters():
        moved = np.abs(tensors[f"model.{name}"] - before[f"model.{name}"]).max()
        assert moved > 0.02
        assert np.abs(tensors[f"model.{name}"] - value.detach().numpy()).max() < 1e-3 * moved, name
