"""A tuned network: the base untouched, norms as they were, and a merge that computes the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.deltas.scale_shift import ScaleShift
from edgeadapt.host.tuning.deltas.whole import Bias, Full
from edgeadapt.host.tuning.network import TunedNetwork
from edgeadapt.host.tuning.plan import Plan, key_of, planned, uniform_plan
from edgeadapt.host.tuning.sites import sites_of
from edgeadapt.host.tuning.starts.context_oriented import ContextOriented
from edgeadapt.testing._tuning_toy import Toy

WHOLE = {"head.weight": (5, 12), "head.bias": (5,)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tuned(delta: Any, size: int = 2, noise: float = 0.3) -> tuple[Toy, TunedNetwork]:
    """A delta at all sites but the head, which is trained whole, with noise on its numbers."""
    toy = Toy.made()
    plan = uniform_plan(delta, toy.sites[:-1], size, WHOLE)
    g = seeded(7)
    values = {name: toy.weights[name] for name in WHOLE}
    for site, size in zip(plan.sites, plan.sizes, strict=True):
        for name, value in delta.start(site, size, toy.weights, g).items():
            change = noise * torch.randn(value.shape, generator=g)
            values[key_of(site, name)] = value + change
    return toy, TunedNetwork(toy.network, plan, values)


@pytest.mark.parametrize("delta", [LowRank(), ScaleShift(), Full(), Bias()], ids=str)
def test_the_merged_network_computes_the_same_bit_for_bit(delta: Any) -> None:
    toy, network = tuned(delta)
    network.eval()
    merged = network.merge()
    with torch.no_grad():
        assert torch.equal(network(toy.x), merged(toy.x))
        assert not torch.allclose(merged(toy.x), toy.network(toy.x), atol=1e-2)
    assert [name for name, _ in merged.named_modules()] == [
        name for name, _ in toy.network.named_modules()
    ]


def test_training_leaves_the_base_and_its_statistics_as_they_were() -> None:
    toy, network = tuned(LowRank())
    before = copy.deepcopy(toy.network.state_dict())
    numbers = {name: value.clone() for name, value in network.values.items()}
    network.train()
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(toy.x), toy.y).backward()
        optimiser.step()
    after = toy.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in toy.network.parameters())
    merged = network.merge().state_dict()
    stays = [name for name in before if "running" in name or "num_batches" in name]
    assert len(stays) == 6 and all(torch.equal(before[name], merged[name]) for name in stays)
    assert all(not torch.equal(value, numbers[name]) for name, value in network.values.items())


def test_training_and_evaluation_use_the_same_statistics() -> None:
    toy, network = tuned(ScaleShift())
    shifted = 5.0 * toy.x + 3.0
    with torch.no_grad():
        assert torch.equal(network.train()(shifted), network.eval()(shifted))
    assert network.train().training and not network.base.training and not toy.network.norm.training
    assert not network.train(False).base.training


def test_nothing_is_dropped_while_it_trains() -> None:
    base = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    x = torch.randn(32, 6, generator=seeded())
    plan = uniform_plan(LowRank(), sites_of(base, x[:1]), 1, {})
    values = {name: torch.zeros(shape) for name, shape in plan.shapes.items()}
    network = TunedNetwork(base, plan, values).train()
    with torch.no_grad():
        assert torch.equal(network(x), base.eval()(x))


def test_the_numbers_are_all_that_is_trained_and_they_have_the_names_of_the_plan() -> None:
    _, network = tuned(LowRank())
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == (
        network.plan.numbers + network.plan.numbers_whole
    )
    assert {name: tuple(value.shape) for name, value in network.values.items()} == (
        network.plan.shapes
    )
    assert "padded:up" in network.values and "head.weight" in network.values
    again = TunedNetwork(network.base, network.plan, network.values)
    assert all(torch.equal(value, again.values[name]) for name, value in network.values.items())


def test_constants_are_kept_and_not_trained() -> None:
    toy = Toy.made()
    sites = tuple(site for site in toy.sites if site.kind == "linear")
    statistics = toy.statistics(frozenset({"second_moment"}), sites)
    plan = uniform_plan(LowRank(), sites, 2, {})
    values = {
        key_of(site, name): value
        for site, size in zip(plan.sites, plan.sizes, strict=True)
        for name, value in ContextOriented()(site, size, toy.weights, statistics, seeded()).items()
    }
    network = TunedNetwork(toy.network, plan, values).eval()
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == plan.numbers == sum(values[name].numel() for name in plan.shapes)
    assert set(network.values) == set(values) and len(values) == 2 * len(plan.shapes)
    assert torch.allclose(network(toy.x), toy.network(toy.x), atol=1e-5)


def test_tied_weights_change_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.decoder = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.decoder.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.decoder(self.embedding(x))
            return out

    net, x = Tied().eval(), torch.tensor([[1, 2, 3]])
    plan = uniform_plan(Full(), sites_of(net, x), 1, {})
    change = torch.randn(7, 4, generator=seeded())
    network = TunedNetwork(net, plan, {"embedding:change": change}).eval()
    weight = net.embedding.weight + change
    with torch.no_grad():
        assert torch.allclose(network(x), weight[x] @ weight.T, atol=1e-6)
        assert torch.equal(network(x), network.merge()(x))


def test_a_plan_counts_what_it_trains_and_drops_what_is_empty() -> None:
    toy = Toy.made()
    plan = planned(LowRank(), toy.sites[:1] + toy.sites[-2:], [2, 0, 1], {})
    assert [site.path for site in plan.sites] == ["padded", "head"]
    assert plan.numbers == 2 * (8 + 27) + (5 + 12) and plan.numbers_whole == 0
    most = uniform_plan(LowRank(), toy.sites, 10**6, {})
    assert all(
        size == LowRank().sizes(site)[-1] for site, size in zip(most.sites, most.sizes, strict=True)
    )


def test_a_plan_without_a_first_value_is_refused() -> None:
    toy = Toy.made()
    plan = Plan(Bias(), toy.sites[:1], (1,), {})
    with pytest.raises(InputError, match="trains padded:shift, which has no first value"):
        TunedNetwork(toy.network, plan, {})
