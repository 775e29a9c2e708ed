"""Scores: the suite, its stubs, and that what matters gets the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.tuning import members
from edgeadapt.host.tuning.allocate import allocate
from edgeadapt.host.tuning.deltas.kronecker import Kronecker
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.deltas.scale_shift import ScaleShift
from edgeadapt.host.tuning.deltas.two_sided import TwoSided
from edgeadapt.host.tuning.plan import Plan, numbers_at, planned
from edgeadapt.host.tuning.scores.explained_variance import ExplainedVariance
from edgeadapt.host.tuning.scores.squared_gradient import SquaredGradient
from edgeadapt.host.tuning.sites import Site, sites_of
from edgeadapt.host.tuning.statistics import Statistics
from edgeadapt.testing import check_score
from edgeadapt.testing._tuning_stubs import score_stubs
from edgeadapt.testing._tuning_toy import Toy

SCORES = [
    (ExplainedVariance(), LowRank()),
    (SquaredGradient(), LowRank()),
    (SquaredGradient(), TwoSided()),
    (SquaredGradient(), Kronecker()),
    (SquaredGradient(), ScaleShift()),
]


def test_every_score_that_a_recipe_can_name_is_checked() -> None:
    assert {score.name for score, _ in SCORES} == set(members.SCORES)


@pytest.mark.parametrize(("score", "delta"), SCORES, ids=str)
def test_every_score_keeps_the_promises_of_the_suite(score: Any, delta: Any) -> None:
    check_score(score, delta)


@pytest.mark.parametrize(("score", "delta"), SCORES, ids=str)
def test_every_stub_of_every_score_is_found_out(score: Any, delta: Any) -> None:
    for label, stub in score_stubs(score).items():
        try:
            check_score(stub, delta)
        except AssertionError as error:
            assert str(error).startswith(f"{score.name}: cost: "), label
        else:
            pytest.fail(f"check_score passes although it {label}")


def spread(score: Any, delta: Any, sites: tuple[Site, ...], s: Statistics, budget: int) -> Plan:
    numbers = [[numbers_at(delta, site, n) for n in delta.sizes(site)] for site in sites]
    chosen = allocate([score.cost(site, delta, s) for site in sites], numbers, budget)
    sizes = [delta.sizes(site)[one] for site, one in zip(sites, chosen, strict=True)]
    return planned(delta, sites, sizes, {})


def test_the_layer_whose_optimum_moved_gets_most_of_the_budget() -> None:
    """Of a residual network of four equal blocks, one has lost its weights."""
    torch.manual_seed(1)

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(
                [layer(part) for layer, part in zip(self.layers, x.split(16, 1), strict=True)], 1
            )

    net = Blocks().eval()
    x = torch.randn(256, 64)
    with torch.no_grad():
        goal = net(x)
        net.layers[2].weight += 0.3 * torch.randn(16, 16)
        for one in (0, 1, 3):
            net.layers[one].weight += 0.003 * torch.randn(16, 16)
    sites = sites_of(net, x)
    batches = list(zip(x.split(32), goal.split(32), strict=True))
    statistics = Statistics.collect(
        net, batches, sites, {"squared_gradient"}, loss=nn.functional.mse_loss
    )
    for delta, budget in ((LowRank(), 200), (Kronecker(), 150)):
        plan = spread(SquaredGradient(), delta, sites, statistics, budget)
        size = dict(zip(plan.sites, plan.sizes, strict=True))[sites[2]]
        assert numbers_at(delta, sites[2], size) >= 0.8 * plan.numbers
        assert plan.numbers <= budget
        assert budget - plan.numbers < 32  # one more term would be above it


def test_the_site_whose_inputs_vary_gets_the_ranks_and_they_add_up_to_the_budget() -> None:
    torch.manual_seed(2)

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.varied, self.dull = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.varied(x) + self.dull(x[:, :1].expand(-1, 16))

    net, x = Fork().eval(), torch.randn(512, 16)
    sites = sites_of(net, x)
    statistics = Statistics.collect(net, [(x, x)], sites, {"second_moment"})
    costs = [ExplainedVariance().cost(site, LowRank(), statistics) for site in sites]
    assert costs[1][0] == 1.0 and costs[1][1] == pytest.approx(0.0, abs=1e-6)
    plan = spread(ExplainedVariance(), LowRank(), sites, statistics, 6 * 32)
    assert dict(zip((site.path for site in plan.sites), plan.sizes, strict=True)) == {
        "varied": 5,
        "dull": 1,
    }
    assert plan.numbers == 6 * 32


def test_the_cost_is_the_sum_of_what_is_reached() -> None:
    site = Site("w", "linear", "w.weight", "", (4, 5), 1, 0.0, "", 0)
    squares = torch.arange(20.0).reshape(4, 5)
    statistics = Statistics({("squared_gradient", "w"): squares})
    sizes = LowRank().sizes(site)
    assert sizes == (0, 1, 2)
    assert SquaredGradient().cost(site, LowRank(), statistics) == [
        0.0,
        -sum(range(11, 20)),
        -sum(range(2, 20)),
    ]
    with pytest.raises(InputError, match="w: no second_moment of a linear was collected"):
        ExplainedVariance().cost(site, LowRank(), statistics)


def test_a_statistic_that_there_is_not_is_refused() -> None:
    toy = Toy.made()
    with pytest.raises(InputError, match="no statistic 'path'; there are second_moment"):
        toy.statistics(frozenset({"path"}), toy.sites)


def test_squared_gradients_are_those_of_the_loss_summed_over_batches() -> None:
    toy = Toy.made()
    statistics = toy.statistics(frozenset({"squared_gradient"}), toy.sites)
    total: dict[str, Tensor] = {}
    for rows in (slice(12), slice(12, None)):
        toy.network.zero_grad()
        nn.functional.cross_entropy(toy.network(toy.x[rows]), toy.y[rows]).backward()
        for site in toy.sites:
            gradient = toy.network.get_parameter(site.weight).grad
            total[site.path] = total.get(site.path, torch.zeros(())) + gradient**2
    for site in toy.sites:
        found = statistics.of("squared_gradient", site)
        assert torch.allclose(found, total[site.path], rtol=1e-4, atol=1e-10)
