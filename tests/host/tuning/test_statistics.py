"""Second moments are of what the weight is multiplied with: they give the energy of the outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.sites import sites_of
from edgeadapt.host.tuning.statistics import Statistics

CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": (2, 0), "dilation": (1, 2)},
    {"groups": 2, "padding": 1},
    {"groups": 4},
    {"padding": "same"},
    {"padding": "valid", "dilation": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect", "stride": (1, 2)},
]


def collect(layer: nn.Module, x: Tensor, wants: set[str]) -> tuple[Any, Statistics]:
    net = nn.Sequential(layer).eval()
    sites = sites_of(net, x)
    halves = [(part, torch.zeros(len(part))) for part in x.chunk(2)]
    found = Statistics.collect(net, halves, sites, wants, loss=lambda out, _: out.square().sum())
    return sites[0], found


def check_energy(layer: Any, x: Tensor, axis: int) -> None:
    """mean(y_i^2) = w_i C w_i, with and without gradients."""
    with torch.no_grad():
        outputs = layer(x).movedim(axis, 0).flatten(1).square().mean(1)
    for wants in ({"second_moment"}, {"second_moment", "squared_gradient"}):
        site, statistics = collect(layer, x, wants)
        weight, moment = site.matrix(layer.weight.detach()), statistics.of("second_moment", site)
        assert moment.shape == (site.groups, weight.shape[2], weight.shape[2])
        energy = (weight @ moment @ weight.transpose(1, 2)).diagonal(dim1=1, dim2=2).flatten()
        assert torch.allclose(energy, outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_the_moment_of_patches_gives_the_energy_of_the_outputs(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, 7, 9) + 0.5
    check_energy(nn.Conv2d(4, 8, (3, 2), bias=False, **options), x, 1)


@pytest.mark.parametrize(
    "options", [{}, {"padding": "same", "dilation": 3}, {"groups": 2, "stride": 3, "padding": 2}]
)
def test_the_moment_of_signals_gives_the_energy_of_the_outputs(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    check_energy(nn.Conv1d(4, 6, 4, bias=False, **options), torch.randn(6, 4, 20) - 0.3, 1)


def test_the_moment_of_a_linear_layer_is_over_all_places() -> None:
    torch.manual_seed(0)
    check_energy(nn.Linear(5, 7, bias=False), torch.randn(6, 3, 5), -1)


def test_volumes_norms_and_embeddings_have_no_moment() -> None:
    with pytest.raises(InputError, match="0: no patches of a convolution over 3 axes"):
        collect(nn.Conv3d(1, 2, 2), torch.randn(2, 1, 3, 3, 3), {"second_moment"})
    site, statistics = collect(nn.LayerNorm(4), torch.randn(4, 4), {"second_moment"})
    with pytest.raises(InputError, match="0: no second_moment of a norm was collected"):
        statistics.of("second_moment", site)


def test_a_network_is_not_changed_by_statistics() -> None:
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    collect(layer, torch.randn(6, 4), {"second_moment", "squared_gradient"})
    assert torch.equal(layer.weight, before) and layer.weight.grad is None
    assert layer.weight.requires_grad
